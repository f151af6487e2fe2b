"""Image files and bytes to upright RGB pictures, the way a person would look at them."""

from __future__ import annotations

import glob
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from edge_demo.errors import UserError

FORMATS = {"JPEG": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",)}
EXTENSIONS = tuple(e for extensions in FORMATS.values() for e in extensions)
MAX_PIXELS = 100_000_000  # a 100-megapixel photo is real, a larger header is an attack
BACKGROUND = (255, 255, 255)  # what a transparent picture is laid on
ORIENTATION_TAG = 0x0112  # of EXIF; its values, and what turns each upright:
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened Pillow image as mode RGB, upright by its EXIF tag.

    Transparency is laid on white; CMYK, grey, 16-bit grey and palette are converted.
    """
    turn = UPRIGHT.get(_orientation(image))
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        image = Image.alpha_composite(canvas, image)
    image.load()  # so that `convert` copies nothing where there is nothing to convert
    image = image if image.mode == "RGB" else image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def open_rgb(
    image: str | Path | bytes | Image.Image | np.ndarray, name: str = "image"
) -> Image.Image:
    """A file, its bytes, a Pillow image or a uint8 array as an upright RGB image; `name` is for errors."""
    if isinstance(image, (str, Path)):
        return read_rgb(image)
    if isinstance(image, bytes):
        return decode(image, name)
    return from_array(image) if isinstance(image, np.ndarray) else to_rgb(image)


def from_array(array: np.ndarray) -> Image.Image:
    """A uint8 array [height, width], [height, width, 3] or [height, width, 4] as an RGB image."""
    shape = array.shape
    picture = array.ndim in (2, 3) and shape[2:] in ((), (3,), (4,)) and array.size
    if array.dtype != np.uint8 or not picture:
        raise UserError(
            f"an image array must be uint8 [height, width, 3], not {array.dtype} {list(shape)}"
        )
    return to_rgb(Image.fromarray(array))


def within(picture: Image.Image, side: int) -> Image.Image:
    """The picture if neither side is longer than `side` pixels, else a copy made so much smaller."""
    if max(picture.size) <= side:
        return picture
    smaller = picture.copy()
    smaller.thumbnail((side, side))  # keeps a pixel of the shorter side, as `contain` does not
    return smaller


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (or float) as grey of 8 bits, its transparent value kept as alpha."""
    values, clear = np.asarray(image, np.float32), image.info.get("transparency")
    levels = values if image.mode == "F" else values / 257
    grey = Image.fromarray(np.clip(np.round(levels), 0, 255).astype(np.uint8))
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1-8; 1 where the tag is missing, damaged or nonsense."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return image.getexif().get(ORIENTATION_TAG, 1)
    except Exception:  # Pillow's reader raises many kinds; the picture itself may be fine
        return 1


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
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=tuple(FORMATS))
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        if at_least:
            sideways = _orientation(image) in SIDEWAYS
            image.draft("RGB", at_least[::-1] if sideways else at_least)
        return to_rgb(image)
    except UnidentifiedImageError:
        kind = "an empty file" if not data else "not a JPEG, PNG, WebP or BMP image"
        raise UserError(f"{name}: {kind}") from None
    except Image.DecompressionBombError:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise UserError(f"{name}: larger than {limit}; scale it down first") from None
    except Exception as error:  # Pillow's decoders raise many kinds, AssertionError included
        raise UserError(f"{name}: damaged image ({error or type(error).__name__})") from None


def read_rgb(path: str | Path) -> Image.Image:
    """An image file as an upright RGB Pillow image; UserError if it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise _unusable(path, error) from None
    return decode(data, str(path))


def find(source: str) -> list[Path]:
    """Image files of a source in sorted order: one file, a folder (searched in depth) or a glob.

    Raises UserError if nothing is there.
    """
    if not source:
        raise UserError("the source is empty; name an image, a folder or a glob")
    path = Path(source)
    try:
        exists = bool(path.stat())
    except FileNotFoundError:
        exists = False
    except (OSError, ValueError) as error:  # a name too long, a NUL in it, no permission
        raise _unusable(source, error) from None
    if path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
        what = f"no images ({', '.join(EXTENSIONS)}) in folder"
    elif exists:
        return [path]
    elif glob.has_magic(source):
        found = [Path(p) for p in glob.glob(source, recursive=True) if Path(p).is_file()]
        what = "no file matches"
    else:
        raise UserError(f"{source}: no such file or folder")
    if not found:
        raise UserError(f"{source}: {what}")
    return sorted(found)


def _unusable(path: str | Path, error: Exception) -> UserError:
    return UserError(f"{path}: {getattr(error, 'strerror', None) or error}")
