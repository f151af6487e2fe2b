"""The live view in a terminal: bars that stay in place, frames a second, time of each stage."""

from __future__ import annotations

import collections
import itertools
import math
import os
import statistics
import sys
import threading
import time
import unicodedata

import click

from edge_demo.outputs import render
from edge_demo.results import Result

REDRAW = 0.1  # seconds between two drawings
RECENT = 2.0  # seconds that figures are of


class View:
    """Draws the newest result over the one before; `say` puts a line above it."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._recent: collections.deque[Result] = collections.deque()
        self._lines = 0  # of the drawing on the screen
        self._drawn = 0.0
        self._lock = threading.Lock()  # the source's thread says things, too

    def take(self, result: Result) -> None:
        """Shows a result, unless the last one was shown only just now."""
        self._recent.append(result)
        while result.frame.time - self._recent[0].frame.time > RECENT:
            self._recent.popleft()
        now = time.monotonic()
        if now - self._drawn >= REDRAW:
            self._drawn = now
            with self._lock:
                self._draw(result)

    def say(self, line: str) -> None:
        """Writes a line that stays."""
        with self._lock:
            click.echo(self._erased() + line)

    def _draw(self, result: Result) -> None:
        drawing = f"{self._head(result)}\n{render.bar_lines(result, self._top)}".split("\n")
        told = os.get_terminal_size(sys.stdout.fileno()).columns
        columns = told or math.inf  # 0 is of one that does not tell
        erased, self._lines = self._erased(), len(drawing)
        click.echo(erased + "\n".join(_cut(line, columns - 1) for line in drawing))

    def _erased(self) -> str:
        """The control sequence that removes the drawing from the screen."""
        lines, self._lines = self._lines, 0
        return f"\x1b[{lines}A\x1b[J" if lines else ""

    def _head(self, result: Result) -> str:
        first, last = self._recent[0].frame, result.frame
        seconds = max(last.time - first.time, 1e-6)
        rate, arriving = (len(self._recent) - 1) / seconds, (last.number - first.number) / seconds
        stages = "  ".join(
            f"{stage} {statistics.median(r.milliseconds[stage] for r in self._recent):.1f}"
            for stage in result.milliseconds
        )
        age = statistics.median(r.age for r in self._recent)
        return (
            f"{result.frame.source}  {rate:.1f} of {arriving:.1f} frames/s  "
            f"{stages}  age {age:.0f} ms\n{result.label}"
        )


def _cut(line: str, columns: float) -> str:
    """As much of a line as there is room for: one that wraps is more than one to erase."""
    wide = (1 + (unicodedata.east_asian_width(letter) in "WF") for letter in line)
    return line[: sum(end <= columns for end in itertools.accumulate(wide))]
