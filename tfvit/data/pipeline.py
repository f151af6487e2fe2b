"""Batches of pixels, labels and masks from a split: deterministic, resumable at any step.

Every batch has the same shape. An image that cannot be read, and the filling of a ragged last batch,
have mask 0 and count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec, to_pixels
from tfvit.data.augment import Augmentation, augment
from tfvit.data.source import Split
from tfvit.progress import progress

# name of the file -> what is wrong with it
Unreadable = dict[str, str]


def train_batches(
    split: Split,
    spec: PreprocessSpec,
    batch_size: int,
    *,
    augmentation: Augmentation,
    seed: int,
    start_step: int,
    unreadable: Unreadable,
) -> tf.data.Dataset:
    """Endless shuffled, augmented batches from step `start_step` on.

    Each is {"pixels": uint8 [b, height, width, 3], "label": int64 [b], "mask": float32 [b]}, a function
    of (seed, step). Files that cannot be read are entered into `unreadable` as they are met.
    """
    decoded_size = augmentation.decoded_size(spec)

    def load(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, mask = _decode(example, unreadable, np.asarray, decoded_size)
        number = tf.cast(tf.bitcast(example["index"], tf.int32)[0], tf.int32)
        view = augment(image, tf.stack([tf.constant(seed), number]), spec, augmentation)
        return {"pixels": view, "label": example["label"], "mask": mask}

    examples = split.shuffled(seed, start_step * batch_size)
    batches = examples.map(load, tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def eval_batches(
    split: Split, spec: PreprocessSpec, batch_size: int, *, unreadable: Unreadable
) -> tf.data.Dataset:
    """One pass in order, preprocessed by the device's own code, the last batch filled up with mask 0.

    The batches are those of `train_batches`.
    """

    def load(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image, mask = _decode(example, unreadable, lambda image: to_pixels(image, spec))
        pixels = tf.ensure_shape(image, [spec.height, spec.width, 3])
        return {"pixels": pixels, "label": example["label"], "mask": mask}

    def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = batch_size - tf.shape(batch["mask"])[0]
        filled = {}
        for name, x in batch.items():
            padding = tf.concat([[[0, missing]], tf.zeros([x.shape.rank - 1, 2], tf.int32)], axis=0)
            filled[name] = tf.ensure_shape(tf.pad(x, padding), [batch_size, *x.shape[1:]])
        return filled

    batches = split.in_order().map(load, tf.data.AUTOTUNE, deterministic=True)
    return batches.batch(batch_size).map(fill).prefetch(tf.data.AUTOTUNE)


def check_all(split: Split) -> None:
    """Reads every image of a split; UserError names the first that cannot be read and counts the rest."""
    bad = []
    with progress(split.size, f"reading {split.name}", "img") as bar:
        for example in split.in_order().as_numpy_iterator():
            try:
                images.decode(example["data"], example["name"].decode())
            except UserError as error:
                bad.append(error)
            bar.update()
    if bad:
        others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{others}; leave --strict out to skip what is unreadable")


def _decode(
    example: dict[str, tf.Tensor],
    unreadable: Unreadable,
    finish: Callable[[Image.Image], np.ndarray],
    at_least: tuple[int, int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """(`finish` of the decoded image, uint8 [h, w, 3]; mask): black with mask 0 if it is unreadable.

    Pillow does it, so that training and evaluation read a file exactly as the device will.
    """

    def read(data: bytes, name: bytes) -> tuple[np.ndarray, np.float32]:
        try:
            return finish(images.decode(data, name.decode(), at_least)), np.float32(1)
        except UserError as error:
            unreadable[name.decode()] = str(error)
            return finish(Image.new("RGB", (8, 8))), np.float32(0)

    image, mask = tf.numpy_function(
        read, [example["data"], example["name"]], [tf.uint8, tf.float32], stateful=False
    )
    return tf.ensure_shape(image, [None, None, 3]), tf.ensure_shape(mask, [])
