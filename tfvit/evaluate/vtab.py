"""VTAB-1k (arXiv 1910.04867): a checkpoint fine-tuned for every task, each in a run folder of its own.

The recipe is that of the ViT paper (arXiv 2010.11929, appendix B.1.1), the same for all tasks. A sweep
chooses rate and length for each on its 200 validation images. Either way the figure is that of the last
step, on the test images, by which nothing is chosen.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.errors import UserError
from edge_demo.files import decoding, read_json, write_json
from tfvit import checkpoint, recipes, runs
from tfvit.data import open_source, vtab
from tfvit.data.pipeline import Unreadable
from tfvit.exit_codes import Diverged
from tfvit.run import Run
from tfvit.setup_run import data_of, model_of, new_run, recipe_of
from tfvit.train import train

RECIPE = "finetune-vtab"
# Of the sweep: rates, and lengths over that of the recipe. VTAB's paper has 0.1 and 0.01, 2,500 steps and
# 10,000; the ViT paper, two of each without saying which.
RATES, LENGTHS = (0.01, 0.1), (1, 4)
RESULT, SWEEP = "result.json", "sweep"
SAVE_EVERY = 600.0  # seconds


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What every task is fine-tuned with.

    init: a checkpoint folder. options: those of `tfvit train` that differ from the recipe.
    sweep: whether rate and length are chosen for each task.
    """

    init: Path
    options: dict
    sweep: bool = False

    @property
    def steps(self) -> int:
        """Of the recipe, or as the options have it."""
        return recipe_of(self.options, recipes.named(RECIPE))[0].steps

    def settings(self) -> dict:
        """All that decides a figure, as JSON types."""
        weights = checkpoint.read_config(self.init)["weights_sha256"]
        settings = {"checkpoint": weights, "sweep": self.sweep, **self.options}
        return json.loads(json.dumps(settings))

    def of(self, name: str, train_split: str, eval_split: str, **changes) -> dict:
        """The options of `tfvit train` for a task, trained and measured on splits of it.

        changes: further options.
        """
        task = vtab.TASKS[name]
        options = {
            "data": f"vtab:{name}",
            "train_split": train_split,
            "eval_split": eval_split,
            "recipe": RECIPE,
            "init": str(self.init),
            "resize": "squash",  # whole pictures: what is asked for may be at the edge
            "crop_min_area": None if task.crop else 1.0,
            "flip": None if task.flip else False,
            **self.options,
            **changes,
        }
        return {"eval_every": options.get("steps", self.steps), **options, "vtab": self.settings()}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run came to after its last step.

    top1, loss: on `images` images, 0-1 and nats; None if the loss of training ran away.
    validation: top-1 on the 200 images by which rate and steps were chosen.
    """

    top1: float | None
    loss: float | None
    images: int
    learning_rate: float
    steps: int
    validation: float | None = None


class Unavailable(UserError):
    """A task whose data cannot be had here."""


@dataclasses.dataclass(frozen=True)
class Results:
    """outcomes: of the tasks that were measured; failed: task -> what is wrong; unreadable: left out."""

    outcomes: dict[str, Outcome]
    failed: dict[str, str]
    unreadable: Unreadable

    def mean(self, group: str | None = None) -> tuple[float | None, int, int]:
        """Mean top-1 of the tasks of a group or of all, how many were measured, and how many there are."""
        tasks = [n for n, task in vtab.TASKS.items() if group in (None, task.group)]
        found = [self.outcomes[name].top1 for name in tasks if name in self.outcomes]
        return float(np.mean(found)) if found else None, len(found), len(tasks)

    def to_json(self) -> dict:
        """A dictionary of JSON types."""

        def mean(group: str | None) -> dict:
            return dict(zip(("top1", "tasks", "of"), self.mean(group)))

        return {
            "tasks": {name: dataclasses.asdict(found) for name, found in self.outcomes.items()},
            "groups": {group: mean(group) for group in vtab.GROUPS},
            "mean": mean(None),
            "failed": self.failed,
            "unreadable": sorted(self.unreadable),
        }


def check(protocol: Protocol, names: tuple[str, ...], folder: Path) -> None:
    """UserError for what would go wrong with every task, and for runs of another protocol in the folder."""
    settings, row = protocol.settings(), recipes.named(RECIPE)
    if protocol.sweep and "lr" in protocol.options:
        raise UserError("--sweep chooses the rate itself; leave out --lr")
    for field, option in {"learning_rate": "--lr", "steps": "--steps", "epochs": "--steps"}.items():
        if field in dict(protocol.options.get("settings", ())):
            raise UserError(f"--set {field}: give it as {option}")
    options = protocol.of(names[0], vtab.BOTH, vtab.TEST)
    _, changes = recipe_of(options, row)
    model_of(options, row, changes, options["init"], classes=2)
    for name in names:
        for path in sorted((folder / name).rglob(runs.RUN)):
            stored = (runs.read_settings(path.parent) or {}).get("options", {}).get("vtab")
            if stored is None:
                raise UserError(f"{path.parent}: is not of tfvit vtab; choose another --out")
            keys = [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]
            if keys:
                raise UserError(
                    f"{path.parent}: was begun with another {', '.join(keys)}; choose another --out"
                )


def measure(
    protocol: Protocol,
    names: tuple[str, ...],
    folder: Path,
    *,
    strategy: tf.distribute.Strategy | None = None,
    cache: str | None = None,
    say: Callable[[str], None] = click.echo,
) -> Results:
    """Fine-tunes for tasks of `vtab.TASKS` and measures each, below the folder; goes on where it stopped.

    A task whose data cannot be had, or whose loss runs away, is left out and named in the results.
    Raises UserError as `check`, and whatever else `train` raises.
    """
    check(protocol, names, folder)
    results = Results({}, {}, {})

    def run(out: Path, options: dict, kept: tuple[str, ...]) -> Outcome:
        """Trains unless that is done, and keeps these of the run's checkpoints."""
        if (out / RESULT).exists():
            with decoding(out / RESULT):
                return Outcome(**read_json(out / RESULT, "run of tfvit vtab"))
        outcome = _train(out, options, strategy, cache, say, results.unreadable)
        write_json(out / RESULT, dataclasses.asdict(outcome))
        runs.drop(out, *{runs.BEST, runs.LAST, runs.PREVIOUS}.difference(kept))
        keras.backend.clear_session()
        return outcome

    def task(name: str) -> Outcome:
        if not protocol.sweep:
            return run(folder / name, protocol.of(name, vtab.BOTH, vtab.TEST), (runs.BEST,))
        trials = []
        for rate, length in itertools.product(RATES, LENGTHS):
            steps = length * protocol.steps
            say(f"{name}: rate {rate:g}, {steps} steps")
            options = protocol.of(name, vtab.TRAIN, vtab.VALIDATION, lr=rate, steps=steps)
            trials.append(run(folder / name / SWEEP / f"lr{rate:g}-steps{steps}", options, ()))
        best = max(trials, key=lambda t: (t.top1 is not None, t.top1, -(t.loss or 0)))
        if best.top1 is None:
            return best
        chosen = {"lr": best.learning_rate, "steps": best.steps}
        options = protocol.of(name, vtab.BOTH, vtab.TEST, **chosen)
        return dataclasses.replace(run(folder / name, options, (runs.BEST,)), validation=best.top1)

    for number, name in enumerate(names, 1):
        say(f"{name} ({number} of {len(names)})")
        try:
            outcome = task(name)
        except Unavailable as error:
            problem = str(error)
        else:
            if outcome.top1 is not None:
                results.outcomes[name] = outcome
                continue
            problem = f"{folder / name}: the loss ran away; try a lower --lr"
        say(f"failed: {problem}")
        results.failed[name] = problem
    return results


def _train(
    out: Path,
    options: dict,
    strategy: tf.distribute.Strategy | None,
    cache: str | None,
    say: Callable[[str], None],
    unreadable: Unreadable,
) -> Outcome:
    """Trains with options of `tfvit train`, or goes on; Unavailable if the data cannot be opened."""
    try:
        source = open_source(data_of(options))
    except UserError as error:
        raise Unavailable(str(error)) from None
    stored = runs.read_settings(out)
    run = Run.from_json(stored) if stored else new_run(options, source, out)
    how = {"strategy": strategy, "checkpoint_every": SAVE_EVERY, "cache": cache, "say": say}
    rate, steps = run.recipe.learning_rate, run.recipe.steps
    try:
        unreadable.update(train(run, source, out, resume=True, **how))
    except Diverged as error:
        say(str(error))
        return Outcome(None, None, 0, rate, steps)
    last = runs.read_metrics(out)[-1]
    return Outcome(last["top1"], last["loss"], source.eval.size, rate, steps)
