"""Pictures that people look at: curves of runs, the confusion of classes, batches, heat maps.

Each is written as a PNG to a path, atomically, or to an open file.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from edge_demo.files import atomic_file
from edge_demo.outputs.annotate import heated

if TYPE_CHECKING:
    from tfvit.evaluate.fewshot import Found

MAX_NAMED_CLASSES = 40  # beyond it labels and counts do not fit a page
# (phase, key, factor, name): what is compared of several runs
PANELS = (
    ("train", "loss", 1, "training loss, nats"),
    ("eval", "loss", 1, "held-out loss, nats"),
    ("eval", "top1", 100, "held-out top-1, %"),
    ("train", "learning_rate", 1, "learning rate"),
    ("train", "images_per_second", 1, "images/s"),
)
# (key, factor, name): what is drawn of one run, where it has it
CURVES = (
    ("loss", 1, "loss"),
    ("top1", 100, "top-1 accuracy, %"),
    ("colors", 100, "right colours, %"),
)
TILE, CAPTION = 1.5, 0.36  # inches: a picture in a grid, the lines under it
MOST_LINES = 10  # of one style; further runs are dashed
# of a scaling study: key of a row -> its accuracy and its standard deviation; family of models -> mark
MEASURES = {"held_out": ("top1", "none"), "few_shot": ("mean", "std")}
MARKS = {"ViT": "o", "hybrid": "D", "ResNet": "s"}
MARK = 8  # points
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "frameon": False}  # of the panel


def curves(rows: list[dict], path: Path | BinaryIO, title: str) -> None:
    """Loss and shares of what is right over steps, training and held out, as a PNG."""
    panels = [panel for panel in CURVES if any(row.get(panel[0]) is not None for row in rows)]
    figure, axes = _figure(len(panels), (5 * len(panels), 4))
    for phase, style in (("train", "-"), ("eval", "o-")):
        name = "training" if phase == "train" else "held out"
        for axis, (key, factor, _) in zip(axes, panels):
            chosen = [row for row in rows if row["phase"] == phase and row.get(key) is not None]
            values = [factor * row[key] for row in chosen]
            axis.plot([r["step"] for r in chosen], values, style, label=name, markersize=3)
    for axis, (_, _, label) in zip(axes, panels):
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    _save(figure, path)


def confusion(
    counts: list[list[int]],
    labels: tuple[str, ...],
    path: Path | BinaryIO,
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


def reliability(bins: list[dict], path: Path | BinaryIO, title: str) -> None:
    """Accuracy over confidence as a PNG, and how many images have it: bins of `Scores.reliability`."""
    figure, (axis, below) = _figure(1, (5, 6), rows=2, heights=(3, 1))
    filled = [entry for entry in bins if entry["images"]]
    low, width = [entry["low"] for entry in bins], bins[0]["high"]
    accuracy = [entry["accuracy"] or 0 for entry in bins]
    axis.bar(low, accuracy, width, align="edge", edgecolor="white", label="accuracy")
    axis.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
    x, y = ([entry[key] for entry in filled] for key in ("confidence", "accuracy"))
    axis.vlines(x, x, y, color="C3", label="gap to the mean confidence")
    axis.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of the bin's images that is right")
    axis.set_title(title, fontsize=10, parse_math=False, wrap=True)
    axis.legend(loc="upper left")
    below.bar(low, [entry["images"] for entry in bins], width, align="edge", edgecolor="white")
    below.set(xlim=(0, 1), xlabel="confidence", ylabel="images")
    for each in (axis, below):
        each.grid(alpha=0.3)
    _save(figure, path)


def comparison(
    runs: dict[str, list[dict]], path: Path | BinaryIO, against: str, label: str, factor: float = 1
) -> None:
    """Loss, accuracy, learning rate and speed of several runs, each by its name.

    runs: name -> rows of metrics. against: the key of a row that is the x axis; label, factor: its.
    """
    figure, axes = _figure(3, (13, 7), rows=2)
    lines = []
    for axis, (phase, key, scale, name) in zip(axes, PANELS):
        style = "o-" if phase == "eval" else "-"
        drawn = False
        for i, rows in enumerate(runs.values()):
            chosen = [row for row in rows if row["phase"] == phase and row.get(key) is not None]
            x, y = [factor * row[against] for row in chosen], [scale * row[key] for row in chosen]
            dashes = ("-", "--", ":")[min(i // MOST_LINES, 2)]
            look = {"color": f"C{i % MOST_LINES}", "linestyle": dashes, "linewidth": 1.4}
            marker = "." if len(x) == 1 else style[:-1]  # a single point has no line
            lines += axis.plot(x, y, marker=marker, markersize=3 if len(x) > 1 else 8, **look)
            drawn = drawn or bool(x)
        axis.set_title(name, fontsize=10, loc="left")
        axis.grid(alpha=0.3)
        if drawn:
            axis.set_xlabel(label)
        else:
            axis.set(xticks=[], yticks=[])
            axis.text(0.5, 0.5, "none", ha="center", color="gray", transform=axis.transAxes)
    axes[3].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes[4].set_ylim(bottom=0)
    axes[5].axis("off")
    names = [textwrap.shorten(name, 44, placeholder=" ...") for name in runs]
    size = 10 if len(names) <= 14 else 7
    _legend(axes[5], lines[: len(names)], names, loc="upper left", frameon=False, fontsize=size)
    _save(figure, path)


def few_shot(found: dict[str, Found], path: Path | BinaryIO, title: str) -> None:
    """Accuracy of models over shots, mean and standard deviation: with a fixed l2, and dashed the chosen."""
    figure, (axis,) = _figure(1, (7, 4.5))
    lines = []
    for i, result in enumerate(found.values()):
        for rows, style in ((result.fixed, "o-"), (result.chosen, "o--")):
            bars = axis.errorbar(
                [row.shots for row in rows],
                [100 * row.mean for row in rows],
                [100 * (row.std or 0) for row in rows],
                **{"fmt": style, "color": f"C{i % MOST_LINES}", "markersize": 4, "capsize": 3},
            )
            lines.append(bars)
    shots = [row.shots for row in next(iter(found.values())).fixed]
    axis.set_xscale("log")
    axis.set_xticks(shots, list(map(str, shots)))
    axis.minorticks_off()
    axis.set(xlabel="training images of each class", ylabel="top-1 accuracy, %")
    axis.set_title(title, parse_math=False)
    axis.grid(alpha=0.3)
    _legend(axis, lines[::2], list(found), title="dashed: l2 chosen for each draw")
    _save(figure, path)


def over_images(rows: list[dict], path: Path | BinaryIO, measure: str, label: str) -> None:
    """Accuracy over the number of training images, a line for each model: figures 3 and 4 of the ViT paper.

    rows: of `tfvit.scaling.rows`, measured. measure: a key of MEASURES; label: what it is.
    """
    figure, (axis,) = _figure(1, (7.5, 4.5))
    lines, models = [], _by_model(rows)
    for look, cells in models.values():
        y, spread = zip(*(_measure(cell, measure) for cell in cells))
        x, bars = [cell["images"] for cell in cells], spread if any(spread) else None
        drawn = axis.errorbar(x, y, bars, linestyle="-", linewidth=1.4, capsize=3, **look)
        lines.append(drawn[0])
    images = sorted({row["images"] for row in rows})
    axis.set_xscale("log")
    axis.set_xticks(images, [f"{n:,}" for n in images])
    axis.minorticks_off()
    axis.set(xlabel="training images")
    axis.set_ylabel(label, parse_math=False)
    axis.grid(alpha=0.3)
    _legend(axis, lines, list(models), **BESIDE)
    _save(figure, path)


def over_compute(rows: list[dict], path: Path | BinaryIO, labels: dict[str, str]) -> None:
    """Accuracy over the compute of training, a panel for each measure: figure 5 of the ViT paper.

    rows: as in `over_images`. labels: key of MEASURES -> what it is. The larger a mark, the more data.
    """
    figure, axes = _figure(len(labels), (6 * len(labels) + 1.5, 4.5))
    models = _by_model(rows)
    for axis, (measure, label) in zip(axes, labels.items()):
        lines = []
        for look, cells in models.values():
            for cell in cells:
                size = MARK * (0.5 + 0.5 * cell["fraction"])
                y, spread = _measure(cell, measure)
                own = {**look, "markersize": size, "linestyle": ""}
                drawn = axis.errorbar(cell["exaflops"], y, spread or None, capsize=3, **own)
            lines.append(drawn[0])
        axis.set_xscale("log")
        axis.tick_params("x", which="minor", labelsize=7)  # or they are on top of each other
        axis.set(xlabel="training compute, exaFLOPs")
        axis.set_ylabel(label, parse_math=False)
        axis.grid(alpha=0.3)
    _legend(axes[-1], lines, list(models), title="larger: more images", **BESIDE)
    _save(figure, path)


def _by_model(rows: list[dict]) -> dict[str, tuple[dict, list[dict]]]:
    """Model -> its colour and its family's mark, and its rows."""
    found = {}
    for row in rows:
        look = {"color": f"C{len(found) % MOST_LINES}", "marker": MARKS[row["family"]]}
        found.setdefault(row["model"], ({**look, "markersize": MARK}, []))[1].append(row)
    return found


