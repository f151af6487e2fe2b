"""What a training run will cost, before anything is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from edge_demo.tables import scaled
from tfvit import flops, state
from tfvit.model import build
from tfvit.objectives.objective import Objective
from tfvit.optimizer import RULES, trained
from tfvit.recipe import DTYPES
from tfvit.run import Run

FLOAT32 = 4  # bytes of a weight, a gradient and what the optimizer keeps for it


@dataclasses.dataclass(frozen=True)
class DryRun:
    """The size of a training run; JSON types throughout.

    parameters, trainable: numbers of weights, in all and those that learn.
    macs_per_image: multiply-adds of a forward pass of one image, as the literature has them.
    flops_per_step: of an optimizer step on the whole batch, forward and backward.
    memory: bytes on one device: weights, gradients, optimizer, ema, activations and their total.
    """

    model: str
    image_size: tuple[int, int]
    parameters: int
    trainable: int
    macs_per_image: int
    flops_per_step: int
    memory: dict[str, int]
    batch_size: int
    devices: int
    steps: int
    examples: int

    @property
    def flops_per_image(self) -> int:
        """Floating-point operations of a forward pass of one image."""
        return 2 * self.macs_per_image

    @property
    def epochs(self) -> float:
        """Passes over the training split."""
        return self.steps * self.batch_size / self.examples

    @property
    def flops(self) -> int:
        """Floating-point operations of the whole run."""
        return self.steps * self.flops_per_step

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        derived = ("flops_per_image", "epochs", "flops")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

    def lines(self) -> list[str]:
        """The figures as people read them."""
        height, width = self.image_size
        frozen = self.parameters - self.trainable
        parts = [f"{name} {scaled(n)}B" for name, n in self.memory.items() if n and name != "total"]
        each = "" if self.devices == 1 else f" on each of {self.devices} devices"
        return [
            f"model       {self.model} at {height}x{width}",
            f"parameters  {scaled(self.parameters)}" + f", {scaled(frozen)} frozen" * bool(frozen),
            f"forward     {scaled(self.macs_per_image)} multiply-adds per image "
            f"({scaled(self.flops_per_image)}FLOP)",
            f"step        {scaled(self.flops_per_step)}FLOP for {self.batch_size} images",
            f"memory      about {scaled(self.memory['total'])}B{each}: {', '.join(parts)}",
            f"run         {self.steps} steps, {self.epochs:.1f} epochs of {self.examples} images, "
            f"{scaled(self.flops)}FLOP",
        ]


def of_run(run: Run, examples: int, devices: int = 1) -> DryRun:
    """The cost of a run, but for what a teacher takes; examples: images of its training split."""
    how = run.recipe

    def objective() -> Objective:
        model = build(run.architecture, dtype=DTYPES[how.dtype], remat=how.remat)
        return state.learning(model, how)

    return describe(
        objective,
        batch_size=how.batch_size,
        steps=how.steps,
        examples=examples,
        slots_per_weight=len(RULES[how.optimizer][0]),
        ema=bool(how.ema),
        devices=devices,
        accumulate=how.accumulate,
        frozen=how.frozen,
    )


def describe(
    make: Callable[[], Objective],
    *,
    batch_size: int,
    steps: int,
    examples: int,
    slots_per_weight: float = 2,
    ema: bool = False,
    devices: int = 1,
    accumulate: int = 1,
    frozen: str = "",
) -> DryRun:
    """The cost of learning something, counted on the graph of a step that is never run.

    make: () -> what is learned, as `lambda: state.learning(build(arch, dtype=..., remat=...), recipe)`. It is
        called inside a graph, where weights have shapes and no memory.
    batch_size: global; `devices` and `accumulate` divide it.
    examples: images of the training split.
    slots_per_weight: values the optimizer keeps per trainable weight: 2 of Adam, 1 of momentum.
    frozen: as of `optimizer.trained`.

    The memory of activations is what a step holds at its fullest if each tensor is freed after its last
    use. XLA, which fuses ops, needs less; the workspace of convolutions and the runtime itself come on top.
    """
    at_once = -(-batch_size // (devices * accumulate))
    with tf.Graph().as_default() as graph:
        objective = make()
        model, weights = objective.model, objective.weights
        batch = {
            "pixels": tf.compat.v1.placeholder(tf.uint8, [at_once, *model.input_shape[1:]]),
            "label": tf.compat.v1.placeholder(tf.int64, [at_once]),
            "mask": tf.compat.v1.placeholder(tf.float32, [at_once]),
        }
        batch = objective.prepared(batch, tf.zeros([2], tf.int32), 0)
        loss = objective.losses(batch)["loss"]
        forward = flops.needed(graph, [loss])
        chosen = list(trained(weights, frozen).values())
        found = [g for g in tf.gradients(loss, chosen) if g is not None]
        gradients = [tf.convert_to_tensor(g) for g in found]  # those of rows of a table, too
        step = flops.needed(graph, gradients)
        macs = flops.multiply_adds(forward), flops.multiply_adds(step)
        activations = flops.peak_bytes(step, gradients)
    total, trainable = (
        sum(w.shape.num_elements() for w in ws) for ws in (weights.values(), chosen)
    )
    memory = {
        "weights": FLOAT32 * total,
        "gradients": FLOAT32 * trainable * (2 if accumulate > 1 else 1),
        "optimizer": round(FLOAT32 * trainable * slots_per_weight),
        "ema": FLOAT32 * total * ema,
        "activations": activations,
    }
    return DryRun(
        model=model.architecture.name,
        image_size=model.architecture.image_size,
        parameters=total,
        trainable=trainable,
        macs_per_image=macs[0] // at_once,
        flops_per_step=2 * macs[1] * batch_size // at_once,
        memory=memory | {"total": sum(memory.values())},
        batch_size=batch_size,
        devices=devices,
        steps=steps,
        examples=examples,
    )
