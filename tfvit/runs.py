"""A run's folder: its settings, metrics, curves, and the best and last checkpoints.

run.json        model, data and recipe: what `--resume` goes by
metrics.jsonl   one line per evaluation and per logged stretch of training
curves.png      the same as a picture; tensorboard/ the same for TensorBoard
best/ last/     checkpoint folders; last/ also holds the optimizer's state
last.previous/  the one before, should last/ be damaged
workers/        logs of the other workers of `tfvit launch`
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from edge_demo.files import atomic_file, decoding, read_json

RUN, METRICS, CURVES, TENSORBOARD = "run.json", "metrics.jsonl", "curves.png", "tensorboard"
BEST, LAST, PREVIOUS, WORKERS = "best", "last", "last.previous", "workers"
NOT_DRAWN = ("step", "phase", "seconds")  # of a row: TensorBoard knows step and time by itself


class MetricsLog:
    """metrics.jsonl, mirrored to TensorBoard, without the rows after the step that a run resumes at.

    Every row gets `seconds`, the time the run has taken so far, counted on where it is resumed.
    """

    def __init__(self, folder: Path, step: int, *, writes: bool = True) -> None:
        """writes: False for workers other than the chief, who only keep the rows."""
        self._writes = writes
        self.path = folder / METRICS
        self.rows = [row for row in read_metrics(folder) if row["step"] <= step]
        self._began = time.monotonic() - (self.rows[-1].get("seconds", 0) if self.rows else 0)
        if not writes:
            return
        import tensorflow as tf

        with atomic_file(self.path) as temporary:
            temporary.write_text("".join(_line(row) for row in self.rows), "utf-8")
        self._writer = tf.summary.create_file_writer(str(folder / TENSORBOARD))

    def add(self, row: dict) -> None:
        """Appends a row: {"step": ..., "phase": "train" or "eval", then numbers}."""
        row = {**row, "seconds": round(time.monotonic() - self._began, 3)}
        self.rows.append(row)
        if not self._writes:
            return
        import tensorflow as tf

        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(_line(row))
        except OSError as error:
            raise UserError(f"{self.path}: not written ({error.strerror})") from None
        with self._writer.as_default(step=row["step"]):
            for name, value in row.items():
                if name not in NOT_DRAWN and value is not None:
                    tf.summary.scalar(f"{row['phase']}/{name}", value)
        self._writer.flush()

    def add_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture, uint8 [height, width, 3], in TensorBoard under a name."""
        import tensorflow as tf

        with self._writer.as_default(step=step):
            tf.summary.image(name, image[np.newaxis])
        self._writer.flush()


def read_metrics(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, but for a last line that a killed process left unfinished.

    Empty if there is no file yet; UserError if it holds something else.
    """
    rows = []
    path = folder / METRICS
    with decoding(path):
        for line in path.read_text("utf-8").splitlines() if path.exists() else []:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                break
            if not {"step", "phase"} <= row.keys():
                raise ValueError("a row without step or phase")
            rows.append(row)
    return rows


def read_settings(folder: Path) -> dict | None:
    """run.json, or None if there is no run in the folder; UserError if it is damaged."""
    path = folder / RUN
    return read_json(path, "run") if path.exists() else None


def drop(folder: Path, *names: str) -> None:
    """Removes these of the checkpoints of a run that has ended and been measured."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def _line(row: dict) -> str:
    return json.dumps(row) + "\n"
