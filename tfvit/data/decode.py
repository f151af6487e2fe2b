"""Encoded pictures to RGB arrays for training: what Pillow reads, without its hold on Python's lock."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from PIL import Image

from edge_demo import images

END = b"\xff\xd9"
# How many times smaller a JPEG is decoded: OpenCV's flag
REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    1: cv2.IMREAD_COLOR,
}


def decode(data: bytes, name: str, at_least: tuple[int, int]) -> np.ndarray:
    """JPEG, PNG, WebP or BMP bytes as an upright RGB picture, uint8 [height, width, 3].

    A plain JPEG goes to OpenCV, so that threads decode side by side; all else, and what is wrong with
    any, is for `edge_demo.images.decode`, whose arguments these are. Raises what that does.
    """
    scale = _plain_jpeg(data, at_least)
    if scale:
        flags = REDUCED[scale] | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        if image is not None:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    return np.asarray(images.decode(data, name, at_least))


def _plain_jpeg(data: bytes, at_least: tuple[int, int]) -> int:
    """How many times smaller to decode a whole, upright JPEG of three colours; 0 for all else."""
    if not data.endswith(END):  # cut off, or with something behind it
        return 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
            turned = image.getexif().get(images.ORIENTATION_TAG, 1) != 1
    except Exception:  # whatever Pillow finds: it says so where it decodes
        return 0
    if image.mode != "RGB" or turned or image.width * image.height > images.MAX_PIXELS:
        return 0
    room = min(image.width // at_least[0], image.height // at_least[1])
    return next((scale for scale in REDUCED if scale <= room), 1)
