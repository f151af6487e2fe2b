"""What augmentation does to a picture, one table of operations and the policies made of them.

An operation takes an RGB picture, uint8 [height, width, 3], and a strength in [-1, 1], and gives one of the
same size. OpenCV does the work: three to seven times faster than Pillow or TensorFlow on a processor, and
without Python's lock, so that threads run side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

cv2.setNumThreads(0)  # the pictures of a batch run side by side already

FILL = (128, 128, 128)  # what comes in from outside
MAX_ROTATE = 30  # degrees; the largest values are those of AutoAugment, arXiv 1805.09501, table 6
MAX_SHEAR = 0.3
MAX_TRANSLATE = 0.45  # of the side: 150 of 331 pixels
MAX_ENHANCE = 0.9  # a factor between 0.1 and 1.9
LUMA = np.array([0.299, 0.587, 0.114])
LEVELS = np.arange(256)
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13

Operation = Callable[[np.ndarray, float], np.ndarray]


def _through(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Every grey level looked up in a table [256] or, for each channel its own, [3, 256]."""
    levels = np.clip(table, 0, 255).astype(np.uint8)
    return cv2.LUT(image, np.ascontiguousarray(levels.T).reshape(1, 256, -1))


def _histogram(image: np.ndarray) -> np.ndarray:
    counts = [cv2.calcHist([image], [i], None, [256], [0, 256]) for i in range(3)]
    return np.reshape(counts, (3, 256)).astype(np.int64)


def autocontrast(image: np.ndarray, strength: float = 0) -> np.ndarray:
    """Each channel stretched to 0-255; one of a single level stays."""
    table = []
    for counts in _histogram(image):
        low, high = np.flatnonzero(counts)[[0, -1]]
        table.append((LEVELS - low) * (255 / (high - low)) if high > low else LEVELS)
    return _through(image, np.array(table))