def _measure(row: dict, measure: str) -> tuple[float, float]:
    """What a row of a scaling study has measured, and its standard deviation or 0, in percent."""
    value, spread = MEASURES[measure]
    found = row["measured"][measure]
    return 100 * found[value], 100 * (found.get(spread) or 0)


def grouped_bars(
    groups: dict[str, dict[str, float]], path: Path | BinaryIO, title: str, label: str
) -> None:
    """A bar for each figure, 0-1, below each other by groups: name of a group -> name -> figure.

    The dashed line is the mean of its group.
    """
    count = sum(map(len, groups.values()))
    figure, (axis,) = _figure(1, (7, 1.2 + 0.26 * count))
    place, names, white = 0, [], {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
    for i, (group, values) in enumerate(groups.items()):
        shares = [100 * share for share in values.values()]
        places = range(place, place + len(shares))
        mean = sum(shares) / len(shares)
        axis.barh(places, shares, color=f"C{i}", label=f"{group}: mean {mean:.1f}")
        axis.vlines(mean, places[0] - 0.5, places[-1] + 0.5, color="black", linestyles="--", lw=1)
        for y, share in zip(places, shares):
            axis.text(share + 0.9, y, f"{share:.1f}", va="center", fontsize=8, bbox=white)
        place += len(shares) + 1
        names += [*values, ""]
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0)
    axis.invert_yaxis()
    axis.set(xlim=(0, 108), xlabel=label)
    axis.grid(alpha=0.3, axis="x")
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    figure.legend(loc="outside lower center", ncols=len(groups), frameon=False)
    _save(figure, path)


