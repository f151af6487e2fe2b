"""Pictures inside the report page: SVG that takes its text colour from the page, PNG thumbnails."""

from __future__ import annotations

import base64
import io
import re

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # without pyplot: no display, no global state
from PIL import Image

from convert.formats import FORMATS
from tfvit import figures

INK = "#000001"  # stands for the page's text colour, light or dark
STYLE = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
AREAS = (60.0, 900.0)  # of a point, in square points: an empty file's, the largest's
MIN_POINTS = 5.0  # of accuracy that the picture spans
MOST_SITES = 20


def thumbnail(pixels: np.ndarray) -> str:
    """uint8 [height, width, 3] as the data URI of a PNG, lossless."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


@matplotlib.rc_context(STYLE)
def accuracy_against_latency(files: dict[str, dict]) -> str | None:
    """SVG: accuracy of each file over its time on one thread, a line per scheme; None without accuracy."""
    measured = [entry for entry in files.values() if "accuracy" in entry]
    if not measured:
        return None
    canvas = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = canvas.subplots()
    figure = figures.best_by(measured[0]["accuracy"])
    largest = max(entry["bytes"] for entry in measured)
    several = len({tuple(entry["image_size"]) for entry in measured}) > 1
    for scheme in dict.fromkeys(entry["scheme"] for entry in measured):
        points = [entry for entry in measured if entry["scheme"] == scheme]
        points.sort(key=lambda entry: entry["latency_ms"]["1"])
        x = [entry["latency_ms"]["1"] for entry in points]
        y = [100 * entry["accuracy"][figure] for entry in points]
        areas = [AREAS[0] + (AREAS[1] - AREAS[0]) * e["bytes"] / largest for e in points]
        (line,) = axis.plot(x, y, "-", alpha=0.6)
        colour = line.get_color()
        axis.scatter(x, y, areas, color=colour, alpha=0.45, edgecolors=colour, linewidths=1.5)
        sizes = "" if several else f"  {FORMATS['megabytes'](points[0]['bytes'])}"
        axis.plot([], [], "o", color=colour, alpha=0.7, label=scheme + sizes)
        for entry, *place in zip(points, x, y) if several else ():
            pixels = FORMATS["pixels"](entry["image_size"])
            axis.annotate(pixels, place, ha="center", va="center", fontsize=8)
    axis.set(xlabel="milliseconds on one thread", ylabel=f"{figures.NAMES[figure]}, %")
    axis.margins(0.25)
    low, high = axis.get_ylim()
    spread = max(0.0, MIN_POINTS - (high - low)) / 2  # so that a hair's breadth looks like one
    axis.set_ylim(low - spread, high + spread)
    axis.set_xlim(left=0)
    axis.grid(color=INK, alpha=0.15)
    canvas.legend(loc="outside upper center", ncols=3, frameon=False)
    return _svg(canvas, "Accuracy against latency of each file")


@matplotlib.rc_context(STYLE)
def sensitivity(costs: dict[str, dict]) -> str:
    """SVG: a bar for each of the layers that cost most when rounded alone, the changed predictions beside."""
    worst = list(costs.items())[:MOST_SITES]
    figure = Figure(figsize=(6.4, 0.9 + 0.24 * len(worst)), layout="constrained")
    axis = figure.subplots()
    bars = axis.barh([name for name, _ in worst], [cost["kl"] for _, cost in worst], alpha=0.8)
    changed = [f" {FORMATS['percent'](cost['changed'])}" for _, cost in worst]
    axis.bar_label(bars, changed, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.locator_params(axis="x", nbins=4)
    axis.set_xlabel("divergence from float when this layer alone is rounded, nats")
    return _svg(figure, "Sensitivity of the layers")


def _svg(figure, title: str) -> str:
    """A figure as an <svg> element as wide as its surroundings."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": title}):
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue().replace(INK, "currentColor")
    svg = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", svg)  # those of groups, the same in every figure
    _, _, body = svg[svg.index("<svg") :].partition(">")
    width, height = (72 * inches for inches in figure.get_size_inches())
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{title}"'
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box}>{body}'