def equalize(image: np.ndarray, strength: float = 0) -> np.ndarray:
    """Each channel with a histogram as flat as it can be; its topmost level does not count."""
    table = []
    for counts in _histogram(image):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        table.append((below + step // 2) // step if step else LEVELS)
    return _through(image, np.array(table))


def invert(image: np.ndarray, strength: float = 0) -> np.ndarray:
    """The negative."""
    return cv2.bitwise_not(image)


def posterize(image: np.ndarray, strength: float) -> np.ndarray:
    """The 8 to 4 highest bits of each level."""
    dropped = round(4 * strength)
    return _through(image, LEVELS >> dropped << dropped)


def solarize(image: np.ndarray, strength: float) -> np.ndarray:
    """The levels above a threshold inverted: none at strength 0, all at 1."""
    return _through(image, np.where(256 * (1 - strength) > LEVELS, LEVELS, 255 - LEVELS))


def brighten(image: np.ndarray, factor: float) -> np.ndarray:
    """Every level times `factor`."""
    return _through(image, LEVELS * factor)


def stretch(image: np.ndarray, factor: float) -> np.ndarray:
    """The distance of every level from the picture's mean grey times `factor`."""
    mean = math.floor(LUMA @ cv2.mean(image)[:3] + 0.5)
    return _through(image, mean + factor * (LEVELS - mean))


def saturate(image: np.ndarray, factor: float) -> np.ndarray:
    """The distance of every pixel from its own grey times `factor`."""
    return cv2.addWeighted(image, factor, grayscale(image), 1 - factor, 0)


def grayscale(image: np.ndarray, strength: float = 0) -> np.ndarray:
    """Grey, still as RGB."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def brightness(image: np.ndarray, strength: float) -> np.ndarray:
    """Away from black, or towards it."""
    return brighten(image, 1 + MAX_ENHANCE * strength)


def contrast(image: np.ndarray, strength: float) -> np.ndarray:
    """Away from the mean grey, or towards it."""
    return stretch(image, 1 + MAX_ENHANCE * strength)


def color(image: np.ndarray, strength: float) -> np.ndarray:
    """Away from grey, or towards it."""
    return saturate(image, 1 + MAX_ENHANCE * strength)


def sharpness(image: np.ndarray, strength: float) -> np.ndarray:
    """Away from the smoothed picture, or towards it."""
    factor = 1 + MAX_ENHANCE * strength
    return cv2.addWeighted(image, factor, cv2.filter2D(image, -1, SMOOTH), 1 - factor, 0)


def _warp(image: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """At each (x, y) the pixel that holds matrix [2, 3] times (x, y, 1), as in the papers' code.

    The middle of the first pixel is at (0.5, 0.5).
    """
    matrix = np.array(matrix, float)
    matrix[:, 2] += (matrix[:, 0] + matrix[:, 1] - 1) / 2  # OpenCV has it at (0, 0)
    how = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=how, borderValue=FILL)


def rotate(image: np.ndarray, strength: float) -> np.ndarray:
    """Turned about its centre, anticlockwise."""
    angle = math.radians(MAX_ROTATE * strength)
    cos, sin = math.cos(angle), math.sin(angle)
    y, x = image.shape[0] / 2, image.shape[1] / 2
    return _warp(image, [[cos, -sin, x - cos * x + sin * y], [sin, cos, y - sin * x - cos * y]])


def shear_x(image: np.ndarray, strength: float) -> np.ndarray:
    """Rows moved sideways, the lower the further."""
    return _warp(image, [[1, MAX_SHEAR * strength, 0], [0, 1, 0]])


def shear_y(image: np.ndarray, strength: float) -> np.ndarray:
    """Columns moved up or down, those to the right further."""
    return _warp(image, [[1, 0, 0], [MAX_SHEAR * strength, 1, 0]])


def translate_x(image: np.ndarray, strength: float) -> np.ndarray:
    """Moved sideways."""
    return _warp(image, [[1, 0, MAX_TRANSLATE * strength * image.shape[1]], [0, 1, 0]])


def translate_y(image: np.ndarray, strength: float) -> np.ndarray:
    """Moved up or down."""
    return _warp(image, [[1, 0, 0], [0, 1, MAX_TRANSLATE * strength * image.shape[0]]])


def identity(image: np.ndarray, strength: float = 0) -> np.ndarray:
    """The picture as it is."""
    return image


_UNSIGNED = (identity, autocontrast, equalize, invert, posterize, solarize)
_SIGNED = (color, contrast, brightness, sharpness, rotate)
_SIGNED += (shear_x, shear_y, translate_x, translate_y)

OPERATIONS: dict[str, Operation] = {f.__name__: f for f in _UNSIGNED + _SIGNED}
SIGNED = frozenset(f.__name__ for f in _SIGNED)  # those that go either way, each half of the time

# arXiv 1909.13719, section 3: the fourteen it chooses from
RANDAUGMENT = tuple(name for name in OPERATIONS if name != "invert")

# arXiv 1805.09501, table 9: pairs of (operation, probability, magnitude 0-10), one pair for a picture
AUTOAUGMENT = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 4), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 7)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 2)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 8), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 2)),
    (("equalize", 0.0, 7), ("equalize", 0.8, 8)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 8)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 9)),
    (("color", 0.4, 0), ("equalize", 0.6, 3)),
    (("equalize", 0.4, 7), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 5)),
    (("invert", 0.6, 4), ("equalize", 1.0, 8)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 8), ("equalize", 0.6, 3)),
)


def _apply(image: np.ndarray, name: str, magnitude: float, rng: np.random.Generator) -> np.ndarray:
    strength = min(max(magnitude / 10, 0), 1)
    if name in SIGNED and rng.random() < 0.5:
        strength = -strength
    return OPERATIONS[name](image, strength)


def randaugment(
    image: np.ndarray, rng: np.random.Generator, layers: int, magnitude: float, std: float
) -> np.ndarray:
    """`layers` operations one after the other, each any of the fourteen (arXiv 1909.13719).

    magnitude: 0-10, its own deviation `std` around it; the larger the stronger for every operation.
    """
    for place in rng.integers(len(RANDAUGMENT), size=layers):
        strength = rng.normal(magnitude, std) if std else magnitude
        image = _apply(image, RANDAUGMENT[place], strength, rng)
    return image


def autoaugment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of the 25 pairs of operations that were found for ImageNet (arXiv 1805.09501)."""
    for name, probability, magnitude in AUTOAUGMENT[rng.integers(len(AUTOAUGMENT))]:
        if rng.random() < probability:
            image = _apply(image, name, magnitude, rng)
    return image


def three_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grey, solarized from the middle on, or blurred by 0.1-2 pixels: 3-Augment, arXiv 2204.07118."""
    choice, radius = rng.integers(3), rng.uniform(0.1, 2)
    if choice == 0:
        return grayscale(image)
    return solarize(image, 0.5) if choice == 1 else cv2.GaussianBlur(image, (0, 0), radius)


def jitter(image: np.ndarray, rng: np.random.Generator, amount: float) -> np.ndarray:
    """Brightness, contrast and saturation times 1 - amount to 1 + amount each, in any order."""
    factors = rng.uniform(max(0, 1 - amount), 1 + amount, 3)
    for place in rng.permutation(3):
        image = (brighten, stretch, saturate)[place](image, factors[place])
    return image
