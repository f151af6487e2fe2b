"""Image files and bytes to upright RGB pictures, the way a person would look at them."""

from __future__ import annotations

import glob
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edge_demo.errors import UserError

FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",)}
EXTENSIONS = tuple(e for extensions in FORMATS.values() for e in extensions)
MAX_PIXELS = 100_000_000  # a 100-megapixel photo is real, a larger header is an attack
BACKGROUND = (255, 255, 255)  # what a transparent picture is laid on


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened Pillow image as mode RGB: upright by its EXIF tag, alpha laid on white, CMYK, grey,
    16-bit grey and palette converted."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, np.float32)
        values = values / 257 if image.mode != "F" else values
        image = Image.fromarray(np.clip(np.round(values), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, image)
    return image.convert("RGB")


def decode(
    data: bytes, name: str = "image", at_least: tuple[int, int] | None = None
) -> Image.Image:
    """JPEG, PNG, WebP or BMP bytes to an upright RGB Pillow image.

    at_least: (width, height); a larger JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long
        as it stays at least this large, several times faster. For training only: the pixels differ.
    Raises UserError with one line for anything else: not an image, truncated, over MAX_PIXELS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if at_least:
            image.draft("RGB", at_least)
        return to_rgb(image)
    except UnidentifiedImageError:
        kind = "an empty file" if not data else "not a JPEG, PNG, WebP or BMP image"
        raise UserError(f"{name}: {kind}") from None
    except Image.DecompressionBombError:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise UserError(f"{name}: larger than {limit}; scale it down first") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError) as error:
        raise UserError(f"{name}: damaged image ({error})") from None


def read_rgb(path: str | Path) -> Image.Image:
    """An image file as an upright RGB Pillow image; UserError if it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    return decode(data, str(path))


def find(source: str) -> list[Path]:
    """Image files of a source in sorted order: one file, a folder (searched in depth) or a glob.

    Raises UserError if nothing is there.
    """
    path = Path(source)
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
        what = f"no images ({', '.join(EXTENSIONS)}) in folder"
    elif path.exists():
        return [path]
    elif glob.has_magic(source):
        found = [Path(p) for p in glob.glob(source, recursive=True) if Path(p).is_file()]
        what = "no file matches"
    else:
        raise UserError(f"{source}: no such file or folder")
    if not found:
        raise UserError(f"{source}: {what}")
    return sorted(found)
