"""What a step of quantization-aware fine-tuning costs over a float step of the same edge graph.

Forward and backward pass, compiled by XLA; the optimizer is the same in all and left out. In turn,
each time in another order; what counts is the median over the rounds of the ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import about
import click
import numpy as np
from command import Command

from edge_demo.tables import table
from tfvit.options import need
from tfvit.progress import progress

TEACHER, ALONE = "float32, with a teacher", "float32"


@click.command(cls=Command)
@click.option("--model", "name", default="vit-s/16", show_default=True)
@click.option("--image-size", "size", default=112, show_default=True, type=click.IntRange(32))
@click.option("--batch-size", "batch", default=16, show_default=True, type=click.IntRange(1))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1))
def main(name: str, size: int, batch: int, rounds: int) -> None:
    """Time of a step for each scheme that is fine-tuned, over float steps with and without a teacher.

    \b
    Example:
      python bench/qat_step.py --model vit-ti/16 --image-size 96 --batch-size 32
    """
    need("convert")
    steps = _steps(name, size, batch)
    times: dict[str, list[float]] = {step: [] for step in steps}
    order = np.random.default_rng(0)
    with progress(rounds + 1, "steps", "round") as bar:
        for i in range(rounds + 1):  # the first round compiles
            for step in order.permutation(list(steps)).tolist():
                began = time.perf_counter()
                steps[step]()
                if i:
                    times[step].append(time.perf_counter() - began)
            bar.update()
    rows = []
    for step, seconds in times.items():
        ratios = (np.median(np.divide(seconds, times[base])) for base in (TEACHER, ALONE))
        rows.append(
            [step, f"{1e3 * np.median(seconds):.0f} ms", *(f"{ratio:.2f}" for ratio in ratios)]
        )
    click.echo(f"\n{name}, {size} pixels, batch {batch}\n")
    click.echo(table(rows, ["step", "time", "over float with teacher", "over float"]))
    click.echo("\n" + about.lines())


def _steps(name: str, size: int, batch: int) -> dict[str, Callable[[], object]]:
    import random_vit
    import tensorflow as tf
    from ours import prepared

    from convert import edge_graph, qat
    from convert.schemes import SCHEMES, Scheme

    model = random_vit.create(name, size=size)
    arch = model.architecture
    images = random_vit.images(batch, seed=2, size=size)
    start, pixels = prepared(model, images), tf.constant(images)

    def alone(batch: tf.Tensor, values: dict) -> tuple[tf.Tensor, dict]:
        with tf.GradientTape() as tape:
            tape.watch(values)
            logits = edge_graph.forward(values, tf.cast(batch, tf.float32), arch)
            loss = -tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])
        return loss, tape.gradient(loss, values)

    def compiled(function: Callable, values: dict) -> Callable[[], object]:
        step = tf.function(function, jit_compile=True)
        values = {name: tf.constant(value, tf.float32) for name, value in values.items()}
        return lambda: step(pixels, values)[0].numpy()

    def tuned(scheme: Scheme) -> Callable[[], object]:
        weights, ranges = start(scheme)
        values = qat.trainable(weights, arch, scheme, ranges)
        return compiled(
            qat.make_forward_backward(weights, arch, scheme, ranges),
            {name: value for name, (value, _) in values.items()},
        )

    single = SCHEMES["float32"]
    steps = {ALONE: compiled(alone, start(single)[0]), TEACHER: tuned(single)}
    for scheme in SCHEMES.values():
        if scheme.steps:
            steps[scheme.name] = tuned(scheme)
    return steps


if __name__ == "__main__":
    main()
