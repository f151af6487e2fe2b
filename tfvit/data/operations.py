"""What augmentation does to a picture, one table of operations and the policies made of them.

An operation takes an RGB Pillow image and a strength in [-1, 1] and gives an image of the same size.
Pillow works on all of them without Python's lock, so threads run them side by side.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

FILL = (128, 128, 128)  # what comes in from outside
MAX_ROTATE = 30  # degrees; the largest values are those of AutoAugment, arXiv 1805.09501, table 6
MAX_SHEAR = 0.3
MAX_TRANSLATE = 0.45  # of the side: 150 of 331 pixels
MAX_ENHANCE = 0.9  # a factor between 0.1 and 1.9
LUMA = np.array([0.299, 0.587, 0.114])
LEVELS = np.arange(256)

Operation = Callable[[Image.Image, float], Image.Image]


def _through(image: Image.Image, table: np.ndarray) -> Image.Image:
    """Every grey level looked up in a table [256] or, for each channel its own, [3, 256]."""
    levels = np.clip(np.broadcast_to(table, (3, 256)), 0, 255).astype(np.uint8)
    return image.point(levels.ravel().tolist())


def _histogram(image: Image.Image) -> np.ndarray:
    return np.reshape(image.histogram(), (3, 256))


def autocontrast(image: Image.Image, strength: float = 0) -> Image.Image:
    """Each channel stretched to 0-255; one of a single level stays."""
    table = []
    for counts in _histogram(image):
        low, high = np.flatnonzero(counts)[[0, -1]]
        stretched = (LEVELS - low) * (255 / max(high - low, 1))
        table.append(stretched if high > low else LEVELS)
    return _through(image, np.array(table))


def equalize(image: Image.Image, strength: float = 0) -> Image.Image:
    """Each channel with a flat histogram, but for its topmost level's share as Pillow counts."""
    table = []
    for counts in _histogram(image):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        table.append((below + step // 2) // step if step else LEVELS)
    return _through(image, np.array(table))


def invert(image: Image.Image, strength: float = 0) -> Image.Image:
    """The negative."""
    return _through(image, 255 - LEVELS)


def posterize(image: Image.Image, strength: float) -> Image.Image:
    """The 8 to 4 highest bits of each level."""
    dropped = round(4 * strength)
    return _through(image, LEVELS >> dropped << dropped)


def solarize(image: Image.Image, strength: float) -> Image.Image:
    """The levels above a threshold inverted: none at strength 0, all at 1."""
    return _through(image, np.where(LEVELS < 256 * (1 - strength), LEVELS, 255 - LEVELS))


def brightness(image: Image.Image, strength: float) -> Image.Image:
    """Away from black, or towards it."""
    return brighten(image, 1 + MAX_ENHANCE * strength)


def brighten(image: Image.Image, factor: float) -> Image.Image:
    """Every level times `factor`."""
    return _through(image, LEVELS * factor)


def contrast(image: Image.Image, strength: float) -> Image.Image:
    """Away from the mean grey, or towards it."""
    return stretch(image, 1 + MAX_ENHANCE * strength)


def stretch(image: Image.Image, factor: float) -> Image.Image:
    """The distance of every level from the picture's mean grey times `factor`."""
    mean = math.floor(LUMA @ _histogram(image) @ LEVELS / (image.width * image.height) + 0.5)
    return _through(image, mean + factor * (LEVELS - mean))


def color(image: Image.Image, strength: float) -> Image.Image:
    """Away from grey, or towards it."""
    return saturate(image, 1 + MAX_ENHANCE * strength)


def saturate(image: Image.Image, factor: float) -> Image.Image:
    """The distance of every pixel from its own grey times `factor`."""
    return Image.blend(grayscale(image), image, factor)


def grayscale(image: Image.Image) -> Image.Image:
    """Grey, still as RGB."""
    return image.convert("L").convert("RGB")


def sharpness(image: Image.Image, strength: float) -> Image.Image:
    """Away from the smoothed picture, or towards it."""
    return Image.blend(image.filter(ImageFilter.SMOOTH), image, 1 + MAX_ENHANCE * strength)


def _warp(image: Image.Image, *coefficients: float) -> Image.Image:
    """The pixel nearest to (a x + b y + c, d x + e y + f) at each (x, y), as the papers' code has it."""
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, fillcolor=FILL)


def rotate(image: Image.Image, strength: float) -> Image.Image:
    """Turned about its centre."""
    return image.rotate(MAX_ROTATE * strength, fillcolor=FILL)


def shear_x(image: Image.Image, strength: float) -> Image.Image:
    """Rows moved sideways, the lower the further."""
    return _warp(image, 1, MAX_SHEAR * strength, 0, 0, 1, 0)


def shear_y(image: Image.Image, strength: float) -> Image.Image:
    """Columns moved up or down, those to the right further."""
    return _warp(image, 1, 0, 0, MAX_SHEAR * strength, 1, 0)


def translate_x(image: Image.Image, strength: float) -> Image.Image:
    """Moved sideways."""
    return _warp(image, 1, 0, MAX_TRANSLATE * strength * image.width, 0, 1, 0)


def translate_y(image: Image.Image, strength: float) -> Image.Image:
    """Moved up or down."""
    return _warp(image, 1, 0, 0, 0, 1, MAX_TRANSLATE * strength * image.height)


def identity(image: Image.Image, strength: float = 0) -> Image.Image:
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


def _apply(image: Image.Image, name: str, magnitude: float, rng: np.random.Generator):
    strength = min(max(magnitude / 10, 0), 1)
    if name in SIGNED and rng.random() < 0.5:
        strength = -strength
    return OPERATIONS[name](image, strength)


def randaugment(
    image: Image.Image, rng: np.random.Generator, layers: int, magnitude: float, std: float
) -> Image.Image:
    """`layers` operations one after the other, each any of the fourteen (arXiv 1909.13719).

    magnitude: 0-10, its own deviation `std` around it; the larger the stronger for every operation.
    """
    for place in rng.integers(len(RANDAUGMENT), size=layers):
        strength = rng.normal(magnitude, std) if std else magnitude
        image = _apply(image, RANDAUGMENT[place], strength, rng)
    return image


def autoaugment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One of the 25 pairs of operations that were found for ImageNet (arXiv 1805.09501)."""
    for name, probability, magnitude in AUTOAUGMENT[rng.integers(len(AUTOAUGMENT))]:
        if rng.random() < probability:
            image = _apply(image, name, magnitude, rng)
    return image


def three_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Grey, solarized from the middle on, or blurred by 0.1-2 pixels: 3-Augment, arXiv 2204.07118."""
    choice, radius = rng.integers(3), rng.uniform(0.1, 2)
    blur = functools.partial(_blur, radius=radius)
    return (grayscale, functools.partial(solarize, strength=0.5), blur)[choice](image)


def _blur(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


def jitter(image: Image.Image, rng: np.random.Generator, amount: float) -> Image.Image:
    """Brightness, contrast and saturation times 1 - amount to 1 + amount each, in any order."""
    factors = rng.uniform(max(0, 1 - amount), 1 + amount, 3)
    for place in rng.permutation(3):
        image = (brighten, stretch, saturate)[place](image, factors[place])
    return image
