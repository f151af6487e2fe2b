"""Checkpoints of a run: written while training goes on, the one before kept, the newest good one found."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from tfvit import checkpoint, runs
from tfvit.checkpoint import Snapshot
from tfvit.files import recover

THREAD = "checkpoint"  # name of the thread that writes


class Saver:
    """Writes a run's checkpoints in the background, one at a time; its context waits for the last.

    What goes wrong there is raised by the next call, or at the end of the context.
    """

    def __init__(
        self, run: Path, *, writes: bool = True, every: float | None = None, keep: bool = True
    ) -> None:
        """writes: False for workers other than the chief, whose Saver does nothing.

        every: seconds after which a checkpoint is `due`. keep: whether the one that is there is good.
        """
        self._run, self._writes, self._every, self._keep = run, writes, every, keep
        self._saved = time.monotonic()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind, *_) -> None:
        if self._thread:
            self._thread.join()
        if kind is None:
            self.wait()

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is longer ago than it should be."""
        return (
            self._writes
            and self._every is not None
            and time.monotonic() - self._saved >= self._every
        )

    def save(self, last: Snapshot, best: Snapshot | None = None) -> None:
        """Has snapshots written: to best/, if one is given, and then to last/.

        In that order, since where a run resumes the best must be there. What was in last/ becomes
        last.previous/. Raises UserError if the write before failed.
        """
        self.wait()
        if not self._writes:
            return
        self._thread = threading.Thread(
            target=self._write, args=(last, best), name=THREAD, daemon=True
        )
        self._thread.start()
        self._saved = time.monotonic()

    def wait(self) -> None:
        """Returns when nothing is being written; raises what went wrong."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            error, self._error = self._error, None
            raise error

    def _write(self, last: Snapshot, best: Snapshot | None) -> None:
        try:
            if best:
                checkpoint.write(best, self._run / runs.BEST)
            previous = self._run / runs.PREVIOUS if self._keep else None
            checkpoint.write(last, self._run / runs.LAST, previous)
            self._keep = True
        except BaseException as error:
            self._error = error


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint to resume from. is_newest: False if a newer one is damaged."""

    config: dict
    weights: dict[str, np.ndarray]
    state: dict[str, np.ndarray]
    is_newest: bool

    @property
    def step(self) -> int:
        """Optimizer steps that it has seen."""
        return self.config["provenance"]["step"]


def newest(run: Path, say: Callable[[str], None]) -> Saved | None:
    """The newest good checkpoint of a run, or None if it has none yet.

    say: is told if the newest is damaged. Raises UserError if all are.
    """
    damaged: list[UserError] = []
    recover(run / runs.LAST)
    for folder in (run / runs.LAST, run / runs.PREVIOUS):
        if not folder.is_dir():
            continue
        try:
            config = checkpoint.read_config(folder)
            weights = checkpoint.read_weights(folder, config)
            saved = Saved(config, weights, checkpoint.read_state(folder, config), not damaged)
        except UserError as error:
            damaged.append(error)
            continue
        if damaged:
            say(f"{damaged[0]}; going on from the one before, of step {saved.step}")
        return saved
    if damaged:
        raise UserError(
            f"{damaged[0]}; no good checkpoint is left; begin another run with "
            f"--init {run / runs.BEST}"
        )
    return None
