"""Mixup and cutmix: every picture of a batch blended with another, and so are their targets."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError

TABLE = 4096  # values at which the Beta distribution is integrated


def mix(
    pixels: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, *, mixup: float, cutmix: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """A batch, each picture mixed with that of the same place counted from the end.

    pixels: [b, height, width, 3]; targets: float [b, classes]; seed: int32 [2], of the batch.
    mixup, cutmix: both parameters of the Beta distribution that the share comes from; 0 leaves it out;
        with both, each has half of the batches. One share for a batch, as in timm.
    Returns pixels (float32 unless they were float) and targets; compiles under XLA.
    Source: arXiv 1710.09412 (mixup), arXiv 1905.04899 (cutmix, the share of the box that is inside).
    Raises UserError if one of them is negative.
    """
    if min(mixup, cutmix) < 0:
        raise UserError(f"mixup {mixup} and cutmix {cutmix} cannot be negative")
    if not mixup and not cutmix:
        return pixels, targets
    pixels = pixels if pixels.dtype.is_floating else tf.cast(pixels, tf.float32)
    draws = tf.random.stateless_uniform([4], seed)
    height, width = pixels.shape[1:3]
    inside = tf.zeros([height, width], tf.bool)
    blend = kept = beta_quantile(draws[0], mixup) if mixup else tf.ones([])
    if cutmix:
        box, outside = _box(draws[1:3], beta_quantile(draws[0], cutmix), height, width)
        is_cut = draws[3] < 0.5 if mixup else tf.constant(True)
        inside, blend = inside | (box & is_cut), tf.where(is_cut, 1.0, blend)
        kept = tf.where(is_cut, outside, kept)
    weight = tf.where(inside, 0.0, blend)[tf.newaxis, :, :, tf.newaxis]
    return _blend(pixels, tf.cast(weight, pixels.dtype)), _blend(
        targets, tf.cast(kept, targets.dtype)
    )


def beta_quantile(probability: tf.Tensor, concentration: float) -> tf.Tensor:
    """The value below which a Beta(c, c) variable stays with this probability; float32, of its shape.

    The inverse of a table: the density in t where x = (1 + tanh(t)) / 2, which stays smooth where
    that in x has poles. Gamma variables would need rejection, which XLA has no static shape for.
    """
    reach = 4 + 12 / min(concentration, 3)  # the tails beyond fall off as exp(-2 c t)
    t = np.linspace(-reach, reach, TABLE)
    log_density = concentration * (-2 * np.logaddexp(t, -t))  # (x (1 - x)) ** c, but for a constant
    density = np.exp(log_density - log_density.max())
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    mass, t = tf.constant(mass / mass[-1], tf.float32), tf.constant(t, tf.float32)
    flat = tf.reshape(probability, [-1])
    above = tf.clip_by_value(tf.searchsorted(mass, flat, side="right"), 1, TABLE - 1)
    low, high = tf.gather(mass, above - 1), tf.gather(mass, above)
    part = (flat - low) / tf.maximum(high - low, 1e-30)
    found = tf.gather(t, above - 1) + part * (tf.gather(t, above) - tf.gather(t, above - 1))
    return tf.reshape(tf.sigmoid(2 * found), tf.shape(probability))


def _box(
    centre: tf.Tensor, kept: tf.Tensor, height: int, width: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """(True in a box of 1 - kept of the area around `centre`, clipped; the share outside of it)."""
    inside = []
    for part, size in ((centre[0], height), (centre[1], width)):
        half = tf.floor(size * tf.sqrt(1 - kept)) / 2
        at, places = tf.floor(part * size), tf.range(size, dtype=tf.float32)
        inside.append((places >= tf.floor(at - half)) & (places < tf.floor(at + half)))
    box = inside[0][:, tf.newaxis] & inside[1]
    return box, 1 - tf.reduce_mean(tf.cast(box, tf.float32))


def _blend(x: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    return x * kept + tf.reverse(x, [0]) * (1 - kept)
