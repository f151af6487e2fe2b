"""PreprocessSpec: how a picture becomes a model's input, and its NumPy/Pillow implementation.

The TensorFlow implementation of the same spec is `tfvit.preprocess`; one test holds them together.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image

from edge_demo.errors import UserError

RESIZE_MODES = ("squash", "crop")
INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclasses.dataclass(frozen=True)
class PreprocessSpec:
    """How an RGB picture of any size becomes the input of a model.

    height, width: input size in pixels.
    resize: "squash" resizes to height x width whatever the aspect ratio (Google's ViT, `resize`);
        "crop" resizes so that a central crop of height x width covers `crop_fraction` of the
        picture (DeiT, DINOv2: 224 of 256 is 0.875).
    interpolation: "bilinear" or "bicubic", always antialiased.
    mean, std: per channel, in grey levels 0-255: input = (pixel - mean) / std.

    Raises UserError for a value outside these.
    """

    height: int
    width: int
    resize: str = "squash"
    crop_fraction: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)
    std: tuple[float, float, float] = (127.5, 127.5, 127.5)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            numbers = isinstance(values, (list, tuple)) and all(map(_is_number, values))
            if not numbers or len(values) != 3:
                raise UserError(f"preprocessing: {name} must be three numbers, not {values!r}")
            object.__setattr__(self, name, tuple(float(v) for v in values))
        for name in ("height", "width"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"preprocessing: {name} {value!r} is not a positive whole number")
        if self.resize not in RESIZE_MODES:
            raise UserError(
                f"preprocessing: resize {self.resize!r} is not one of {', '.join(RESIZE_MODES)}"
            )
        if self.interpolation not in tuple(INTERPOLATIONS):
            raise UserError(
                f"preprocessing: interpolation {self.interpolation!r} is not one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        if not (_is_number(self.crop_fraction) and 0 < self.crop_fraction <= 1):
            raise UserError(f"preprocessing: crop_fraction {self.crop_fraction!r} is not in (0, 1]")
        if min(self.std) <= 0:
            raise UserError(f"preprocessing: std {self.std} is not positive")

    def at(self, height: int, width: int) -> PreprocessSpec:
        """The same preprocessing for another input size."""
        return dataclasses.replace(self, height=height, width=width)

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: dict) -> PreprocessSpec:
        """A spec from `to_json`'s dictionary; UserError names a missing or unknown field."""
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"preprocessing: {error}") from None

    def source_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a height x width picture that is resized to the input: left, top, right, bottom."""
        if self.resize == "squash":
            return 0.0, 0.0, float(width), float(height)
        scale = self.crop_fraction * min(height / self.height, width / self.width)
        box_h, box_w = min(self.height * scale, height), min(self.width * scale, width)
        left, top = (width - box_w) / 2, (height - box_h) / 2
        return left, top, width - left, height - top


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def to_pixels(image: Image.Image, spec: PreprocessSpec) -> np.ndarray:
    """An RGB Pillow image resized as `spec` says: uint8 [height, width, 3]."""
    left, top, right, bottom = spec.source_box(image.height, image.width)
    kernel = INTERPOLATIONS[spec.interpolation]
    # Columns, then rows: each axis rounds and clips, and Pillow's own order is not always this one.
    image = image.resize((spec.width, image.height), kernel, box=(left, 0, right, image.height))
    image = image.resize((spec.width, spec.height), kernel, box=(0, top, spec.width, bottom))
    return np.asarray(image)


def normalise(
    pixels: np.ndarray, spec: PreprocessSpec, dtype: type[np.floating] = np.float32
) -> np.ndarray:
    """Grey levels 0-255 [..., 3] to the input of a model, float32 or `dtype`: (pixels - mean) / std."""
    return (pixels.astype(dtype) - dtype(spec.mean)) / dtype(spec.std)
