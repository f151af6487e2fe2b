"""Training augmentation: crop, flip, a policy of operations, colour jitter, random erasing.

Every choice is a function of a seed and the picture's number in the stream.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
from PIL import Image

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec, to_pixels
from tfvit.data import operations

CROPS = ("inception", "simple")
POLICIES = ("none", "randaugment", "autoaugment", "three_augment")
ASPECT = (3 / 4, 4 / 3)  # of an Inception crop
BORDER = 4  # pixels a simple crop may reach out
ERASED_AREA = (0.02, 1 / 3)  # arXiv 1708.04896
ERASED_ASPECT = (0.3, 1 / 0.3)
ATTEMPTS = 10
ENLARGE = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a picture goes through before it is trained on, in this order.

    crop_min_area: smallest part of it that the Inception crop keeps (arXiv 1409.4842; 0.05 in the ViT
        reference code); 1 takes the picture as the spec has it.
    crop: "inception", or "simple" of DeiT-3 (arXiv 2204.07118, section 3): the shorter side to the
        input size, then a random place, up to 4 mirrored pixels outside included.
    flip: mirror every other picture; wrong for digits and text.
    policy: "none", "randaugment" (arXiv 1909.13719), "autoaugment" (arXiv 1805.09501, ImageNet's) or
        "three_augment" (DeiT-3's grey, solarize or blur).
    layers, magnitude, magnitude_std: RandAugment's number of operations, their strength 0-10 (10 is
        the largest of AutoAugment's ranges and every operation grows with it, as timm's `inc1`)
        and its deviation from picture to picture.
    color_jitter: brightness, contrast and saturation change by up to this share.
    erase: probability that a rectangle becomes noise (arXiv 1708.04896, per pixel).

    Raises UserError for a value outside these.
    """

    crop_min_area: float = 0.05
    crop: str = "inception"
    flip: bool = True
    policy: str = "none"
    layers: int = 2
    magnitude: float = 10.0
    magnitude_std: float = 0.0
    color_jitter: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_min_area <= 1:
            raise UserError(f"crop_min_area {self.crop_min_area} is not in (0, 1]")
        for name, known in (("crop", CROPS), ("policy", POLICIES)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} {getattr(self, name)!r} is not one of {', '.join(known)}")
        ranges = {"magnitude": 10, "magnitude_std": 10, "color_jitter": 1, "erase": 1}
        for name, most in ranges.items():
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} {getattr(self, name)} is not in [0, {most}]")
        if not isinstance(self.layers, int) or self.layers < 0:
            raise UserError(f"layers {self.layers!r} is not a number of operations")

    def decoded_size(self, spec: PreprocessSpec) -> tuple[int, int]:
        """(width, height) a picture must have so that the smallest crop is not enlarged."""
        side = 1 if self.crop == "simple" else 1 / math.sqrt(self.crop_min_area)
        return math.ceil(spec.width * side), math.ceil(spec.height * side)


def augment(
    picture: np.ndarray, seed: tuple[int, int], spec: PreprocessSpec, options: Augmentation
) -> np.ndarray:
    """A random view of an RGB picture uint8 [h, w, 3] at the input size: uint8 [height, width, 3].

    seed: the run's, and the picture's number in its stream; the same two give the same view.
    """
    rng = np.random.default_rng(seed)
    image = _crop(picture, rng, spec, options)
    if options.flip and rng.random() < 0.5:
        image = cv2.flip(image, 1)
    if options.policy == "randaugment":
        strength = (options.layers, options.magnitude, options.magnitude_std)
        image = operations.randaugment(image, rng, *strength)
    elif options.policy == "autoaugment":
        image = operations.autoaugment(image, rng)
    elif options.policy == "three_augment":
        image = operations.three_augment(image, rng)
    if options.color_jitter:
        image = operations.jitter(image, rng, options.color_jitter)
    return _erase(image, rng, spec) if rng.random() < options.erase else image


def _crop(
    picture: np.ndarray, rng: np.random.Generator, spec: PreprocessSpec, options: Augmentation
) -> np.ndarray:
    if options.crop == "simple":
        return _simple_crop(picture, rng, spec)
    if options.crop_min_area == 1:
        return to_pixels(Image.fromarray(picture), spec)
    height, width = picture.shape[:2]
    box = _box(rng, width, height, (options.crop_min_area, 1), ASPECT)
    if box is None:  # a picture too long for any of these: the middle of it
        across, down = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
        left, top = (width - across) // 2, (height - down) // 2
        box = left, top, left + across, top + down
    left, top, right, bottom = box
    return _resize(picture[top:bottom, left:right], (spec.width, spec.height), spec)


def _resize(image: np.ndarray, size: tuple[int, int], spec: PreprocessSpec) -> np.ndarray:
    """To (width, height): by the mean over the area of each pixel where it shrinks."""
    shrinks = image.shape[1] > size[0] or image.shape[0] > size[1]
    how = cv2.INTER_AREA if shrinks else ENLARGE[spec.interpolation]
    return cv2.resize(image, size, interpolation=how)


def _box(
    rng: np.random.Generator,
    width: int,
    height: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int] | None:
    """left, top, right, bottom of a random box, its shape as likely wide as tall; None if none fits."""
    for _ in range(ATTEMPTS):
        size = rng.uniform(*area) * width * height
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        w, h = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
            return left, top, left + w, top + h
    return None


def _simple_crop(image: np.ndarray, rng: np.random.Generator, spec: PreprocessSpec) -> np.ndarray:
    height, width = image.shape[:2]
    scale = max(spec.width / width, spec.height / height)
    size = max(spec.width, round(width * scale)), max(spec.height, round(height * scale))
    whole = _resize(image, size, spec)
    padded = cv2.copyMakeBorder(whole, *[BORDER] * 4, cv2.BORDER_REFLECT_101)
    top = rng.integers(padded.shape[0] - spec.height + 1)
    left = rng.integers(padded.shape[1] - spec.width + 1)
    return np.ascontiguousarray(padded[top : top + spec.height, left : left + spec.width])


def _erase(pixels: np.ndarray, rng: np.random.Generator, spec: PreprocessSpec) -> np.ndarray:
    """A rectangle of noise whose normalised values have mean 0 and deviation 1."""
    box = _box(rng, spec.width, spec.height, ERASED_AREA, ERASED_ASPECT)
    if box is None:
        return pixels
    left, top, right, bottom = box
    noise = spec.mean + spec.std * rng.standard_normal((bottom - top, right - left, 3))
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = np.clip(np.round(noise), 0, 255)
    return pixels
