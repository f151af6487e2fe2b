"""The training loop: any strategy, exactly resumable, XLA-compilable.

Batches, augmentation and dropout are functions of (seed, step), and every checkpoint is taken where no
running mean is open; so a run that was killed and resumed ends as one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from edge_demo.files import write_json
from tfvit import checkpoint, figures, plots, runs, saving, state, strategies, transfer, watch
from tfvit.cluster import Cluster
from tfvit.data import Source, pipeline
from tfvit.exit_codes import Diverged, Stopped
from tfvit.preemption import Preemption
from tfvit.progress import progress
from tfvit.run import Run
from tfvit.step import make_train_step

LOG_EVERY = 50  # steps of training between two rows of metrics, at most
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
    cache: str | None = None,
    services: Sequence[str] = (),
    xla: bool | None = None,
    profile: bool = False,
    say: Callable[[str], None] = click.echo,
) -> pipeline.Unreadable:
    """Trains a model and leaves its run folder (see `tfvit.runs`); returns the files it left out.

    source: `open_source(run.data, prefer="val")`.
    resume: go on from folder/last where it exists.
    strategy: of `strategies.opened`; None is one device. cluster: its workers.
    checkpoint_every: seconds; None writes checkpoints at evaluations alone.
    cache, services: see `pipeline.train_batches`; neither changes a batch.
    xla: compile the step with XLA; None does so where there is a GPU. profile: trace some steps.
    Raises Stopped after SIGTERM or Ctrl-C, when all is saved; Diverged if the loss stops being a number
    or grows beyond that of guessing; UserError as `check`, if the disk refuses, or if a
    run that has ended lacks a checkpoint (`runs.drop`).
    """
    recipe, strategy = run.recipe, strategy or tf.distribute.get_strategy()
    check(run, source, strategy.num_replicas_in_sync)
    with strategy.scope():
        objective, optimizer = state.create(run, source)
    model = objective.model
    saved = saving.newest(folder, say) if resume else None
    if resume and (folder / runs.CURVES).exists():
        for name, there in ((runs.LAST, saved), (runs.BEST, (folder / runs.BEST).exists())):
            if not there:
                raise UserError(f"{folder}: has ended, and {name}/ was removed since")
    start = state.start(run, objective, optimizer, saved, say)
    strategies.same(strategy, start, f"the step to go on from in {folder}")
    if cluster.is_chief and not saved:
        write_json(folder / runs.RUN, run.to_json())
    log = runs.MetricsLog(folder, start, writes=cluster.is_chief)
    unreadable: pipeline.Unreadable = {}
    how = {"cache": cache, "services": services, "unreadable": unreadable}
    batches = iter(_distributed(run, source, strategy, start, how))
    step_function = make_train_step(objective, optimizer, recipe, strategy, xla)
    size, log_every = recipe.batch_size, _log_every(recipe.eval_every)

    def evaluate(step: int, row: dict, batch: dict) -> None:
        """Scores the held-out split, has the checkpoints written and says how it stands."""
        with state.averaged(optimizer):
            found = objective.evaluate(source, strategy)
            unreadable.update(found.unreadable)
            figure = figures.best_by(found.figures)
            log.add({"step": step, "phase": "eval", "epoch": row["epoch"], **found.figures})
            evaluations = [r for r in log.rows if r["phase"] == "eval"]
            is_best = figures.best(figure, evaluations)["step"] == step
            provenance = run.provenance(step, found.figures)
            model.card = dataclasses.replace(model.card, provenance=provenance)
            best = checkpoint.snapshot(model) if is_best else None
            if cluster.is_chief and (_now_and_then(len(evaluations)) or step == recipe.steps):
                one = {k: strategy.experimental_local_results(x)[0] for k, x in batch.items()}
                for name, picture in objective.pictures(source, one, step, found).items():
                    log.add_image(step, name, picture)
                    if name in objective.kept:
                        plots.save(picture, folder / f"{name}.png")
        saver.save(state.snapshot(objective, optimizer), best)
        stands = objective.line(row, found.figures, source.eval.name)
        say(
            f"step {step:>6}  epoch {row['epoch']:6.1f}  loss {row['loss']:.4f}  {stands}"
            f"{' *' if is_best else '  '}  {row['images_per_second']:6.0f} images/s"
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
        watch.profile(folder if profile else None, start + 1) as traced,
        progress(recipe.steps * size, "training", "img", start * size) as bar,
    ):
        for step in range(start + 1, recipe.steps + 1):
            batch = next(batches)
            with traced(step):
                pending.append(step_function(batch, tf.constant(step)))
            bar.update(size)
            is_evaluation = step % recipe.eval_every == 0 or step == recipe.steps
            stop = preemption.after(step, strategy)
            if not is_evaluation and not stop and step % recipe.eval_every % log_every:
                continue
            epoch = step * size / source.train.size
            row = _train_row(
                step, epoch, pending, objective.figures, size, time.perf_counter() - began
            )
            log.add(row)
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            _check_loss(row, log.rows, objective.guess, folder)
            if is_evaluation:
                bar.clear()
                evaluate(step, row, batch)
            elif stop or saver.due:
                model.card = dataclasses.replace(model.card, provenance=run.provenance(step, {}))
                saver.save(state.snapshot(objective, optimizer))
            if stop:
                saver.wait()
                raise Stopped(
                    f"stopped after step {step} of {recipe.steps}, all saved; "
                    f"go on with: tfvit {run.command} --out {folder} --resume",
                    stop,
                )
            pending, began = [], time.perf_counter()
    if cluster.is_chief and log.rows:
        curves = folder / runs.CURVES
        plots.curves(log.rows, curves, f"{run.architecture.name} on {run.data.data}")
    return unreadable


def check(run: Run, source: Source, devices: int) -> None:
    """UserError if a run does not fit its data, its devices, its teacher or what it starts from.

    Without building anything: for a dry run, too.
    """
    recipe, arch, parts = run.recipe, run.architecture, run.recipe.accumulate * devices
    if recipe.batch_size % parts:
        raise UserError(f"batch size {recipe.batch_size} does not divide into {parts} equal parts")
    if len(source.labels) != arch.num_classes:
        raise UserError(
            f"{source.name}: has {len(source.labels)} classes, the run began with {arch.num_classes}"
        )
    if recipe.teacher:
        teacher = checkpoint.find(recipe.teacher)
        if checkpoint.read_config(teacher)["labels"] != source.labels:
            raise UserError(f"{teacher}: the teacher knows other classes, or in another order")
    if run.init:
        transfer.check(run.init, checkpoint.read_config(run.init)["architecture"], arch)


def _distributed(
    run: Run,
    source: Source,
    strategy: tf.distribute.Strategy,
    start: int,
    how: dict,
) -> tf.distribute.DistributedDataset:
    """The training batches after step `start`; each worker reads its own share of them.

    how: further arguments of `pipeline.train_batches`.
    """
    recipe = run.recipe

    def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return pipeline.train_batches(
            source.train,
            run.preprocess,
            recipe.batch_size,
            augmentation=recipe.augmentation,
            seed=recipe.seed,
            start_step=start,
            repeats=recipe.repeats,
            balance=recipe.balance,
            replicas=context.num_replicas_in_sync,
            shard=(context.input_pipeline_id, context.num_input_pipelines),
            **how,
        )

    return strategy.distribute_datasets_from_function(share)


def _log_every(eval_every: int) -> int:
    """Steps between two rows of metrics, so that all are the means of about as many."""
    return math.ceil(eval_every / math.ceil(eval_every / LOG_EVERY))


def _train_row(
    step: int,
    epoch: float,
    pending: list[dict],
    figures: Sequence[str],
    size: int,
    seconds: float,
) -> dict:
    """One row of metrics over the steps since the last; figures: of the objective."""
    sums = {name: np.array([float(p[name]) for p in pending]) for name in pending[0]}
    images = max(sums["images"].sum(), 1)
    return {
        "step": step,
        "phase": "train",
        "epoch": epoch,
        "loss": sums["loss"].sum() / images,
        **{name: sums[name].sum() / images for name in figures},
        "gradient_norm": sums["gradient_norm"].mean(),
        "learning_rate": sums["learning_rate"][-1],
        "images_per_second": len(pending) * size / seconds,
    }


def _check_loss(row: dict, rows: list[dict], guess: float, folder: Path) -> None:
    """Diverged if a row of metrics shows that the weights are no good any more."""
    first = next(r["loss"] for r in rows if r["phase"] == "train")
    what = None
    if not math.isfinite(row["loss"]) or not math.isfinite(row["gradient_norm"]):
        what = f"the loss is {row['loss']} and the gradient's norm {row['gradient_norm']}"
    elif row["loss"] > TOO_HIGH * max(first, guess):
        what = f"the loss grew from {first:.3g} to {row['loss']:.3g}"
    if what:
        raise Diverged(
            f"{what} at step {row['step']}; try a lower --lr "
            f"(the last good checkpoint is {folder / runs.LAST})"
        )


def _now_and_then(evaluation: int) -> bool:
    """Whether pictures are shown at this evaluation: the first, the second, the fourth, the eighth..."""
    return evaluation & (evaluation - 1) == 0
