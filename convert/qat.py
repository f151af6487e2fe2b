"""Quantization-aware fine-tuning of the edge graph: tfmot quantizers, the float graph as teacher.

Ranges of the activations are calibrated first and then frozen; weights are trained with their own
per-channel ranges, each in units of its own size so that one learning rate suits all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from convert import edge_graph
from convert.edge_graph import Weights
from edge_demo.errors import UserError
from tfvit.architecture import Architecture
from tfvit.optimizer import WarmupCosine

quantizers = tfmot.quantization.keras.quantizers

FLOAT, CALIBRATE, QUANTIZE = "float", "calibrate", "quantize"
Range = tuple[float, float]
PIXELS: Range = (0.0, 255.0)


class QuantizedEdgeGraph(keras.layers.Layer):
    """The edge graph with a tfmot quantizer at every site: grey levels [b, h, w, 3] -> logits.

    weights: folded weights (`edge_graph.fold`), trained from here. bits: of every site.
    mode of a call: FLOAT ignores the quantizers, CALIBRATE widens the activations' ranges to what it
    sees and computes in float, QUANTIZE rounds as the device will.
    """

    def __init__(self, weights: Weights, arch: Architecture, bits: int = 8) -> None:
        super().__init__(name="edge_graph")
        self.arch = arch
        self.scales = {name: max(_rms(value), 1e-8) for name, value in weights.items()}
        self.units = {
            name: self.add_weight(
                name,
                value.shape,
                initializer=keras.initializers.Constant(value / self.scales[name]),
            )
            for name, value in weights.items()
        }
        self.quantizers, self.ranges = {}, {}
        for site in edge_graph.sites(arch):
            is_kernel = site.endswith("/kernel")
            self.quantizers[site] = (
                quantizers.LastValueQuantizer(
                    bits, per_axis=True, symmetric=True, narrow_range=True
                )
                if is_kernel
                else quantizers.AllValuesQuantizer(
                    bits, per_axis=False, symmetric=False, narrow_range=False
                )
            )
            shape = weights[site].shape if is_kernel else None
            self.ranges[site] = self.quantizers[site].build(shape, site, self)

    def call(self, pixels: tf.Tensor, mode: str = QUANTIZE) -> tf.Tensor:
        weights = {name: unit * self.scales[name] for name, unit in self.units.items()}

        def quantize(site: str, x: tf.Tensor) -> tf.Tensor:
            if mode == FLOAT or (mode == CALIBRATE and site.endswith("/kernel")):
                return x
            update = mode == CALIBRATE or site.endswith("/kernel")
            y = self.quantizers[site](x, training=update, weights=self.ranges[site])
            return x if mode == CALIBRATE else y

        return edge_graph.forward(weights, pixels, self.arch, quantize)

    def folded_weights(self) -> Weights:
        """The weights as they stand, ready to be exported."""
        return {name: unit.numpy() * self.scales[name] for name, unit in self.units.items()}

    def activation_ranges(self) -> dict[str, Range]:
        """(lowest, highest) of every activation site, as they were calibrated."""
        return {
            site: (float(r["min_var"].numpy()), float(r["max_var"].numpy()))
            for site, r in self.ranges.items()
            if not site.endswith("/kernel")
        }


def calibrate(
    graph: QuantizedEdgeGraph, batches: Iterable[tf.Tensor], advance: Callable[[], object]
) -> None:
    """Sets the ranges of the activations to all that occurs in some batches of grey levels."""

    @tf.function
    def observe(pixels: tf.Tensor) -> None:
        graph(pixels, mode=CALIBRATE)

    for pixels in batches:
        observe(tf.cast(pixels, tf.float32))
        advance()
    pixel_range = graph.ranges["embedding/input"]  # known: any grey level may come
    for name, value in zip(("min_var", "max_var"), PIXELS):
        pixel_range[name].assign(value)


def finetune(
    graph: QuantizedEdgeGraph,
    batches: Iterable[tf.Tensor],
    steps: int,
    learning_rate: float,
    advance: Callable[[], object],
) -> list[float]:
    """Trains the quantized graph to answer as the float graph did at the start (distillation).

    batches: grey levels [b, h, w, 3]. learning_rate: peak, relative to the size of each weight.
    Returns the loss of each step: Kullback-Leibler divergence from the teacher, in nats.
    Raises UserError if it stops being a number.
    """
    variables = list(graph.units.values())
    teacher = {name: tf.constant(value) for name, value in graph.folded_weights().items()}
    schedule = WarmupCosine(learning_rate, steps // 10, steps)
    adam = keras.optimizers.Adam(schedule, clipnorm=None, global_clipnorm=1.0, jit_compile=False)
    adam.build(variables)

    @tf.function
    def step(pixels: tf.Tensor) -> tf.Tensor:
        target = tf.nn.log_softmax(edge_graph.forward(teacher, pixels, graph.arch))
        with tf.GradientTape() as tape:
            found = tf.nn.log_softmax(graph(pixels, mode=QUANTIZE))
            loss = tf.reduce_mean(tf.reduce_sum(tf.exp(target) * (target - found), axis=-1))
        adam.apply_gradients(zip(tape.gradient(loss, variables), variables))
        return loss

    losses = []
    for _, pixels in zip(range(steps), batches):
        losses.append(float(step(tf.cast(pixels, tf.float32))))
        if not np.isfinite(losses[-1]):
            raise UserError(f"quantization-aware loss is {losses[-1]}; try a lower --qat-lr")
        advance()
    return losses


def _rms(value: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))
