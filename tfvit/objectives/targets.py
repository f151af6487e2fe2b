"""What is predicted of a patch: colours of 3 bits a channel, or its pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from edge_demo.preprocess import PreprocessSpec
from tfvit import objectives as names
from tfvit.preprocess import normalise

BITS = 3  # of a channel
LEVELS = 2**BITS
COLORS = LEVELS**3
LOW_RES = 4  # colours down and across of the low-resolution target
EPSILON = 1e-6  # beside the variance of a patch


def patches(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Pictures [b, h * size, w * size, c] cut into patches, row after row: [b, h * w, size, size, c]."""
    height, width, channels = pixels.shape[1:]
    h, w = height // size, width // size
    x = tf.reshape(pixels, [-1, h, size, w, size, channels])
    return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, h * w, size, size, channels])


def picture(parts: tf.Tensor, grid: tuple[int, int]) -> tf.Tensor:
    """Patches [b, h * w, size, size, c] put together again, the inverse of `patches`; grid: (h, w)."""
    (h, w), (size, _, channels) = grid, parts.shape[2:]
    x = tf.transpose(tf.reshape(parts, [-1, h, w, size, size, channels]), [0, 1, 3, 2, 4, 5])
    return tf.reshape(x, [-1, h * size, w * size, channels])


def colors(parts: tf.Tensor, cells: int) -> tf.Tensor:
    """The mean colours of `cells` x `cells` parts of each patch, 3 bits a channel.

    parts: grey levels 0-255, uint8 [b, m, size, size, 3]. Returns int32 [b, m, cells ** 2], red first:
    64 * red + 8 * green + blue. Whole numbers throughout: exact, whatever the device.
    """
    x = tf.cast(parts, tf.int32)
    m, size = x.shape[1:3]
    if size % cells:
        x = tf.repeat(tf.repeat(x, cells, axis=2), cells, axis=3)
        size *= cells
    side = size // cells
    x = tf.reshape(x, [-1, m, cells, side, cells, side, 3])
    bits = tf.reduce_sum(x, axis=[3, 5]) // (side * side * (256 // LEVELS))
    weights = tf.constant([LEVELS**2, LEVELS, 1])
    return tf.reshape(tf.reduce_sum(bits * weights, axis=-1), [-1, m, cells * cells])


@dataclasses.dataclass(frozen=True)
class Target:
    """A row of the table; shapes: b batch, m patches, size pixels of a patch on a side.

    outputs: size -> numbers that are predicted of a patch.
    losses: (prediction float32 [b, m, outputs], patches uint8 [b, m, size, size, 3], spec) -> figures by
        name, each [b, m]: "loss", and "colors", the share of the colours that is right, where it has any.
    shown: the same arguments -> what is predicted, as grey levels float32 [b, m, size, size, 3].
    figures: names of what `losses` gives beside "loss". guess: the loss of one that knows nothing.
    """

    outputs: Callable[[int], int]
    losses: Callable[[tf.Tensor, tf.Tensor, PreprocessSpec], dict[str, tf.Tensor]]
    shown: Callable[[tf.Tensor, tf.Tensor, PreprocessSpec], tf.Tensor]
    figures: tuple[str, ...]
    guess: float


def _of_colors(cells: int) -> Target:
    def losses(prediction, parts, spec):
        truth = colors(parts, cells)
        logits = tf.reshape(prediction, [-1, *truth.shape[1:], COLORS])
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(truth, logits)
        right = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), truth)
        return {
            "loss": tf.reduce_mean(each, axis=-1),
            "colors": tf.reduce_mean(tf.cast(right, tf.float32), axis=-1),
        }

    def shown(prediction, parts, spec):
        m, size = parts.shape[1:3]
        logits = tf.reshape(prediction, [-1, m, cells, cells, COLORS])
        best = tf.argmax(logits, axis=-1, output_type=tf.int32)[..., tf.newaxis]
        channels = best // tf.constant([LEVELS**2, LEVELS, 1]) % LEVELS
        levels = (tf.cast(channels, tf.float32) + 0.5) * (256 / LEVELS)
        at = tf.range(size) * cells // size
        return tf.gather(tf.gather(levels, at, axis=2), at, axis=3)

    return Target(lambda size: cells**2 * COLORS, losses, shown, ("colors",), math.log(COLORS))


def _of_pixels(scaled: bool) -> Target:
    """Mean squared error of a patch's normalised pixels.

    scaled: with mean 0 and deviation 1 in each patch, as facebookresearch/mae models_mae.py has it.
    """

    def moments(parts, spec):
        truth = normalise(parts, spec)
        truth = tf.reshape(truth, [-1, parts.shape[1], math.prod(parts.shape[2:])])
        if not scaled:
            return truth, tf.zeros([]), tf.ones([])
        mean = tf.reduce_mean(truth, axis=-1, keepdims=True)
        count = truth.shape[-1]
        squares = tf.reduce_sum((truth - mean) ** 2, axis=-1, keepdims=True)
        return truth, mean, tf.sqrt(squares / (count - 1) + EPSILON)

    def losses(prediction, parts, spec):
        truth, mean, deviation = moments(parts, spec)
        error = prediction - (truth - mean) / deviation
        return {"loss": tf.reduce_mean(error**2, axis=-1)}

    def shown(prediction, parts, spec):
        _, mean, deviation = moments(parts, spec)
        return tf.reshape(prediction * deviation + mean, tf.shape(parts)) * spec.std + spec.mean

    return Target(lambda size: 3 * size**2, losses, shown, (), 1.0)


TARGETS = {
    "mean-color": _of_colors(1),
    "low-res": _of_colors(LOW_RES),
    "full": _of_pixels(scaled=False),
    "normalized": _of_pixels(scaled=True),
}
assert TARGETS.keys() == set(names.TARGETS)
