"""scikit-learn's digits as a Source: 1,797 real handwritten digits, 8x8 pixels, nothing to download."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from tfvit.data.source import DataOptions, Source, Split, held_out, indexed_split, no_named_splits

HOLDOUT = 0.2
LABELS = tuple("0123456789")


def png_files() -> tuple[list[bytes], list[int]]:
    """All digits as PNG files, with their labels."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    levels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return [_png(image) for image in levels], [int(label) for label in digits.target]


def open_digits(options: DataOptions) -> Source:
    """The digits, a fifth of them (or `options.holdout`) held out by content."""
    no_named_splits(options)
    files, labels = png_files()
    fraction = HOLDOUT if options.holdout is None else options.holdout
    held = [held_out(data, fraction) for data in files]
    return Source("digits", LABELS, *(_split(files, labels, held, part) for part in (False, True)))


def _split(files: list[bytes], labels: list[int], held: list[bool], part: bool) -> Split:
    chosen = [i for i, h in enumerate(held) if h == part]
    data = tf.constant([files[i] for i in chosen])
    return indexed_split(
        "held out" if part else "train",
        [f"digits[{i}]" for i in chosen],
        [labels[i] for i in chosen],
        len(LABELS),
        lambda i: tf.gather(data, i),
    )


def _png(levels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()
