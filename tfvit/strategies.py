"""`--strategy NAME` -> a tf.distribute strategy."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def _mirrored() -> tf.distribute.Strategy:
    """One replica on every GPU, or on every (virtual) CPU device where there is no GPU."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def _auto() -> tf.distribute.Strategy:
    return _mirrored() if len(tf.config.list_logical_devices("GPU")) > 1 else _one()


def _one() -> tf.distribute.Strategy:
    return tf.distribute.get_strategy()


STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy]] = {
    "auto": _auto,
    "one": _one,
    "mirrored": _mirrored,
}
