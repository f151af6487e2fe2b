"""Pictures and logits that go with the files, so that any client can check itself: `edge-demo parity`.

Each picture is a JPEG, and a PNG of the pixels that the model sees of it at each exported resolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from convert import verify
from convert.model import Model
from edge_demo import images, preprocess
from edge_demo.errors import UserError
from edge_demo.measure import parity
from tfvit.data import Source

FOLDER = "reference"
COUNT = 16
LONGEST, QUALITY = 640, 90  # side of a JPEG in pixels, and what Pillow calls its quality
SIZES = ((640, 480), (480, 640), (500, 375), (320, 427))  # of generated pictures
WAVES = ((5, 1.0), (17, 0.6), (61, 0.3))  # columns of a generated picture's layers, how strong


def write_pictures(folder: Path, source: Source | None) -> list[str]:
    """Writes COUNT pictures as `reference/NN.jpg` into a folder, and returns their names in it.

    source: its held-out photos are taken, spread over the classes; what it lacks is generated.
    """
    (folder / FOLDER).mkdir()
    pictures, names = itertools.chain(_photos(source) if source else (), _generated()), []
    for number, picture in enumerate(itertools.islice(pictures, COUNT)):
        picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        picture.info.clear()  # comments and places of a photo do not go with it
        names.append(f"{FOLDER}/{number:02d}.jpg")
        picture.save(folder / names[-1], quality=QUALITY)
    return names


def write_pixels(folder: Path, names: list[str], model: Model) -> tuple[list[str], np.ndarray]:
    """Writes the input of a model for each picture as `reference/NN-<size>.png`.

    Returns their names, and the pixels uint8 [n, height, width, 3].
    """
    found = [preprocess.to_pixels(images.read_rgb(folder / n), model.pixel_spec) for n in names]
    written = [f"{name.removesuffix('.jpg')}-{model.size}.png" for name in names]
    for name, pixels in zip(written, found):
        Image.fromarray(pixels).save(folder / name, optimize=True)
    return written, np.stack(found)


def logits(path: Path, pixels: np.ndarray, rounds: bool) -> dict:
    """What a file gives for the pixels here, and how far another device may be from that.

    rounds: whether it computes in integers, if only here and there.
    """
    found = verify.logits(path, pixels)
    return {
        "reference_logits": [[float(f"{value:.7g}") for value in row] for row in found],
        "reference_tolerance": parity.QUANTIZED_TOLERANCE if rounds else parity.FLOAT_TOLERANCE,
    }


def _photos(source: Source) -> Iterator[Image.Image]:
    """Held-out photos that can be read, upright."""
    for example in verify.spread(source.eval, COUNT).in_order().as_numpy_iterator():
        try:
            yield images.decode(example["data"])
        except UserError:
            continue  # the accuracy beside them names it


def _generated() -> Iterator[Image.Image]:
    """Coloured noise of three wavelengths: smooth, so that a JPEG keeps it, and yet no even area."""
    rng = np.random.default_rng(0)
    for width, height in itertools.cycle(SIZES):
        levels = np.full((height, width, 3), 127.5)
        for columns, strength in WAVES:
            shape = (round(columns * height / width), columns, 3)
            noise = Image.fromarray(rng.integers(0, 256, shape, np.uint8))
            layer = noise.resize((width, height), Image.Resampling.BICUBIC)
            levels += strength * (np.asarray(layer, np.float64) - 127.5)
        yield Image.fromarray(np.clip(np.round(levels), 0, 255).astype(np.uint8))
