"""Names of the figures that a model scores, and which of them models are compared by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# name, as metrics and reports keep it -> for people; of two, the first is what models are compared by
NAMES = {"map": "mAP", "top1": "top-1", "top5": "top-5", "loss": "loss"}


def best_by(figures: Iterable[str]) -> str:
    """The name of the figure that models are compared by: mAP where there is one, the loss at last."""
    found = set(figures)
    return next(name for name in NAMES if name in found)


def best(name: str, rows: Sequence[dict]) -> dict:
    """The first of the rows in which a figure is best: the most of it, or the least of a loss."""
    return (min if name == "loss" else max)(rows, key=lambda row: row[name])
