"""The 15 corruptions of ImageNet-C at their 5 levels, of pixels in memory: `corrupt`.

Kinds and constants are those of Hendrycks & Dietterich (arXiv 1903.12261, ImageNet-C/create_c of
github.com/hendrycks/robustness); the code is our own, the frost is drawn. They are for pictures of 224
pixels. In others lengths (radii, deviations of blurs, displacements) are in proportion to the shorter
side, and weather is made for 224 pixels and resized; noise of each pixel, colours and JPEG quality stay as
they are.
"""

from __future__ import annotations

import dataclasses
import io
import math
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from edge_demo.errors import UserError
from tfvit.evaluate import textures

REFERENCE = 224  # pixels on the shorter side that the constants are for
LEVELS = (1, 2, 3, 4, 5)
ALL = "all"

# Each function of a kind takes x, float64 [height, width, 3] in 0-1, a generator of random numbers and the
# constants of a level, and returns what it makes of x, which is then clipped. `scale` is x's for lengths.


def _gaussian_noise(x, rng, deviation):
    return x + rng.normal(0, deviation, x.shape)


def _shot_noise(x, rng, photons):
    return rng.poisson(x * photons) / photons


def _impulse_noise(x, rng, share):
    hit, white = rng.random((2, *x.shape))
    return np.where(hit < share, white < 0.5, x)


def _defocus_blur(x, rng, radius, deviation):
    kernel = disk(scale(x) * radius, deviation)
    return cv2.filter2D(x, -1, kernel)  # reflects, as ImageNet-C


def _glass_blur(x, rng, deviation, distance, turns):
    """Blurs, has each pixel show one nearby, several times, and blurs again."""
    unit = scale(x)
    x = gaussian(x, unit * deviation)
    for _ in range(turns):  # the end of the distance is left out, as there
        x = moved(x, *(unit * rng.integers(-distance, distance, (2, *x.shape[:2]))))
    return gaussian(x, unit * deviation)


