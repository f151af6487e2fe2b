"""What a run trains, the model and its optimizer, and where they start from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import tf_keras as keras

from edge_demo.errors import UserError
from edge_demo.scores import SIGMOID, SOFTMAX
from tfvit import checkpoint, transfer
from tfvit.checkpoint import Snapshot
from tfvit.data import Source
from tfvit.model import Model, build
from tfvit.objectives.labels import Labels
from tfvit.objectives.masked_modeling import MaskedModeling
from tfvit.objectives.objective import Objective
from tfvit.optimizer import Optimizer
from tfvit.recipe import DTYPES, Recipe
from tfvit.run import Run
from tfvit.saving import Saved


def create(run: Run, source: Source) -> tuple[Objective, Optimizer]:
    """What a run learns, with its model, and its optimizer, the same for the same seed.

    To be called within a strategy's scope. Raises UserError if the model cannot learn that.
    """
    recipe, labels = run.recipe, source.labels
    keras.utils.set_random_seed(recipe.seed)
    model = build(
        run.architecture,
        dtype=DTYPES[recipe.dtype],
        remat=recipe.remat,
        labels=labels,
        preprocess=run.preprocess,
        scores=SIGMOID if source.multi_label else SOFTMAX,
    )
    if (
        recipe.loss == "sigmoid"
    ):  # of many classes few are there: a start from one half would be far off
        model.get_layer("head").bias.assign([-math.log(len(labels))] * len(labels))
    depth = getattr(run.architecture, "depth", 0)
    objective = learning(model, recipe, load_teacher(run))
    return objective, Optimizer(recipe, objective.weights, depth)


def learning(model: Model, recipe: Recipe, teacher: Model | None = None) -> Objective:
    """What a recipe has a model learn; UserError if the model cannot."""
    if recipe.pretraining:
        return MaskedModeling(model, recipe)
    return Labels(model, recipe, teacher)


def load_teacher(run: Run) -> Model | None:
    """The model to learn from, where the recipe has one."""
    if not run.recipe.teacher:
        return None
    teacher = checkpoint.load(checkpoint.find(run.recipe.teacher), DTYPES[run.recipe.dtype])
    teacher.trainable = False
    return teacher


def start(
    run: Run,
    objective: Objective,
    optimizer: Optimizer,
    saved: Saved | None,
    say: Callable[[str], None],
) -> int:
    """Fills both from where the run starts; returns the number of steps already done."""
    model = objective.model
    if saved:
        if saved.config["labels"] != model.labels:
            raise UserError(f"{run.data.data}: has other classes than when the run began")
        checkpoint.assign(model, saved.weights, "the checkpoint")
        optimizer.restore(saved.state)
        objective.restore(saved.state)
        say(f"resuming after step {saved.step} of {run.recipe.steps}")
        return saved.step
    if run.init:
        say(f"from {run.init}:")
        for line in transfer.initialise(model, run.init).lines():
            say(line)
    optimizer.begin()
    return 0


def snapshot(objective: Objective, optimizer: Optimizer) -> Snapshot:
    """All that `start` needs to go on from here."""
    return checkpoint.snapshot(objective.model, optimizer.state() | objective.state())


@contextlib.contextmanager
def averaged(optimizer: Optimizer) -> Iterator[None]:
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
