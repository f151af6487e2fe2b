"""The training loop: any strategy, exactly resumable, XLA-compilable.

Batches, augmentation and dropout are functions of (seed, step), and every checkpoint is taken where no
running mean is open; so a run that was killed and resumed ends as one that was not.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture, checkpoint, optimizer, plots, runs, saving, strategies, transfer
from tfvit.architecture import Architecture
from tfvit.cluster import Cluster
from tfvit.data import DataOptions, Source, pipeline
from tfvit.evaluate import classification
from tfvit.exit_codes import Diverged, Stopped
from tfvit.files import write_json
from tfvit.layers import dropout_seed
from tfvit.model import build
from tfvit.preemption import Preemption
from tfvit.preprocess import normalise
from tfvit.progress import progress
from tfvit.recipes import DTYPES, Recipe

LOG_EVERY = 50  # steps of training between two rows of metrics


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run, complete: the same value gives the same weights on the same machine.

    architecture, preprocess: of the model that is trained. init: a checkpoint folder to start from.
    options: what the command line said, for `--resume` to compare.
    """

    architecture: Architecture
    preprocess: PreprocessSpec
    data: DataOptions
    recipe: Recipe
    init: str | None = None
    options: dict = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return {
            "architecture": self.architecture.to_json(),
            "preprocess": self.preprocess.to_json(),
            "data": dataclasses.asdict(self.data),
            "recipe": self.recipe.to_json(),
            "init": self.init,
            "options": self.options,
        }

    @classmethod
    def from_json(cls, values: dict) -> Run:
        """A run from `to_json`'s dictionary."""
        return cls(
            architecture.from_json(values["architecture"]),
            PreprocessSpec.from_json(values["preprocess"]),
            DataOptions(**values["data"]),
            Recipe.from_json(values["recipe"]),
            values["init"],
            values["options"],
        )


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
    checkpoint_every: seconds between checkpoints; None takes them at evaluations alone.
    xla: compile forward and backward pass with XLA; None does so where there is a GPU.
    Raises Diverged if the loss stops being a number, Stopped after a signal, UserError if the disk
    refuses.
    """
    recipe, strategy = run.recipe, strategy or tf.distribute.get_strategy()
    if recipe.batch_size % strategy.num_replicas_in_sync:
        raise UserError(
            f"batch size {recipe.batch_size} does not divide over "
            f"{strategy.num_replicas_in_sync} devices"
        )
    with strategy.scope():
        model, adamw = _build(run, source.labels)
    saved = saving.newest(folder, say) if resume else None
    start = _start(run, model, adamw, folder, saved, cluster, say)
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
        return batches.rebatch(recipe.batch_size // context.num_replicas_in_sync)

    batches = iter(strategy.distribute_datasets_from_function(batches_of))
    step_function = make_train_step(model, adamw, recipe, strategy, xla)
    forward = classification.forward_function(model, strategy)
    size = recipe.batch_size

    def evaluate(step: int, row: dict) -> None:
        """Scores the held-out split, writes the checkpoints and says how it stands."""
        predictions = classification.predict(
            model, source, size, forward=forward, strategy=strategy
        )
        unreadable.update(predictions.unreadable)
        scores = classification.score(predictions, model.labels)
        before = [r["top1"] for r in log.rows if r["phase"] == "eval"]
        log.add({"step": step, "phase": "eval", **scores.headline()})
        is_best = not before or scores.top1 > max(before)
        provenance = _provenance(run, step, scores.headline())
        model.card = dataclasses.replace(model.card, provenance=provenance)
        saver.save(model, state, best=is_best)
        say(
            f"step {step:>6}  epoch {step * size / source.train.size:6.1f}  "
            f"loss {row['loss']:.4f}  train {100 * row['top1']:5.1f} %  "
            f"{source.eval.name} {100 * scores.top1:5.1f} %{' *' if is_best else '  '}  "
            f"{row['images_per_second']:6.0f} images/s"
        )

    def state() -> dict[str, np.ndarray]:
        return optimizer.state(adamw)

    pending, began = [], time.perf_counter()
    with (
        progress(recipe.steps * size, "training", "img", start * size) as bar,
        Preemption() as preemption,
        saving.Saver(
            folder,
            writes=cluster.is_chief,
            every=checkpoint_every,
            keep=saved is None or saved.is_newest,
        ) as saver,
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
            if not math.isfinite(row["loss"]):
                raise Diverged(
                    f"the loss is {row['loss']} at step {step}; try a lower --lr "
                    f"(the last good checkpoint is {folder / runs.LAST})"
                )
            if is_evaluation:
                bar.clear()
                evaluate(step, row)
            elif stop or saver.due:
                model.card = dataclasses.replace(
                    model.card, provenance=_provenance(run, step, {})
                )
                saver.save(model, state)
            if stop:
                saver.wait()
                raise Stopped(
                    f"stopped after step {step} of {recipe.steps}, all saved; "
                    f"go on with: tfvit train --out {folder} --resume",
                    stop,
                )
            pending, began = [], time.perf_counter()
    if cluster.is_chief:
        plots.curves(log.rows, folder / runs.CURVES, f"{run.architecture.name} on {run.data.data}")
    return unreadable


def make_train_step(
    model,
    adamw,
    recipe: Recipe,
    strategy: tf.distribute.Strategy,
    xla: bool | None = None,
) -> Callable[[dict, tf.Tensor], dict]:
    """The compiled function (batch, step number) -> sums and norms of one optimizer step.

    The loss is the mean over the global batch; images with mask 0 count as without gradient.
    """
    if xla is None:
        xla = bool(tf.config.list_logical_devices("GPU"))
    variables, classes = model.trainable_variables, model.architecture.num_classes

    def forward_backward(batch: dict, seed: tf.Tensor) -> tuple[dict, list[tf.Tensor]]:
        targets = tf.one_hot(batch["label"], classes)
        targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
        with tf.GradientTape() as tape, dropout_seed(seed):
            logits = model(normalise(batch["pixels"], model.preprocess), training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses * batch["mask"]) / recipe.batch_size
        right = tf.cast(tf.argmax(logits, axis=1) == batch["label"], tf.float32)
        sums = {
            "loss": loss * recipe.batch_size,
            "right": tf.reduce_sum(right * batch["mask"]),
            "images": tf.reduce_sum(batch["mask"]),
        }
        return sums, tape.gradient(loss, variables)

    if xla:
        forward_backward = tf.function(forward_backward, jit_compile=True)

    def replica_step(batch: dict, step: tf.Tensor) -> dict:
        replica = tf.distribute.get_replica_context()
        seed = tf.stack([tf.constant(recipe.seed), step])
        seed = tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)
        sums, gradients = forward_backward(batch, seed)
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients)
        if recipe.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, recipe.clip_norm, norm)
        adamw.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=True)
        return {**sums, "gradient_norm": norm / strategy.num_replicas_in_sync}

    @tf.function
    def train_step(batch: dict, step: tf.Tensor) -> dict:
        per_replica = strategy.run(replica_step, args=(batch, step))
        reduce = tf.distribute.ReduceOp.SUM
        sums = {name: strategy.reduce(reduce, x, None) for name, x in per_replica.items()}
        return {**sums, "learning_rate": adamw.learning_rate}

    return train_step


def _build(run: Run, labels: tuple[str, ...]):
    """The model and its optimizer, the same for the same seed."""
    keras.utils.set_random_seed(run.recipe.seed)
    model = build(
        run.architecture,
        dtype=DTYPES[run.recipe.dtype],
        labels=labels,
        preprocess=run.preprocess,
    )
    recipe = run.recipe
    adamw = optimizer.adamw(
        model.trainable_variables,
        recipe.learning_rate,
        recipe.warmup_steps,
        recipe.steps,
        recipe.weight_decay,
    )
    return model, adamw


def _start(
    run: Run,
    model,
    adamw,
    folder: Path,
    saved: saving.Saved | None,
    cluster: Cluster,
    say: Callable[[str], None],
) -> int:
    """Fills the model from where the run starts and returns the number of steps already done."""
    if saved:
        checkpoint.assign(model, saved.weights, str(folder))
        optimizer.restore(adamw, saved.state)
        say(f"resuming after step {saved.step} of {run.recipe.steps}")
        return saved.step
    if run.init:
        say(f"from {run.init}:")
        for line in transfer.initialise(model, run.init).lines():
            say(line)
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


def _provenance(run: Run, step: int, metrics: dict) -> dict:
    return {
        "step": step,
        "metrics": metrics,
        "recipe": run.recipe.to_json(),
        "data": dataclasses.asdict(run.data),
        "init": run.init,
    }
