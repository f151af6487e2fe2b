"""Names of the figures that a model scores, and which of them models are compared by."""

from __future__ import annotations

from collections.abc import Iterable

# name, as metrics and reports keep it -> for people; of two, the first is what models are compared by
NAMES = {"map": "mAP", "top1": "top-1", "top5": "top-5", "loss": "loss"}


def best_by(figures: Iterable[str]) -> str:
    """The name of the figure that models are compared by: mAP where there is one, the loss at last."""
    found = set(figures)
    return next(name for name in NAMES if name in found)


def is_better(name: str, value: float, than: Iterable[float]) -> bool:
    """Whether a figure is better than all others of its name: more, or less of a loss."""
    sign = -1 if name == "loss" else 1
    return all(sign * value > sign * other for other in than)
