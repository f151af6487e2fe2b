"""Quantization-aware fine-tuning of the edge graph: tfmot quantizers, the float graph as teacher.

Ranges of the activations are calibrated first, then trained with the weights, then frozen in the file;
the weights have ranges of their own, per channel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot

from convert import answers, edge_graph, sites
from convert.edge_graph import Quantize
from convert.extras import outputs
from convert.fold import Weights
from convert.schemes import BLOCK, Scheme, blockwise
from convert.sites import Range
from edge_demo.errors import UserError
from edge_demo.scores import SOFTMAX
from tfvit.architecture import Architecture
from tfvit.optimizer import Optimizer
from tfvit.recipe import Recipe

quantizers = tfmot.quantization.keras.quantizers
SHARE = 0.9999  # of the values that a percentile keeps within its range, at either end
SAMPLE = 2**16  # values of a tensor that a percentile is taken from
# Whole numbers; what normalises a picture; what the logits do not depend on.
NOT_TRAINED = ("residual/mean", "input/scale", "input/shift", "features/gamma", "features/beta")
RANGES_FASTER = 300.0  # learning rate of a range, over that of a weight


class KernelQuantizer(quantizers.Quantizer):
    """Rounds a kernel [in, out] symmetrically, each output channel (and block of inputs) by its own range.

    tfmot's LastValueQuantizer without its variables: the range is the kernel's own at any moment, so
    that it can be compiled by XLA and copied to replicas.
    """

    def __init__(self, bits: int, block: int | None = None) -> None:
        self.bits, self.block = bits, block

    def build(self, tensor_shape, name, layer) -> dict:
        return {}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict, **kwargs) -> tf.Tensor:
        rows, columns = inputs.shape
        block = self.block or rows
        blocks = tf.reshape(inputs, [rows // block, block, columns])
        blocks = tf.reshape(tf.transpose(blocks, [1, 0, 2]), [block, -1])
        limit = tf.maximum(tf.reduce_max(tf.abs(tf.stop_gradient(blocks)), axis=0), 1e-12)
        if self.block:  # a block's scale is kept in 16 bits, of a precision that both formats have
            steps = 2 ** (self.bits - 1) - 1
            limit = steps * tf.cast(tf.cast(limit / steps, tf.bfloat16), tf.float32)
        blocks = tf.quantization.fake_quant_with_min_max_vars_per_channel(
            blocks, -limit, limit, num_bits=self.bits, narrow_range=True
        )
        blocks = tf.transpose(tf.reshape(blocks, [block, rows // block, columns]), [1, 0, 2])
        return tf.reshape(blocks, [rows, columns])

    def get_config(self) -> dict:
        return {"bits": self.bits, "block": self.block}


class RowQuantizer(quantizers.Quantizer):
    """Rounds each row of a tensor [rows, n] to int8 by its own range, as XNNPACK's dynamic kernels do."""

    def build(self, tensor_shape, name, layer) -> dict:
        return {}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict, **kwargs) -> tf.Tensor:
        low = tf.minimum(tf.reduce_min(inputs, axis=-1, keepdims=True), 0.0)
        high = tf.maximum(tf.reduce_max(inputs, axis=-1, keepdims=True), 0.0)
        step = tf.maximum((high - low) / 255, 1e-12)
        zero_point = tf.round(-128 - low / step)
        held = tf.clip_by_value(tf.round(inputs / step) + zero_point, -128, 127)
        return inputs + tf.stop_gradient((held - zero_point) * step - inputs)

    def get_config(self) -> dict:
        return {}


def _round(x: tf.Tensor, step: float | tf.Tensor, low: float | tf.Tensor) -> tf.Tensor:
    """x rounded to 256 steps from `low`."""
    zero_point = tf.round(-128 - low / step)
    return tf.clip_by_value(tf.round(x * (1 / step)), -128 - zero_point, 127 - zero_point) * step


