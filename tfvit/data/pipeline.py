"""Batches of pixels, labels and masks from a split: deterministic, resumable at any step.

Every batch has the same shape. An image that cannot be read, and the filling of a ragged last batch,
have mask 0 and count nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit.data import cache as caches
from tfvit.data import order, service, views
from tfvit.data.augment import Augmentation
from tfvit.data.source import Split, Stream
from tfvit.progress import progress

AT_ONCE = 8  # pictures that one call into Python loads, at most
# name of the file -> what is wrong with it
Unreadable = dict[str, str]


@tf.autograph.experimental.do_not_convert  # as `model.build`
def train_batches(
    split: Split,
    spec: PreprocessSpec,
    batch_size: int,
    *,
    augmentation: Augmentation,
    seed: int,
    start_step: int,
    unreadable: Unreadable,
    repeats: int = 1,
    balance: float = 0.0,
    replicas: int = 1,
    shard: tuple[int, int] = (0, 1),
    cache: str | None = None,
    services: Sequence[str] = (),
) -> tf.data.Dataset:
    """Endless shuffled, augmented batches from step `start_step` on.

    Each is {"pixels": uint8 [b, height, width, 3], "label": int64 [b], "mask": float32 [b]}, a function
    of (seed, step). Files that cannot be read are entered into `unreadable` as they are met.

    batch_size: of a step, over all devices and processes.
    repeats: how many views of each picture a batch holds (repeated augmentation, arXiv 1901.09335).
    balance: 0 takes pictures as often as there are, 1 every class equally often; between them a class
        of n pictures comes as n ** (1 - balance).
    replicas: devices in all; a batch comes in pieces of b = batch_size / replicas rows.
    shard: (i, n), this process is the i-th of n and gets the i-th part of every batch's rows; nothing
        of the others' is read.
    cache: "memory" or a folder to keep decoded pictures in; None decodes them each time.
    services: addresses of `tfvit data-service` processes, which then do the reading and augmenting.
    Raises UserError if the numbers do not divide, the classes are not known or the cache's folder cannot
    be written to.
    """
    rows = _rows(batch_size, shard)
    piece = _piece(batch_size, replicas, shard)
    if repeats < 1:
        raise UserError(f"repeats {repeats} must be more than 0")
    if not 0 <= balance <= 1:
        raise UserError(f"balance {balance} is not in [0, 1]")
    caches.check(cache)
    at_once = max(n for n in range(1, AT_ONCE + 1) if piece % n == 0)
    load = views.augmented(spec, augmentation, seed, cache, anywhere=bool(services))

    def pieces(turn: int, turns: int) -> tf.data.Dataset:
        stream = order.examples(
            *(split, seed, batch_size, start_step),
            rows=rows,
            steps=((start_step + turn) % turns, turns),
            repeats=repeats,
            balance=balance,
        )
        some = stream.batch(at_once, drop_remainder=True)
        loaded = some.map(load, tf.data.AUTOTUNE, deterministic=True)
        return loaded.batch(piece // at_once, drop_remainder=True).map(_joined)

    batches = service.spread(pieces, services, (rows[1] - rows[0]) // piece)
    return batches.map(_noting(unreadable)).prefetch(tf.data.AUTOTUNE)


@tf.autograph.experimental.do_not_convert  # as `model.build`
def eval_batches(
    split: Split,
    spec: PreprocessSpec,
    batch_size: int,
    *,
    unreadable: Unreadable,
    names: list[str] | None = None,
    replicas: int = 1,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """One pass in order, preprocessed by the device's own code, the last batch filled up with mask 0.

    names: takes those of the images that could be read, in order, of the rows of this process.
    Batches, `replicas` and `shard` are those of `train_batches`; every process gets the same number.
    """
    first, end = _rows(batch_size, shard)
    rows, steps = end - first, math.ceil(split.size / batch_size)
    piece = _piece(batch_size, replicas, shard)
    load = views.as_the_device_does(spec)

    def fill(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = rows - tf.shape(batch["mask"])[0]
        filled = {}
        for name, x in batch.items():
            padding = tf.concat([[[0, missing]], tf.zeros([x.shape.rank - 1, 2], tf.int32)], axis=0)
            filled[name] = tf.ensure_shape(tf.pad(x, padding), [rows, *x.shape[1:]])
        return filled

    examples = _in_order(split, batch_size, first, end)
    batches = examples.map(load, tf.data.AUTOTUNE, deterministic=True).batch(rows)
    batches = batches.map(_noting(unreadable, names))
    if (
        split.size - (steps - 1) * batch_size <= first
    ):  # the last batch has nothing for this process
        nothing = batches.take(1).map(lambda b: {name: x[:0] for name, x in b.items()})
        batches = batches.concatenate(nothing)
    pieces = batches.map(fill).unbatch().batch(piece, drop_remainder=True)
    return pieces.prefetch(tf.data.AUTOTUNE)


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


def _rows(batch_size: int, shard: tuple[int, int]) -> tuple[int, int]:
    """The first row of a process's part of every batch, and the row after its last."""
    index, count = shard
    if batch_size % count:
        raise UserError(f"batch size {batch_size} does not divide over {count} processes")
    return index * batch_size // count, (index + 1) * batch_size // count


def _piece(batch_size: int, replicas: int, shard: tuple[int, int]) -> int:
    """Rows of a batch for one of `replicas` devices in all."""
    if replicas < 1 or batch_size % replicas:
        raise UserError(f"batch size {batch_size} does not divide by {replicas} devices")
    if replicas % shard[1]:
        raise UserError(f"{replicas} devices do not divide over {shard[1]} processes")
    return batch_size // replicas


def _in_order(split: Split, batch_size: int, first: int, end: int) -> Stream:
    """The examples whose row in their batch is from `first` to before `end`."""
    if (first, end) == (0, batch_size):
        return split.in_order()

    def mine(index: tf.Tensor) -> tf.Tensor:
        row = index % batch_size
        return (first <= row) & (row < end)

    if split.at is None:
        return split.in_order().filter(lambda example: mine(example["index"]))
    return tf.data.Dataset.range(split.size).filter(mine).map(lambda i: split.at(i, i))


def _joined(pieces: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Every tensor [n, m, ...] of some examples as [n * m, ...]."""
    return {
        name: tf.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]]) for name, x in pieces.items()
    }


def _noting(unreadable: Unreadable, readable: list[str] | None = None):
    """Takes names and problems out of a batch; those of pictures that have one go to `unreadable`.

    readable: takes the names of the others.
    """

    def note(names: np.ndarray, problems: np.ndarray) -> np.bool_:
        for name, problem in zip(names, problems):
            if problem:
                unreadable[name.decode()] = problem.decode()
            elif readable is not None:
                readable.append(name.decode())
        return np.True_

    def split_off(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        name, problem = batch.pop("name"), batch.pop("problem")
        noted = tf.cond(
            (readable is None) & tf.reduce_all(batch["mask"] > 0),
            lambda: True,
            lambda: tf.ensure_shape(tf.numpy_function(note, [name, problem], tf.bool), []),
        )
        with tf.control_dependencies([noted]):
            return {key: tf.identity(x) for key, x in batch.items()}

    return split_off
