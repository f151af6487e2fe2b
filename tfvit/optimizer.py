"""AdamW on a warm-up and cosine schedule, and its state by name."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.errors import UserError

NO_DECAY = ("/bias", "/gamma", "/beta", "cls/token", "position/embedding")


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to 0 at `total` steps."""

    def __init__(self, peak: float, warmup: int, total: int) -> None:
        self.peak, self.warmup, self.total = peak, warmup, total

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        rising = (step + 1) / max(self.warmup, 1)
        done = (step - self.warmup) / max(self.total - self.warmup, 1)
        falling = 0.5 * (1 + tf.cos(math.pi * tf.clip_by_value(done, 0.0, 1.0)))
        return self.peak * tf.where(step < self.warmup, tf.minimum(rising, 1.0), falling)

    def get_config(self) -> dict:
        return {"peak": self.peak, "warmup": self.warmup, "total": self.total}


def adamw(
    variables: list[tf.Variable],
    peak: float,
    warmup: int,
    total: int,
    weight_decay: float,
) -> keras.optimizers.Optimizer:
    """AdamW (b1 0.9, b2 0.999) built for `variables`; kernels decay, biases, norms and embeddings do not."""
    optimizer = keras.optimizers.AdamW(
        WarmupCosine(peak, warmup, total), weight_decay=weight_decay, jit_compile=False
    )
    optimizer.exclude_from_weight_decay(var_names=list(NO_DECAY))
    optimizer.build(variables)
    return optimizer


def state(optimizer: keras.optimizers.Optimizer) -> dict[str, np.ndarray]:
    """The optimizer's variables by name and place, for `restore`."""
    return {_key(i, v): np.asarray(v.numpy()) for i, v in enumerate(optimizer.variables)}


def restore(optimizer: keras.optimizers.Optimizer, saved: dict[str, np.ndarray]) -> None:
    """Gives a built optimizer the state that `state` returned; UserError if it is another's."""
    for i, variable in enumerate(optimizer.variables):
        value = saved.get(_key(i, variable))
        if value is None or value.shape != tuple(variable.shape):
            raise UserError(f"optimizer state does not fit: {variable.name}")
        variable.assign(value)


def _key(index: int, variable: tf.Variable) -> str:
    return f"{index:04d}/{variable.name.removesuffix(':0')}"
