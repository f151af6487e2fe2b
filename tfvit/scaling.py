"""A scaling study: models on growing parts of the data, each a run of its own that is then measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import tf_keras as keras

from edge_demo.errors import UserError
from edge_demo.files import read_json, write_json
from tfvit import architecture, checkpoint, compare, cost, plots, runs
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.cost import Cost
from tfvit.data import DataOptions, open_source
from tfvit.data.pipeline import Unreadable
from tfvit.evaluate import features, fewshot, predict, score
from tfvit.run import Run
from tfvit.setup_run import data_of, new_run
from tfvit.train import train

MEASURED = "measured.json"  # in the folder of a cell, once it is trained
EXA = 1e18


@dataclasses.dataclass(frozen=True)
class Cell:
    """A model on a part of the training data.

    folder: of its run. images: in that part. cost: of the model.
    """

    fraction: float
    folder: Path
    run: Run
    images: int
    cost: Cost

    def to_json(self) -> dict:
        """A dictionary of JSON types: what it is, how long it is trained, and what that costs."""
        recipe = self.run.recipe
        seen = recipe.steps * recipe.batch_size
        return {
            "model": self.run.architecture.name,
            "family": family(self.run.architecture),
            "parameters": self.cost.parameters,
            "fraction": self.fraction,
            "images": self.images,
            "steps": recipe.steps,
            "epochs": seen / self.images,
            "exaflops": self.cost.training(seen) / EXA,
            "folder": str(self.folder),
        }


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How few-shot accuracy is measured: the data, images per class, and as `fewshot.measure` has it."""

    data: DataOptions
    shots: int
    seeds: int
    l2: float


def family(arch: Architecture | ResNetArchitecture) -> str:
    """The kind of model as the paper's figure 5 tells them apart: a key of `plots.MARKS`."""
    if isinstance(arch, ResNetArchitecture):
        return "ResNet"
    return "ViT" if arch.stem is None else "hybrid"


def grid(
    options: dict, models: Sequence[str], fractions: Sequence[float], out: Path, same: str
) -> list[Cell]:
    """The cells of a study, model by model, the least data first; nothing is trained or written.

    options: of `tfvit train`, for all of them; a setting of one family's architecture is left to that family.
    fractions: of the training split. same: "steps" trains each part as long as all the data, "epochs" as
    many passes over it.
    Raises UserError as `new_run`, for several labels a picture, and where `out` holds other runs.
    """
    whole, parts = open_source(data_of(options), prefer="val"), {}
    if whole.multi_label:
        raise UserError(f"{whole.name}: has several labels a picture; a scaling study is for one")
    for fraction in fractions:
        of_part = dataclasses.replace(data_of(options), fraction=_given(fraction))
        parts[fraction] = open_source(of_part, prefer="val")
    cells = []
    for model in models:
        settings = _settings(model, models, options["settings"])
        own = {**options, "model": model, "settings": settings}
        found = None
        for fraction, part in parts.items():
            its = {**own, "fraction": _given(fraction)}
            run = new_run(its, whole if same == "steps" else part, out)
            found = found or cost.of_architecture(run.architecture)
            folder = out / run.architecture.name.replace("/", "-") / f"{fraction:g}"
            _same_run(folder, run)
            cells.append(Cell(fraction, folder, run, part.train.size, found))
    return cells


def _given(fraction: float) -> float | None:
    """As `tfvit train` has it, where all of the data is no fraction."""
    return None if fraction == 1 else fraction


def _settings(model: str, models: Sequence[str], settings: Sequence[tuple]) -> tuple[tuple, ...]:
    """Those that are not of another family's architecture alone."""

    def fields(name: str) -> set[str]:
        kind = ResNetArchitecture if name.lower() in architecture.RESNETS else Architecture
        return {field.name for field in dataclasses.fields(kind)}

    of_others = set().union(*map(fields, models)) - fields(model)
    return tuple(setting for setting in settings if setting[0] not in of_others)


def _same_run(folder: Path, run: Run) -> None:
    """UserError if the folder holds a run of other settings."""
    stored = runs.read_settings(folder)
    if stored is None:
        return
    began = compare.deciding(stored)
    now = compare.deciding(json.loads(json.dumps(run.to_json())))
    for name in began | now:
        if began.get(name) != now.get(name):
            raise UserError(
                f"{folder}: {name} {now.get(name)} is not what the run began with "
                f"({began.get(name)}); leave it so, or choose another --out"
            )


def measured(cell: Cell, protocol: Protocol) -> dict | None:
    """What `finish` has found of a cell, JSON types; None if it is not finished by this protocol."""
    if not (cell.folder / MEASURED).exists():
        return None
    found = read_json(cell.folder / MEASURED, "measured run")
    return found if found.get("protocol") == dataclasses.asdict(protocol) else None


def finish(cell: Cell, protocol: Protocol, **how) -> Unreadable:
    """Trains a cell from where it stands, measures its best checkpoint and leaves that in `measured.json`.

    What resuming alone would need is removed then: the last checkpoints, with the optimizer's state.
    how: further arguments of `tfvit.train.train`, whose errors it raises, and those of `fewshot.measure`.
    Returns the files that were left out.
    """
    unreadable: Unreadable = {}
    if not (cell.folder / MEASURED).exists():
        source = open_source(cell.run.data, prefer="val")
        unreadable |= train(cell.run, source, cell.folder, resume=True, **how)
    model = checkpoint.load(checkpoint.find(cell.folder))
    source = open_source(dataclasses.replace(cell.run.data, fraction=None))
    predictions = predict(model, source)
    scores = score(predictions, model.labels)
    few = open_source(protocol.data)
    found = fewshot.measure(
        features.of_model(model), few, (protocol.shots,), protocol.seeds, protocol.l2
    )
    held_out = {"data": source.name, "split": source.eval.name, "images": scores.images}
    tested = {"data": few.name, "split": few.eval.name, "images": found.images}
    values = {
        "protocol": dataclasses.asdict(protocol),
        "step": model.provenance["step"],
        "held_out": {**held_out, **scores.headline()},
        "few_shot": {**tested, **found.fixed[0].to_json()},
    }
    write_json(cell.folder / MEASURED, values)
    runs.drop(cell.folder, runs.LAST, runs.PREVIOUS)
    keras.backend.clear_session()
    return unreadable | predictions.unreadable | found.unreadable


def rows(cells: Sequence[Cell], protocol: Protocol) -> list[dict]:
    """All that is known of a study by now, JSON types; `measured` is None of a cell that is not finished."""
    return [{**cell.to_json(), "measured": measured(cell, protocol)} for cell in cells]


def draw(found: Sequence[dict], out: Path, data: str, protocol: Protocol) -> list[Path]:
    """The paper's figures 3, 4 and 5 of the `rows` that are measured; returns where they are."""
    held_out = f"held-out top-1 on {data}, %"
    few_shot = f"{protocol.shots}-shot top-1 on {protocol.data.data}, %"
    done = [row for row in found if row["measured"]]
    pictures = [out / name for name in ("data-size.png", "few-shot.png", "compute.png")]
    plots.over_images(done, pictures[0], "held_out", held_out)
    plots.over_images(done, pictures[1], "few_shot", few_shot)
    plots.over_compute(done, pictures[2], {"held_out": held_out, "few_shot": few_shot})
    return pictures
