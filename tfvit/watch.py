"""What a trainer shows now and then: pictures for TensorBoard, and a trace of where the time goes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from PIL import Image

from tfvit import plots, runs
from tfvit.architecture import ResNetArchitecture
from tfvit.model import Model

MOST_PICTURES, MOST_MAPS = 16, 4  # of a batch that are shown; whose attention is
PROFILED = range(10, 15)  # steps after the first: by then everything is traced, compiled and warm


def augmented_batch(pixels: np.ndarray, captions: list[str]) -> np.ndarray:
    """The first pictures of a batch as the model sees them, uint8 [b, height, width, 3], as one picture."""
    shown = slice(MOST_PICTURES)
    return _drawn(plots.batch_grid, pixels[shown], captions[shown])


def rows(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of pictures, each uint8 [b, height, width, 3], by name, as one picture."""
    return _drawn(plots.picture_rows, pictures)


def confusion(counts: list[list[int]], labels: tuple[str, ...]) -> np.ndarray:
    """The confusion of the classes, rows the true ones, as a picture: uint8 [height, width, 3]."""
    return _drawn(plots.confusion, counts, labels, title="held out")


def attention_maps(model: Model, pixels: np.ndarray) -> np.ndarray | None:
    """Where the model looks in the first of some pictures, uint8 [b, height, width, 3], as one picture.

    None for a ResNet, which has no attention. See `tfvit.inspect.attention.heat_maps`.
    """
    from tfvit.inspect.attention import heat_maps
    from tfvit.preprocess import normalise

    if isinstance(model.architecture, ResNetArchitecture):
        return None
    pixels = np.asarray(pixels[:MOST_MAPS])
    maps = heat_maps(model, normalise(tf.constant(pixels), model.preprocess))
    return _drawn(plots.heat_maps, pixels, maps)


def captions(targets: np.ndarray, labels: tuple[str, ...]) -> list[str]:
    """What a batch's labels say: int [b] by name; shares [b, classes] as "rose 0.70, tulip 0.30"."""
    targets = np.asarray(targets)
    if targets.ndim == 1:
        return [labels[int(i)] for i in targets]
    found = []
    for shares in targets:
        most = [i for i in np.argsort(-shares, kind="stable")[:2] if shares[i] > 0]
        whole = len(most) == 1 and shares[most[0]] == 1
        found.append(", ".join(labels[i] + ("" if whole else f" {shares[i]:.2f}") for i in most))
    return found


@contextlib.contextmanager
def profile(folder: Path | None, first_step: int) -> Iterator[Callable]:
    """Yields step -> a context for that step; steps 10 to 14 after the first are traced.

    folder: of the run, whose tensorboard/plugins/profile gets the trace; None traces nothing.
    first_step: number of the first step of this process.
    """
    if folder is None:
        yield lambda step: contextlib.nullcontext()
        return
    profiler, where = tf.profiler.experimental, folder / runs.TENSORBOARD
    running = done = False

    def stop() -> None:
        nonlocal running, done
        running, done = False, True
        tf.test.experimental.sync_devices()
        profiler.stop()
        click.echo(
            f"profile of {len(PROFILED)} steps: tensorboard --logdir {where} "
            "(with tensorboard-plugin-profile)"
        )

    @contextlib.contextmanager
    def traced(step: int) -> Iterator[None]:
        nonlocal running
        number = step - first_step
        if number == PROFILED.start:
            profiler.start(str(where))
            running = True
        with profiler.Trace("train", step_num=step, _r=1) if running else contextlib.nullcontext():
            yield
        if number == PROFILED[-1]:
            stop()

    try:
        yield traced
    finally:
        if running:
            stop()
        elif not done:
            click.echo(f"no profile: the run ended before step {first_step + PROFILED.start}")


def _drawn(draw: Callable, *what, **options) -> np.ndarray:
    """What one of `tfvit.plots` draws: uint8 [height, width, 3]."""
    file = io.BytesIO()
    draw(*what, file, **options)
    return np.asarray(Image.open(file).convert("RGB"))
