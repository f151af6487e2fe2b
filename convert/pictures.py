"""Pictures inside the report page: SVG that takes its text colour from the page."""

from __future__ import annotations

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure  # without pyplot: no display, no global state

from convert.formats import FORMATS
from tfvit import figures
from tfvit.page import INK, STYLE, svg

AREAS = (60.0, 900.0)  # of a point, in square points: an empty file's, the largest's
MIN_POINTS = 5.0  # of accuracy that the picture spans
MOST_SITES = 20


@matplotlib.rc_context(STYLE)
def accuracy_against_latency(files: dict[str, dict]) -> Markup | None:
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
    return svg(canvas, "Accuracy against latency of each file")


@matplotlib.rc_context(STYLE)
def sensitivity(costs: dict[str, dict]) -> Markup:
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
    return svg(figure, "Sensitivity of the layers")
