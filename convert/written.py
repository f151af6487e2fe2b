"""A model that was written, in either format: what it says of itself, and a run of it.

A .tflite is run in LiteRT, in a process of its own; a TF.js model is a folder, and is run in TensorFlow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from convert import tfjs
from edge_demo.files import sha256
from edge_demo.measure import runner
from edge_demo.tflite import metadata
from edge_demo.tflite.metadata import LOGITS

Run = Callable[[np.ndarray], np.ndarray]  # uint8 [n, height, width, 3] -> logits [n, classes]


def is_tflite(path: Path) -> bool:
    """Whether it is that, or else a TF.js model."""
    return path.suffix == ".tflite"


def name(path: Path) -> str:
    """Its file in the exported folder."""
    return path.name if is_tflite(path) else tfjs.name(path)


def running(
    path: Path, threads: int | None = None, output: str = LOGITS
) -> contextlib.AbstractContextManager[Run]:
    """A context that yields a Run, for as long as it lasts; of another `output` than the logits if asked.

    Raises GateError, naming the file, if it does not load or run.
    """
    return runner.runner(path, threads, output) if is_tflite(path) else tfjs.runner(path, output)


def description(path: Path) -> dict:
    """What it holds beside the graph; of that, `scheme` and `outputs` are in both formats."""
    if not is_tflite(path):
        return tfjs.description(path)
    inside = metadata.read(path)
    return {**inside.description, "outputs": list(inside.outputs)}


def content(path: Path) -> dict:
    """Its size and hash; of all its files in the order of their names, if it is a folder."""
    files = [path] if is_tflite(path) else sorted(path.iterdir())
    return {"bytes": sum(file.stat().st_size for file in files), "sha256": sha256(*files)}
