"""Pictures that people look at: training curves and the confusion of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfvit.files import atomic_file

MAX_NAMED_CLASSES = 40  # beyond it labels and counts do not fit a page


def curves(rows: list[dict], path: Path, title: str) -> None:
    """Loss and accuracy over steps, training and held out, as a PNG."""
    figure, axes = _figure(2, (10, 4))
    for phase, style in (("train", "-"), ("eval", "o-")):
        chosen = [row for row in rows if row["phase"] == phase]
        steps = [row["step"] for row in chosen]
        name = "training" if phase == "train" else "held out"
        axes[0].plot(steps, [row["loss"] for row in chosen], style, label=name, markersize=3)
        accuracy = [100 * row["top1"] for row in chosen]
        axes[1].plot(steps, accuracy, style, label=name, markersize=3)
    for axis, label in zip(axes, ("loss, nats", "top-1 accuracy, %")):
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    _save(figure, path)


def confusion(
    counts: list[list[int]],
    labels: tuple[str, ...],
    path: Path,
    title: str,
    images: Sequence[int] | None = None,
) -> None:
    """A confusion matrix as a PNG: rows are the true classes, shares of their images as colour.

    images: of each class, where that is not the sum of the row: with several labels a picture.
    """
    matrix = np.array(counts, float)
    images = matrix.sum(axis=1) if images is None else np.array(images)
    shares = matrix / np.maximum(images[:, np.newaxis], 1)
    side = min(max(4.0, 1.6 + 0.55 * len(labels)), 16)
    figure, (axis,) = _figure(1, (side + 1, side))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axis, label="share of the true class's images", fraction=0.046)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    if len(labels) <= MAX_NAMED_CLASSES:
        axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axis.set_yticks(range(len(labels)), labels)
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour)
    _save(figure, path)


def _figure(columns: int, size: tuple[float, float]):
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _save(figure, path: Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
