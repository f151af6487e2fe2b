"""What several runs came to, and in which settings they differ; without TensorFlow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from tfvit import runs

# --against: (key of a row, label of the axis, factor)
AGAINST = {
    "steps": ("step", "step", 1),
    "epochs": ("epoch", "epoch", 1),
    "time": ("seconds", "minutes", 1 / 60),
}
DECIDES = ("architecture", "preprocess", "data", "recipe", "init")  # of run.json


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run as its folder has it, finished or not: settings, flat, and rows of metrics."""

    name: str
    folder: Path
    settings: dict[str, object]
    rows: list[dict]

    def summary(self) -> dict:
        """What it came to, JSON types: None where there is nothing yet.

        images_per_second: the median over the rows, which a slow first step does not move.
        """
        scores = [row for row in self.rows if row["phase"] == "eval" and "top1" in row]
        best = max(scores, key=lambda row: row["top1"], default={})
        last = scores[-1] if scores else {}
        speeds = [r["images_per_second"] for r in self.rows if "images_per_second" in r]
        return {
            "folder": str(self.folder),
            "steps": self.rows[-1]["step"] if self.rows else 0,
            "of_steps": self.settings.get("recipe.steps"),
            "best_top1": best.get("top1"),
            "best_step": best.get("step"),
            "last_top1": last.get("top1"),
            "last_loss": last.get("loss"),
            "images_per_second": float(np.median(speeds)) if speeds else None,
            "seconds": self.rows[-1].get("seconds") if self.rows else None,
        }


def read(folders: list[Path]) -> list[RunRecord]:
    """The runs of some folders, each named by as much of its path as tells it apart.

    Raises UserError for a folder that holds no run, a damaged one, and one named twice.
    """
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places):
        if places.count(place) > 1:
            raise UserError(f"{folder}: named twice")
    found = []
    for folder, place in zip(folders, places):
        settings = runs.read_settings(folder) if folder.is_dir() else None
        if not isinstance(settings, dict):
            what = "not the folder of a run" if folder.exists() else "no such run"
            raise UserError(f"{folder}: {what}")
        rows = runs.read_metrics(folder)
        found.append(RunRecord(_name(place, places), folder, deciding(settings), rows))
    return found


def deciding(settings: dict) -> dict[str, object]:
    """What decides a run, of its run.json, flat: {"recipe.seed": 0}."""
    return _flat({name: settings[name] for name in DECIDES if name in settings})


def differences(records: list[RunRecord]) -> dict[str, list]:
    """Setting -> its value in each run, of those that are not the same in all; None where there is none."""
    names = dict.fromkeys(name for record in records for name in record.settings)
    values = {name: [record.settings.get(name) for record in records] for name in names}
    return {name: row for name, row in values.items() if any(v != row[0] for v in row)}


def draw(records: list[RunRecord], path: Path, against: str) -> None:
    """The curves of the runs as a PNG, over one of AGAINST; UserError if a run does not tell it."""
    from tfvit import plots

    key, label, factor = AGAINST[against]
    for record in records:
        if any(key not in row for row in record.rows):
            raise UserError(f"{record.folder}: its metrics have no {key}; take --against steps")
    rows = {record.name: record.rows for record in records}
    plots.comparison(rows, path, key, label, factor)


def _flat(values: dict, prefix: str = "") -> dict[str, object]:
    """{"recipe": {"seed": 0}} as {"recipe.seed": 0}."""
    found = {}
    for name, value in values.items():
        inner = isinstance(value, dict)
        found |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def _name(place: Path, places: list[Path]) -> str:
    """The shortest end of a path that no other of `places` has."""
    length = 1
    while sum(other.parts[-length:] == place.parts[-length:] for other in places) > 1:
        length += 1
    return str(Path(*place.parts[-length:]))