@tf.custom_gradient
def _round_and_learn(x: tf.Tensor, step: tf.Tensor, low: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """`_round`, and its gradients to x and step.

    Written out because a training step is 1.18 times a float one so, and 1.38 times by autodiff: nothing
    but x is kept, and the sum over a whole tensor goes by columns first.
    """

    def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        zero_point, value = tf.round(-128 - low / step), x * (1 / step)
        first, last = -128 - zero_point, 127 - zero_point
        inside = tf.logical_and(value > first, value < last)
        rounded = tf.clip_by_value(tf.round(value), first, last)
        error = upstream * (rounded - tf.where(inside, value, 0.0))
        columns = tf.reduce_sum(tf.reshape(error, [-1, error.shape[-1]]), axis=0)
        return tf.where(inside, upstream, 0.0), tf.reduce_sum(columns), tf.zeros_like(low)

    return _round(x, step, low), gradients


class StepQuantizer(quantizers.Quantizer):
    """Rounds a tensor to int8 in a range: numbers, or tensors that are trained.

    The gradient reaches the step of a trained range too (Learned Step Size Quantization, arXiv
    1902.08153, equation 3); another range lets it pass as if nothing were rounded, which is free.
    """

    def __init__(self, low: float | tf.Tensor, high: float | tf.Tensor) -> None:
        self.low, self.high = low, high

    def build(self, tensor_shape, name, layer) -> dict:
        return {}

    def __call__(self, inputs: tf.Tensor, training: bool, weights: dict, **kwargs) -> tf.Tensor:
        step = (self.high - self.low) / 255
        if tf.is_tensor(step):
            return _round_and_learn(inputs, step, self.low)
        return inputs + tf.stop_gradient(_round(inputs, step, self.low) - inputs)

    def get_config(self) -> dict:
        return {"low": float(self.low), "high": float(self.high)}


def rounding(
    arch: Architecture,
    scheme: Scheme,
    ranges: Mapping[str, tuple[float | tf.Tensor, float | tf.Tensor]],
    in_float: frozenset[str] = frozenset(),
) -> Quantize:
    """What a scheme's file does to the tensors of the edge graph: `edge_graph.forward` takes it.

    ranges: (lowest, highest) of the rounded activation sites (`calibrate`).
    in_float: layers (`sites.layers`) that stay in float.
    """
    rounded = sites.rounded(arch, scheme, in_float)

    def quantizer(name: str, site: sites.Site, x: tf.Tensor) -> quantizers.Quantizer:
        if site.rows:
            return RowQuantizer()
        if not site.kernel:
            return StepQuantizer(*(site.fixed or ranges[name]))
        if blockwise(scheme, name.removesuffix("/kernel"), x.shape[0]):
            return KernelQuantizer(4, BLOCK)
        return KernelQuantizer(8)

    def quantize(name: str, x: tf.Tensor) -> tf.Tensor:
        site = rounded.get(name)
        return quantizer(name, site, x)(x, training=False, weights={}) if site else x

    return quantize


def simulate(
    weights: Weights, arch: Architecture, quantize: Quantize
) -> Callable[[np.ndarray], np.ndarray]:
    """Logits [n, classes] of grey levels [n, h, w, 3] by the rounded graph, a few at a time."""

    @tf.function(autograph=False)
    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return edge_graph.forward(weights, tf.cast(pixels, tf.float32), arch, quantize)

    def logits(pixels: np.ndarray) -> np.ndarray:
        parts = [pixels[i : i + 16] for i in range(0, len(pixels), 16)]
        return np.concatenate([forward(part).numpy() for part in parts])

    return logits


def calibrate(
    weights: Weights,
    arch: Architecture,
    batches: Iterable[tf.Tensor],
    method: str,
    advance: Callable[[], object],
    extras: Collection[str] = (),
) -> dict[str, Range]:
    """(lowest, highest) of every activation site over batches of grey levels [b, h, w, 3].

    method: "minmax", the extremes of all; "average", the mean over the batches of their extremes;
        "percentile", the mean over the batches of what all but 0.01 % of the values are within.
    """
    known = sites.ranged(arch, extras)
    share = SHARE if method == "percentile" else 1.0

    def ends_of(name: str, x: tf.Tensor) -> tf.Tensor | None:
        return _ends(x, share) if name in known else None

    graph = functools.partial(outputs, extras=extras)
    seen = list(edge_graph.observe(weights, arch, batches, ends_of, advance, graph))
    ranges = {}
    for name, site in known.items():
        ends = np.array([batch[name] for batch in seen], np.float64)  # [batches, 2]
        over = ends.mean(axis=0)
        low, high = (ends[:, 0].min(), ends[:, 1].max()) if method == "minmax" else over
        ranges[name] = site.fixed or _range(max(low, site.floor), high, site.symmetric)
    return ranges


def _range(low: float, high: float, symmetric: bool) -> Range:
    """A range that int8 can hold: with zero inside, and for zero point 0 from -128 to 127 steps."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if symmetric:
        step = max(-low, high, 1e-6) / 127
        return -128 * step, 127 * step
    return low, max(high, low + 1e-6)


def _ends(x: tf.Tensor, share: float) -> tf.Tensor:
    """What the values of a tensor are within, all but 1 - share of them at either end: [2]."""
    if share == 1:
        return tf.stack([tf.reduce_min(x), tf.reduce_max(x)])
    x = tf.reshape(x, [-1])
    x = x[:: max(1, x.shape[0] // SAMPLE) | 1]  # an odd stride meets every channel
    beyond = max(1, round(x.shape[0] * (1 - share)))
    return tf.stack([-tf.math.top_k(-x, beyond)[0][-1], tf.math.top_k(x, beyond)[0][-1]])


def finetune(
    weights: Weights,
    arch: Architecture,
    scheme: Scheme,
    ranges: dict[str, Range],
    batches: Iterable[tf.Tensor],
    *,
    steps: int,
    learning_rate: float,
    strategy: tf.distribute.Strategy,
    scores: str = SOFTMAX,
    xla: bool = True,
    advance: Callable[[float], object],
) -> tuple[Weights, dict[str, Range], list[float]]:
    """Trains weights and ranges so that the rounded graph answers as the float graph does (distillation).

    batches: grey levels [b, h, w, 3], distributed by `strategy`. learning_rate: peak, relative to the
    size of each weight, and RANGES_FASTER times that for the ranges; it ends at zero, which freezes them.
    scores: what the model makes of its logits, a name of `edge_demo.scores.SCORES`.
    advance: called with the loss of each step.
    Returns the weights, the ranges and the losses (`make_forward_backward`).
    Raises UserError if the loss stops being a number.
    """
    start = trainable(weights, arch, scheme, ranges)
    with strategy.scope():
        units = {name: tf.Variable(unit, name=name) for name, (unit, _) in start.items()}
        recipe = Recipe(
            steps=steps,
            warmup_steps=steps // 10,
            learning_rate=learning_rate,
            optimizer="adam",
            weight_decay=0.0,
        )
        adam = Optimizer(recipe, units)
    forward_backward = tf.function(
        make_forward_backward(weights, arch, scheme, ranges, scores),
        jit_compile=xla,
        autograph=False,
    )

    def replica_step(pixels: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        loss, gradients = forward_backward(
            pixels, {name: unit.value() for name, unit in units.items()}
        )
        replica = tf.distribute.get_replica_context()
        gradients = replica.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        adam.apply([gradients[name] for name in units], number)
        return loss

    @tf.function(autograph=False)
    def step(pixels: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        loss = strategy.run(replica_step, args=(pixels, number))
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, loss, None)

    losses = []
    for number, pixels in zip(range(steps), batches):
        losses.append(float(step(pixels, tf.constant(number))))
        if not np.isfinite(losses[-1]):
            raise UserError(f"quantization-aware loss is {losses[-1]}; try a lower --qat-lr")
        advance(losses[-1])
    found = {name: unit.numpy() * start[name][1] for name, unit in units.items()}
    ranges = {
        name: tuple(map(float, _stretched(ends, found.get(name)))) for name, ends in ranges.items()
    }
    return {name: found.get(name, value) for name, value in weights.items()}, ranges, losses


def trainable(
    weights: Weights, arch: Architecture, scheme: Scheme, ranges: dict[str, Range]
) -> dict[str, tuple[np.ndarray, float]]:
    """What is trained, by name, as (start, unit): the value is their product.

    Weights, but for NOT_TRAINED, each in units of its own size so that one learning rate suits all; and
    for each range of a tensor that a layer reads or writes, by the site's name, the logarithm of the
    factor that it is stretched by. A range that is fixed or between layers stays as it is: to train those
    too makes a step of int8-full 1.5 times a float one, not 1.2.
    """
    start = {}
    for name, value in weights.items():
        if name not in NOT_TRAINED:
            unit = max(_rms(value), 1e-8)
            start[name] = (value / unit, unit)
    for name, site in sites.rounded(arch, scheme, frozenset()).items():
        if name in ranges and site.layers and not site.fixed:
            start[name] = (np.float32(0), RANGES_FASTER)
    return start


def make_forward_backward(
    teacher: Weights,
    arch: Architecture,
    scheme: Scheme,
    ranges: dict[str, Range],
    scores: str = SOFTMAX,
) -> Callable:
    """The function (pixels, `trainable` tensors in their units) -> (loss, gradients by name).

    The loss is how far the rounded graph is from the float one: the Kullback-Leibler divergence of its
    answer, and the mean over the blocks of the relative squared error of the residual stream, which tells
    much more of an image than a few classes do (hint learning, arXiv 1412.6550).
    """
    units = {name: unit for name, (_, unit) in trainable(teacher, arch, scheme, ranges).items()}

    def run(w: dict, pixels: tf.Tensor, quantize: Quantize) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Logits, and the residual stream after each block."""
        residuals = []

        def note(name: str, x: tf.Tensor) -> tf.Tensor:
            if name.endswith("mlp/residual"):
                residuals.append(x)
            return quantize(name, x)

        return edge_graph.forward(w, pixels, arch, note), residuals

    def forward_backward(pixels: tf.Tensor, values: dict) -> tuple[tf.Tensor, dict]:
        pixels = tf.cast(pixels, tf.float32)
        target, residuals = run(teacher, pixels, lambda name, x: x)
        with tf.GradientTape() as tape:
            tape.watch(values)
            now = teacher | {name: value * units[name] for name, value in values.items()}
            stretched = {name: _stretched(ends, now.get(name)) for name, ends in ranges.items()}
            found, streams = run(now, pixels, rounding(arch, scheme, stretched))
            errors = [_relative(x, y, pixels.shape[0]) for x, y in zip(streams, residuals)]
            loss = tf.reduce_mean(answers.divergence(target, found, scores)) + tf.reduce_mean(
                errors
            )
        return loss, tape.gradient(loss, values, unconnected_gradients="zero")

    return forward_backward


def _relative(x: tf.Tensor, reference: tf.Tensor, images: int) -> tf.Tensor:
    """Squared error of each image's part of a tensor, over its square: [images]."""
    errors, squares = (
        tf.reduce_sum(tf.reshape(tf.square(z), [images, -1]), axis=-1)
        for z in (x - reference, reference)
    )
    return errors / squares


def _stretched(ends: Range, stretch: tf.Tensor | None) -> tuple:
    """A range stretched around zero, which keeps its zero point, by the exponential of `stretch`."""
    return ends if stretch is None else (ends[0] * tf.exp(stretch), ends[1] * tf.exp(stretch))


def _rms(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
