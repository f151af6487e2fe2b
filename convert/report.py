"""The page that a person looks at: report.json and the worst disagreements as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from convert import pictures
from convert.formats import FORMATS, number
from edge_demo.scores import SIGMOID
from tfvit import figures
from tfvit.page import template, thumbnail

if TYPE_CHECKING:
    from convert.verify import Examples

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MAX_DROP = 0.01  # of accuracy against float, for a file to be called as right as float
MAX_PHOTOS = 12


def page(report: dict, examples: Examples) -> str:
    """A self-contained HTML page of a report, as `export` returns it.

    examples: (file stem, name of a photo) -> pixels, for the report's disagreements.
    """
    files = report["files"]
    return template(TEMPLATE, {**FORMATS, "facts": facts}).render(
        report=report,
        verdict=verdict(files),
        figure=_figure(next(iter(files.values()))) if report["data"] else None,
        several=report["scores"] == SIGMOID,
        rows=[_row(entry, files) for entry in files.values()],
        tfjs=[_row(entry, files) for entry in report["tfjs"].values()],
        threads=sorted({t for e in files.values() for t in e["latency_ms"]}, key=int),
        picture=pictures.accuracy_against_latency(files),
        photos=_photos(files | report["tfjs"], examples),
        sensitivity={
            stem: pictures.sensitivity(costs)
            for stem, costs in report.get("sensitivity", {}).items()
        },
        most_sites=pictures.MOST_SITES,
    )


def verdict(files: dict[str, dict]) -> str:
    """One sentence: which file to take, and what it costs and brings against float32."""
    floats = [entry for stem, entry in files.items() if entry["reference"] == stem]
    others = [entry for stem, entry in files.items() if entry["reference"] != stem]
    base = max(floats, key=lambda entry: _accuracy(entry) or 0)
    if not others:
        worst = FORMATS["tiny"](base["parity_with_keras"]["max_difference"])
        return (
            f"{base['file']} computes what the Keras model does: logits differ by {worst} at most."
        )
    fastest = max(others, key=lambda entry: _speed(entry, base))
    if "accuracy" not in base:
        return f"{_gain(fastest, base)}; how right it is, only held-out photos (--data) can tell."
    right = [entry for entry in others if _drop(entry, base) <= MAX_DROP]
    if not right:
        nearest = min(others, key=lambda entry: _drop(entry, base))
        return (
            f"Take {base['file']}: no other file comes within {number(100 * MAX_DROP)} point of its "
            f"{_figure(base)}; the nearest is {_cost(nearest, base)}."
        )
    chosen = max(right, key=lambda entry: _speed(entry, base))
    take = "Take" if _speed(chosen, base) > 1 else "No file is faster than float here:"
    return f"{take} {_gain(chosen, base)}; {_cost(chosen, base)}."


def _gain(entry: dict, base: dict) -> str:
    speed, size = _speed(entry, base), entry["bytes"] / base["bytes"]
    faster, smaller = FORMATS["times"](speed), FORMATS["times"](size)
    return f"{entry['file']}, {faster} as fast as {base['file']} at {smaller} its size"


def _cost(entry: dict, base: dict) -> str:
    found, of_float = (FORMATS["percent"](_accuracy(e)) for e in (entry, base))
    return f"{_figure(base)} {found} with {entry['file']}, {of_float} with {base['file']}"


def _accuracy(entry: dict) -> float | None:
    """The figure that files are compared by; None where there is none."""
    accuracy = entry.get("accuracy")
    return accuracy and accuracy[figures.best_by(accuracy)]


def _figure(entry: dict) -> str:
    """Its name for people."""
    return figures.NAMES[figures.best_by(entry["accuracy"])]


def facts(value: dict, prefix: str = "") -> list[tuple[str, str]]:
    """A nested dictionary as (name, text) lines, as provenance and recipes are shown."""
    lines = []
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, dict):
            lines += facts(item, f"{name}, ")
        elif isinstance(item, (list, tuple)):
            lines.append((name, ", ".join(map(_text, item))))
        else:
            lines.append((name, _text(item)))
    return lines


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _row(entry: dict, files: dict[str, dict]) -> dict:
    """An entry of report.json with what the table shows beside it."""
    base = files[entry["reference"]]
    change = None
    if entry is not base and "accuracy" in entry:
        change = -_drop(entry, base)
    return {"score": _accuracy(entry), "change": change, **entry}


def _drop(entry: dict, base: dict) -> float:
    return _accuracy(base) - _accuracy(entry)


def _speed(entry: dict, base: dict) -> float:
    """How many times as fast as `base` on one thread; from interleaved runs where there are such."""
    if entry["reference"] == Path(base["file"]).stem:
        return entry["speedup"]["1"]
    return base["latency_ms"]["1"] / entry["latency_ms"]["1"]


def _photos(files: dict[str, dict], examples: Examples) -> list[dict]:
    """The photos that float32 is surest of and some file calls by another name, with what each says."""
    photos: dict[tuple, dict] = {}
    for stem, entry in files.items():
        for item in entry.get("disagreements", ()):
            photo = photos.setdefault(
                (entry["reference"], item["name"]),
                {**item, "file": entry["reference"], "said": [], "picture": None},
            )
            photo["said"].append((stem, item["found"]))
            pixels = examples.get((stem, item["name"]))
            if pixels is not None:
                photo["picture"] = thumbnail(pixels)
    surest = sorted(photos.values(), key=lambda photo: -photo["reference"]["score"])
    return surest[:MAX_PHOTOS]
