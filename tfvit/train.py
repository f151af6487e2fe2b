"""The training loop: any strategy, exactly resumable, XLA-compilable.

Batches, augmentation and dropout are functions of (seed, step), and every checkpoint is taken where no
running mean is open; so a run that was killed and resumed ends as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.errors import UserError
from tfvit import checkpoint, plots, runs, saving, strategies, transfer
from tfvit.cluster import Cluster
from tfvit.data import Source, pipeline
from tfvit.evaluate import classification
from tfvit.exit_codes import Diverged, Stopped
from tfvit.files import write_json
from tfvit.model import Model, build, named_weights
from tfvit.optimizer import Optimizer
from tfvit.preemption import Preemption
from tfvit.progress import progress
from tfvit.recipe import DTYPES
from tfvit.run import Run
from tfvit.step import make_train_step

LOG_EVERY = 50  # steps of training between two rows of metrics
TOO_HIGH = 2.0  # times the loss of the first row, or of guessing if that is more


def train(
    run: Run,
    source: Source,
    folder: Path,
    *,
    resume: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    cluster: Cluster = Cluster(),
    checkpoint_every: float | None = None,
    xla: bool | None = None,
    say: Callable[[str], None] = click.echo,
) -> pipeline.Unreadable:
    """Trains a model and leaves its run folder (see `tfvit.runs`); returns the files it left out.

    source: `open_source(run.data, prefer="val")`.
    resume: go on from folder/last where it exists.
    strategy: of `strategies.opened`; None is one device. cluster: its workers.
    checkpoint_every: seconds; None writes checkpoints at evaluations alone.
    xla: compile the step with XLA; None does so where there is a GPU.
    Raises Stopped after SIGTERM or Ctrl-C, when all is saved; Diverged if the loss stops being a number
    or grows beyond that of guessing; UserError if the teacher's classes are others, or the disk refuses.
    """
    recipe, strategy = run.recipe, strategy or tf.distribute.get_strategy()
    parts = recipe.accumulate * strategy.num_replicas_in_sync
    if recipe.batch_size % parts:
        raise UserError(f"batch size {recipe.batch_size} does not divide into {parts} equal parts")
    with strategy.scope():
        model, optimizer = _build(run, source.labels)
        teacher = _teacher(run, source.labels)
    saved = saving.newest(folder, say) if resume else None
    start = _start(run, model, optimizer, folder, saved, cluster, say)
    strategies.same(strategy, start, f"the step to go on from in {folder}")
    log = runs.MetricsLog(folder, start, writes=cluster.is_chief)
    unreadable: pipeline.Unreadable = {}

    def batches_of(context: tf.distribute.InputContext) -> tf.data.Dataset:
        batches = pipeline.train_batches(
            source.train,
            run.preprocess,
            recipe.batch_size,
            augmentation=recipe.augmentation,
            seed=recipe.seed,
            start_step=start,
            unreadable=unreadable,
        )
        share = recipe.batch_size // context.num_input_pipelines
        first = context.input_pipeline_id * share
        batches = batches.map(lambda b: {k: x[first : first + share] for k, x in b.items()})
        return batches.rebatch(
            recipe.batch_size // context.num_replicas_in_sync, drop_remainder=True
        )

    batches = iter(strategy.distribute_datasets_from_function(batches_of))
    step_function = make_train_step(model, optimizer, recipe, strategy, xla, teacher)
    forward = classification.forward_function(model, strategy)
    size = recipe.batch_size

    def evaluate(step: int, row: dict) -> None:
        """Scores the held-out split, writes the checkpoints and says how it stands."""
        with averaged(model, optimizer):
            predictions = classification.predict(
                model, source, size, forward=forward, strategy=strategy
            )
            unreadable.update(predictions.unreadable)
            scores = classification.score(predictions, model.labels)
            before = [r["top1"] for r in log.rows if r["phase"] == "eval"]
            log.add({"step": step, "phase": "eval", **scores.headline()})
            is_best = not before or scores.top1 > max(before)
            provenance = run.provenance(step, scores.headline())
            model.card = dataclasses.replace(model.card, provenance=provenance)
            best = checkpoint.snapshot(model) if is_best else None
        saver.save(checkpoint.snapshot(model, optimizer.state()), best)
        say(
            f"step {step:>6}  epoch {step * size / source.train.size:6.1f}  "
            f"loss {row['loss']:.4f}  train {100 * row['top1']:5.1f} %  "
            f"{source.eval.name} {100 * scores.top1:5.1f} %{' *' if is_best else '  '}  "
            f"{row['images_per_second']:6.0f} images/s"
        )

    pending, began = [], time.perf_counter()
    with (
        Preemption() as preemption,
        saving.Saver(
            folder,
            writes=cluster.is_chief,
            every=checkpoint_every,
            keep=saved is None or saved.is_newest,
        ) as saver,
        progress(recipe.steps * size, "training", "img", start * size) as bar,
    ):
        for step in range(start + 1, recipe.steps + 1):
            pending.append(step_function(next(batches), tf.constant(step)))
            bar.update(size)
            is_evaluation = step % recipe.eval_every == 0 or step == recipe.steps
            stop = preemption.after(step, strategy)
            if not is_evaluation and not stop and step % LOG_EVERY:
                continue
            row = _train_row(step, pending, size, began)
            log.add(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            _check_loss(row, log.rows, len(model.labels), folder)
            if is_evaluation:
                bar.clear()
                evaluate(step, row)
            elif stop or saver.due:
                model.card = dataclasses.replace(model.card, provenance=run.provenance(step, {}))
                saver.save(checkpoint.snapshot(model, optimizer.state()))
            if stop:
                saver.wait()
                raise Stopped(
                    f"stopped after step {step} of {recipe.steps}, all saved; "
                    f"go on with: tfvit train --out {folder} --resume",
                    stop,
                )
            pending, began = [], time.perf_counter()
    if cluster.is_chief:
        curves = folder / runs.CURVES
        plots.curves(log.rows, curves, f"{run.architecture.name} on {run.data.data}")
    return unreadable


@contextlib.contextmanager
def averaged(model: Model, optimizer: Optimizer) -> Iterator[None]:
    """Within this context the model has its averaged weights, where the recipe has any."""
    averages = optimizer.averages()
    own = {name: optimizer.weights[name].numpy() for name in averages}
    for name, value in averages.items():
        optimizer.weights[name].assign(value)
    try:
        yield
    finally:
        for name, value in own.items():
            optimizer.weights[name].assign(value)


def _build(run: Run, labels: tuple[str, ...]) -> tuple[Model, Optimizer]:
    """The model and its optimizer, the same for the same seed."""
    keras.utils.set_random_seed(run.recipe.seed)
    model = build(
        run.architecture,
        dtype=DTYPES[run.recipe.dtype],
        labels=labels,
        preprocess=run.preprocess,
    )
    if (
        run.recipe.loss == "sigmoid"
    ):  # few of many classes are there: start from that, not from a half
        model.get_layer("head").bias.assign([-math.log(len(labels))] * len(labels))
    depth = getattr(run.architecture, "depth", 0)
    return model, Optimizer(run.recipe, named_weights(model), depth)


def _teacher(run: Run, labels: tuple[str, ...]) -> Model | None:
    """The model to learn from, whose classes must be those of the data."""
    if not run.recipe.teacher:
        return None
    path = checkpoint.find(run.recipe.teacher)
    teacher = checkpoint.load(path, DTYPES[run.recipe.dtype])
    if teacher.labels != labels:
        raise UserError(f"{path}: the teacher knows other classes, or in another order")
    teacher.trainable = False
    return teacher


def _start(
    run: Run,
    model: Model,
    optimizer: Optimizer,
    folder: Path,
    saved: saving.Saved | None,
    cluster: Cluster,
    say: Callable[[str], None],
) -> int:
    """Fills the model from where the run starts and returns the number of steps already done."""
    if saved:
        checkpoint.assign(model, saved.weights, str(folder))
        optimizer.restore(saved.state)
        say(f"resuming after step {saved.step} of {run.recipe.steps}")
        return saved.step
    if run.init:
        say(f"from {run.init}:")
        for line in transfer.initialise(model, run.init).lines():
            say(line)
    optimizer.begin()
    if cluster.is_chief:
        write_json(folder / runs.RUN, run.to_json())
    return 0


def _train_row(step: int, pending: list[dict], batch_size: int, began: float) -> dict:
    """One row of metrics over the steps since the last."""
    sums = {name: np.array([float(p[name]) for p in pending]) for name in pending[0]}
    images = max(sums["images"].sum(), 1)
    return {
        "step": step,
        "phase": "train",
        "loss": sums["loss"].sum() / images,
        "top1": sums["right"].sum() / images,
        "gradient_norm": sums["gradient_norm"].mean(),
        "learning_rate": sums["learning_rate"][-1],
        "images_per_second": len(pending) * batch_size / (time.perf_counter() - began),
    }


def _check_loss(row: dict, rows: list[dict], classes: int, folder: Path) -> None:
    """Diverged if a row of metrics shows that the weights are no good any more."""
    first = next(r["loss"] for r in rows if r["phase"] == "train")
    what = None
    if not math.isfinite(row["loss"]) or not math.isfinite(row["gradient_norm"]):
        what = f"the loss is {row['loss']} and the gradient's norm {row['gradient_norm']}"
    elif row["loss"] > TOO_HIGH * max(first, math.log(classes)):
        what = f"the loss grew from {first:.3g} to {row['loss']:.3g}"
    if what:
        raise Diverged(
            f"{what} at step {row['step']}; try a lower --lr "
            f"(the last good checkpoint is {folder / runs.LAST})"
        )
