"""What a model costs to run: multiply-adds, parameters, memory, and images per second on this machine."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

from edge_demo.tables import scaled, table
from tfvit.architecture import Architecture, ResNetArchitecture

SECONDS = 2.0  # that throughput is measured for
FLOAT32 = 4  # bytes
TRAINING = 3  # forward passes that training on an image costs: the backward pass is two


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one image costs.

    macs: multiply-adds of matrix products and convolutions, two FLOPs each; all else is left out, as in
        the literature's tables.
    weights: bytes.
    activations: bytes held at the fullest moment, if each op runs on its own and each tensor is freed after
        its last use; a batch of n holds n times as much.
    images_per_second: measured here; None if it was not.
    """

    model: str
    image_size: tuple[int, int]
    parameters: int
    macs: int
    weights: int
    activations: int
    images_per_second: float | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations of a forward pass: a multiply-add is two."""
        return 2 * self.macs

    def training(self, images: int) -> int:
        """FLOPs of training on so many images, forward and backward: arXiv 2010.11929, table 6."""
        return TRAINING * self.flops * images

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        return {**dataclasses.asdict(self), "flops": self.flops}


def of_architecture(arch: Architecture | ResNetArchitecture) -> Cost:
    """The cost of a float32 model, counted on graphs that are never run."""
    depth = getattr(arch, "depth", 1)
    if depth <= 2:
        return _counted(arch)
    one, two = (_counted(dataclasses.replace(arch, depth=n)) for n in (1, 2))  # blocks are alike

    def whole(field: str) -> int:
        first, second = getattr(one, field), getattr(two, field)
        return second + (depth - 2) * (second - first)

    return dataclasses.replace(
        two, **{field: whole(field) for field in ("parameters", "macs", "weights")}
    )


def _counted(arch: Architecture | ResNetArchitecture) -> Cost:
    import tensorflow as tf

    from tfvit import flops
    from tfvit.model import build

    with tf.Graph().as_default() as graph:
        model = build(arch)  # in a graph, weights have shapes and no memory
        images = tf.compat.v1.placeholder(tf.float32, [1, *arch.image_size, 3])
        ops = flops.needed(graph, [model(images, training=False)])
        parameters = sum(w.shape.num_elements() for w in model.weights)
        return Cost(
            model=arch.name,
            image_size=arch.image_size,
            parameters=parameters,
            macs=flops.multiply_adds(ops),
            weights=FLOAT32 * parameters,
            activations=flops.peak_bytes(ops, []),
        )


def throughput(model, batch_size: int) -> float:
    """Images per second of a `Model` on this machine, pixels on the device to logits, batch by batch."""
    import tensorflow as tf

    from tfvit.evaluate.classification import forward_function

    shape = (batch_size, *model.architecture.image_size, 3)
    batch = {
        "pixels": tf.random.uniform(shape, maxval=255.0),
        "label": tf.zeros(batch_size, tf.int64),
        "mask": tf.ones(batch_size),
    }
    forward = forward_function(model)
    forward(batch)  # compiles
    start, runs = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < SECONDS or not runs:
        forward(batch)
        runs += 1
    return runs * batch_size / elapsed


def tflite_throughput(path: Path) -> float:
    """Images per second of a .tflite on all cores of this machine, one at a time."""
    from edge_demo.errors import UserError
    from edge_demo.measure import benchmark

    found = benchmark.measure([path], [os.cpu_count() or 1], SECONDS)[0]
    if "error" in found:
        raise UserError(f"{path}: {found['error']}")
    return found["per_second"]


def report(costs: Sequence[Cost]) -> str:
    """Costs as a table for people."""
    measured = any(cost.images_per_second for cost in costs)
    header = ["model", "pixels", "parameters", "multiply-adds", "weights", "activations"]
    rows = [
        [
            cost.model,
            "x".join(map(str, dict.fromkeys(cost.image_size))),
            scaled(cost.parameters).strip(),
            scaled(cost.macs).strip(),
            f"{scaled(cost.weights)}B",
            f"{scaled(cost.activations)}B",
            *([f"{cost.images_per_second:.1f}"] if measured else []),
        ]
        for cost in costs
    ]
    return table(rows, header + ["images/s"] * measured)
