"""Which picture stands where in an endless training stream: a function of (seed, position) alone.

So a stream begins at any step without reading what came before, and a worker reads its own rows only.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit.data.source import Split, Stream, permuted, shuffled_place


def examples(
    split: Split,
    seed: int,
    batch_size: int,
    start_step: int,
    *,
    rows: tuple[int, int],
    steps: tuple[int, int] = (0, 1),
    repeats: int = 1,
    balance: float = 0.0,
) -> Stream:
    """The examples of rows `rows[0]` to `rows[1]` of every batch from `start_step` on, one by one.

    steps: (k, n) keeps the steps that leave k when divided by n. repeats: how often each picture
    stands in a batch, batch_size / repeats rows apart, rounded up: the last ones may stand once less.
    balance: see `pipeline.train_batches`.
    "index" is the position in the whole stream, of every worker: no two views have the same.
    """
    distinct = math.ceil(batch_size / repeats)
    row = tf.range(*rows, dtype=tf.int64)
    first = start_step + (steps[0] - start_step) % steps[1]
    numbers = tf.data.Dataset.range(first, np.iinfo(np.int64).max // batch_size, steps[1])

    if split.at is None:
        if balance:
            raise UserError(
                f"{split.name}: cannot be balanced, its labels are not known beforehand"
            )
        numbered = split.shuffled(seed, start_step * distinct).batch(distinct, drop_remainder=True)
        batches = numbered.enumerate(start_step)
        if steps[1] > 1:
            batches = batches.filter(lambda step, batch: step % steps[1] == steps[0])

        def take(step: tf.Tensor, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            mine = {name: tf.gather(x, row % distinct) for name, x in batch.items()}
            return {**mine, "index": step * batch_size + row}

        return batches.map(take).unbatch()

    place = balanced_place(split, balance) if balance else shuffled_place

    def positions(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step * batch_size + row, place(step * distinct + row % distinct, seed, split.size)

    return numbers.map(positions).unbatch().map(split.at)


def balanced_place(split: Split, balance: float):
    """As `shuffled_place`, with classes as often as their counts to the power of 1 - balance.

    In every pass a class has its exact share, to within one; no picture of it comes again before all
    of its class were there.
    """
    if split.labels is None:
        raise UserError(f"{split.name}: cannot be balanced, not every picture has one class")
    labels = np.asarray(split.labels)
    members = tf.constant(np.argsort(labels, kind="stable"), tf.int64)
    count = np.bincount(labels)
    share = np.where(count > 0, np.maximum(count, 1) ** (1.0 - balance), 0)
    ends = np.round(np.cumsum(share) / share.sum() * split.size).astype(np.int64)
    of_pass = tf.constant(np.diff(ends, prepend=0))
    before = tf.constant(np.cumsum(count) - count, tf.int64)
    count, ends = tf.constant(count, tf.int64), tf.constant(ends)

    def place(number: tf.Tensor, seed: int, size: int) -> tf.Tensor:
        drawn = shuffled_place(number, seed, size)
        of_class = tf.searchsorted(ends, drawn, side="right", out_type=tf.int64)
        share, have = tf.gather(of_pass, of_class), tf.gather(count, of_class)
        turn = (number // size) * share + drawn - (tf.gather(ends, of_class) - share)
        order = (turn // have) * tf.size(count, tf.int64) + of_class
        member = permuted(turn % have, ~seed, order, have)
        return tf.gather(members, tf.gather(before, of_class) + member)

    return place
