"""Automatic mixed precision: the layers that cost most go back to float until the accuracy is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from convert.schemes import INTEGER
from convert.tune import Quantized
from edge_demo.errors import GateError
from edge_demo.files import write_json


def keep(
    quantized: Quantized,
    max_drop: float,
    drop: Callable[[Quantized], float],
    costs: Callable[[], dict[str, dict[str, float]]],
    failed: Path,
    say: Callable[[str], None],
    figure: str = "top-1",
) -> Quantized:
    """`quantized` with as few layers in float as its file needs to lose at most `max_drop` points.

    drop: writes the file of a candidate and returns the points of `figure` that it loses.
    costs: measures the layers (`sensitivity.measure`), the most costly first; not called if all is well.
    Raises GateError, after writing what was tried to `failed`, if half of the layers are not enough or
    the scheme has none to give.
    """
    name = quantized.scheme.name
    lost = drop(quantized)
    if lost <= max_drop:
        return quantized
    say(
        f"{name}: loses {lost:.2f} points of {figure}, more than {max_drop:g}; looking for the layers"
    )
    measured = costs()
    tried = {0: lost}
    for layers in _candidates(quantized, list(measured)):
        candidate = dataclasses.replace(quantized, in_float=layers)
        tried[len(layers)] = drop(candidate)
        say(
            f"{name}: loses {tried[len(layers)]:.2f} points with {len(layers)} of the layers in float"
        )
        if tried[len(layers)] <= max_drop:
            return candidate
    write_json(failed, {"scheme": name, "drop": lost, "tried": tried, "sensitivity": measured})
    raise GateError(
        f"{name}: loses {min(tried.values()):.2f} points of {figure} against float32, more than "
        f"--max-drop {max_drop:g}; most costly are {', '.join(list(measured)[:3])} (all in {failed}); "
        "raise --qat-steps or --max-drop"
    )


def _candidates(quantized: Quantized, layers: list[str]) -> Iterator[tuple[str, ...]]:
    """The most costly 1, 2, 4, ... layers, half of them at most; none where nothing may be float."""
    count = 1
    while quantized.scheme.activations != INTEGER and count <= len(layers) // 2:
        yield tuple(layers[:count])
        count *= 2