def batch_grid(pixels: np.ndarray, captions: list[str], path: Path | BinaryIO) -> None:
    """Pictures, uint8 [b, height, width, 3], in a grid with a caption under each."""
    columns = min(len(pixels), max(4, math.ceil(math.sqrt(len(pixels)))))
    figure, axes = _tiles(pixels, math.ceil(len(pixels) / columns), columns, CAPTION)
    for axis, image, caption in zip(axes, pixels, captions):
        axis.imshow(image, interpolation="nearest")
        lines = textwrap.wrap(caption, 20, max_lines=2, placeholder="...")
        caption = "\n".join(lines)
        axis.set_title(caption, fontsize=8, y=0, pad=-4, va="top", parse_math=False)
    _save(figure, path)


def picture_rows(pictures: dict[str, np.ndarray], path: Path | BinaryIO) -> None:
    """Rows of pictures, each uint8 [b, height, width, 3], with their names on the left."""
    first = next(iter(pictures.values()))
    figure, axes = _tiles(first, len(pictures), len(first), 0.05)
    for axis, picture in zip(axes, np.concatenate(list(pictures.values()))):
        axis.imshow(picture, interpolation="nearest")
    for axis, name in zip(axes[:: len(first)], pictures):
        place = {"x": -0.04, "y": 0.5, "rotation": 90, "transform": axis.transAxes}
        axis.text(s=name, ha="right", va="center", fontsize=9, **place)
    _save(figure, path)


def save(picture: np.ndarray, path: Path) -> None:
    """Writes a picture, uint8 [height, width, 3], as a PNG."""
    with atomic_file(path) as temporary:
        Image.fromarray(picture).save(temporary, "PNG")


def heat_maps(pixels: np.ndarray, maps: dict[str, np.ndarray], path: Path | BinaryIO) -> None:
    """Pictures, uint8 [b, height, width, 3], in rows, each with its heat maps laid over it.

    maps: name of a column -> float32 [b, down, across] of any scale; see `edge_demo.outputs.annotate.heated`.
    """
    figure, axes = _tiles(pixels, len(pixels), 1 + len(maps), 0.1)
    axes = axes.reshape(len(pixels), -1)
    for row, image, *heat in zip(axes, pixels, *maps.values()):
        row[0].imshow(image)
        for axis, values in zip(row[1:], heat):
            axis.imshow(heated(Image.fromarray(image), values))
    for axis, name in zip(axes[0], ("picture", *maps)):
        axis.set_title(name, fontsize=9)
    _save(figure, path)


def _tiles(pixels: np.ndarray, rows: int, columns: int, gap: float):
    """A figure of empty tiles in the pictures' proportion, `gap` inches between rows, and its axes."""
    height, width = pixels.shape[1:3]
    tall = TILE * min(max(height / width, 0.25), 4) + gap
    figure, axes = _figure(columns, (columns * (TILE + 0.1), rows * tall), rows)
    for axis in axes:
        axis.axis("off")
    return figure, axes


def _figure(
    columns: int,
    size: tuple[float, float],
    rows: int = 1,
    heights: Sequence[float] | None = None,
):
    """A figure and its axes, row after row; heights: of the rows, where they are not alike."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights).reshape(-1)


def _legend(axis, lines: list, names: list[str], **look) -> None:
    legend = axis.legend(lines, list(map(str, range(len(names)))), **look)
    for text, name in zip(
        legend.get_texts(), names
    ):  # afterwards: "_" and "$" mean something there
        text.set(text=name, parse_math=False)


def _save(figure, path: Path | BinaryIO) -> None:
    if not isinstance(path, Path):
        figure.savefig(path, dpi=120, format="png")
        return
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