def _motion_blur(x, rng, radius, deviation):
    kernel = trail(scale(x) * radius, scale(x) * deviation, rng.uniform(-45, 45))
    return cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def _zoom_blur(x, rng, end, step):
    zooms = np.arange(1, end, step)
    return (x + sum(zoomed(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


def _snow(x, rng, mean, deviation, zoom, threshold, radius, blur, share):
    height, width = _at_reference(x)
    flakes = zoomed(rng.normal(mean, deviation, (height, width)), zoom)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    kernel = trail(radius, blur, rng.uniform(-135, -45))
    flakes = cv2.filter2D(flakes, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    flakes = _like(flakes, x)[..., np.newaxis]
    grey = x @ np.array([0.299, 0.587, 0.114])
    white = np.maximum(x, 1.5 * grey[..., np.newaxis] + 0.5)
    return share * x + (1 - share) * white + flakes + np.rot90(flakes, 2)


def _frost(x, rng, of_picture, of_frost):
    return of_picture * x + of_frost * _like(textures.frost(*_at_reference(x), rng), x)


def _fog(x, rng, amount, decay):
    height, width = _at_reference(x)
    size = 1 << (max(height, width) - 1).bit_length()
    cloud = _like(textures.plasma(size, decay, rng)[:height, :width], x)
    most = x.max()
    return (x + amount * cloud[..., np.newaxis]) * most / (most + amount)


def _brightness(x, rng, amount):
    """Adds to the value of HSV, the largest of the channels; hue and saturation stay."""
    value = x.max(axis=-1, keepdims=True)
    brighter = np.clip(value + amount, 0, 1)
    return np.where(value > 0, x / np.where(value > 0, value, 1), 1) * brighter


def _contrast(x, rng, share):
    mean = x.mean(axis=(0, 1))
    return share * (x - mean) + mean


def _elastic_transform(x, rng, amount, deviation, shift):
    """Moves three points, and the whole with them, then every pixel by a smooth random field."""
    unit = 244 * scale(x)  # not 224, as there: a slip that is a part of the data set
    amount, deviation, shift = (unit * length for length in (amount, deviation, shift))
    height, width = x.shape[:2]
    centre, half = np.array([width, height]) // 2, min(height, width) // 3
    points = centre + half * np.array([[1, 1], [1, -1], [-1, -1]])
    shifted = points + rng.uniform(-shift, shift, points.shape)
    affine = cv2.getAffineTransform(points.astype(np.float32), shifted.astype(np.float32))
    x = cv2.warpAffine(x, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    across, down = (
        amount * gaussian(rng.uniform(-1, 1, (height, width)), deviation, 3, cv2.BORDER_REFLECT)
        for _ in range(2)
    )
    return moved(x, across, down)


def _pixelate(x, rng, share):
    height, width = x.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    picture = Image.fromarray(to_uint8(x)).resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX)) / 255


def _jpeg_compression(x, rng, quality):
    file = io.BytesIO()
    Image.fromarray(to_uint8(x)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


@dataclasses.dataclass(frozen=True)
class Kind:
    """levels: the constants of `apply` at each of LEVELS."""

    apply: Callable[..., np.ndarray]
    levels: tuple[tuple[float, ...], ...]


KINDS = {
    "gaussian_noise": Kind(_gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),
    "shot_noise": Kind(_shot_noise, ((60,), (25,), (12,), (5,), (3,))),
    "impulse_noise": Kind(_impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),
    "defocus_blur": Kind(_defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Kind(
        _glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
    ),
    "motion_blur": Kind(_motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Kind(
        _zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
    ),
    "snow": Kind(
        _snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Kind(_frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": Kind(_fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Kind(_brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),
    "contrast": Kind(_contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),
    "elastic_transform": Kind(  # the first two levels warp the whole, the others ripple
        _elastic_transform,
        ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    ),
    "pixelate": Kind(_pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),
    "jpeg_compression": Kind(_jpeg_compression, ((25,), (18,), (15,), (10,), (7,))),
}


def corrupt(pixels: np.ndarray, kind: str, level: int, seed: tuple[int, ...] = (0,)) -> np.ndarray:
    """Pixels, uint8 [height, width, 3] of any size, corrupted at a level 1-5: uint8 of the same shape.

    kind: a name of KINDS. seed: the same gives the same; levels of one kind have the same chance.
    """
    row = KINDS[kind]
    rng = np.random.default_rng((*seed, zlib.crc32(kind.encode())))
    return to_uint8(row.apply(pixels / 255, rng, *row.levels[level - 1]))


def named(text: str) -> tuple[str, ...]:
    """The kinds that "fog,snow" or "all" names, in the order of KINDS; UserError if one is unknown."""
    asked = {part.strip() for part in text.split(",")}
    for name in sorted(asked - {ALL, *KINDS}):
        raise UserError(f"corruption {name!r} is not one of {ALL}, {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if ALL in asked or kind in asked)


def scale(x: np.ndarray) -> float:
    """Of lengths: 1 for a picture of 224 pixels on the shorter side."""
    return min(x.shape[:2]) / REFERENCE


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Shares 0-1, clipped, as grey levels."""
    return np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)


def disk(radius: float, deviation: float) -> np.ndarray:
    """The picture of a point out of focus: a kernel [n, n] with a sum of 1, its edge a little blurred."""
    reach = math.ceil(radius) + 2  # room for the blur
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = (x**2 + y**2 <= radius**2).astype(np.float64)
    size = 3 if radius <= 8 else 5
    return cv2.GaussianBlur(inside / inside.sum(), (size, size), deviation)


def trail(radius: float, deviation: float, degrees: float) -> np.ndarray:
    """The picture of a moving point: a kernel [n, n] with a sum of 1, half a Gaussian from the centre on.

    As MagickMotionBlurImage, 2 x radius + 1 pixels long, each at the nearest whole place on the line.
    """
    reach = 2 * math.ceil(radius)
    along = np.arange(reach + 1)
    weights = np.exp(-(along**2) / (2 * deviation**2))
    angle = math.radians(degrees)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    rows, columns = (
        reach + np.ceil(along * part - 0.5).astype(int)
        for part in (math.sin(angle), math.cos(angle))
    )
    np.add.at(kernel, (rows, columns), weights / weights.sum())
    return kernel


def gaussian(
    x: np.ndarray, deviation: float, truncate: float = 4, border: int = cv2.BORDER_REPLICATE
) -> np.ndarray:
    """x, [height, width] or with channels, blurred; the kernel ends at `truncate` deviations."""
    size = 2 * int(truncate * deviation + 0.5) + 1
    return cv2.GaussianBlur(x, (size, size), deviation, borderType=border)


def moved(x: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """x, each pixel showing what lies so many pixels off, each [height, width]; bilinear, reflected."""
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    places = ((place + by).astype(np.float32) for place, by in ((columns, across), (rows, down)))
    return cv2.remap(x, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def zoomed(x: np.ndarray, zoom: float) -> np.ndarray:
    """The middle of x, so many times larger, in the same size; bilinear."""
    height, width = x.shape[:2]
    centre = np.array([width - 1, height - 1]) / 2
    affine = np.column_stack([zoom * np.eye(2), centre * (1 - zoom)])
    return cv2.warpAffine(x, affine, (width, height), borderMode=cv2.BORDER_REPLICATE)


def _at_reference(x: np.ndarray) -> tuple[int, int]:
    """Height and width of x, made so large that the shorter is REFERENCE."""
    return tuple(round(side / scale(x)) for side in x.shape[:2])


def _like(layer: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A layer made for `_at_reference` at the size of x."""
    smooth = cv2.INTER_AREA if scale(x) < 1 else cv2.INTER_LINEAR  # enlarged, areas are squares
    return cv2.resize(layer, x.shape[1::-1], interpolation=smooth)
