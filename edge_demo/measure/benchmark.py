"""How fast files are, how long they take to start and how much memory they need.

Each runs in a process of its own; all take turns, so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from edge_demo.errors import GateError
from edge_demo.measure import runner
from edge_demo.progress import progress

PERCENTILES = (50, 90, 99)
TURN = 0.1  # seconds that a file runs before it is the next one's turn
WARM_UP = 0.3  # seconds that are not counted


def measure(paths: Sequence[Path], threads: Sequence[int], seconds: float) -> list[dict]:
    """One dictionary for each file and number of threads, in this order.

    seconds: of counted runs of each file. Of every file there are `file`, `threads`, `bytes`, and
    - `start_up_ms`: from the start of a process to its first result; `load_ms` and
      `first_ms` of it: loading the file, the first run
    - `p50_ms`, `p90_ms`, `p99_ms` of `runs`, and how many there were `per_second`
    - `speed`: the p50 of the first file with as many threads, divided by this one's
    - `peak_mib`, resident, of a process that ran it once; `above_mib`, what of it came with the file
    or `error`, the reason, where it does not load or run. None is what is not known.
    """
    found = {(path, count): {} for path in paths for count in threads}
    for count in threads:
        with contextlib.ExitStack() as stack:
            opened = {}
            for path in paths:
                with _noting(path, found[path, count]):
                    opened[path] = stack.enter_context(runner.bare(path, count))
            times = _take_turns(opened, {p: found[p, count] for p in paths}, count, seconds)
        first = times.get(paths[0])
        for path, samples in times.items():
            found[path, count] |= _figures(opened[path], samples, first)
    return [
        {"file": str(path), "threads": count, "bytes": path.stat().st_size, **entry}
        for (path, count), entry in found.items()
    ]


def _take_turns(
    opened: dict[Path, runner.Bare], found: dict[Path, dict], count: int, seconds: float
) -> dict[Path, list[float]]:
    """Milliseconds of the runs of each file; those that fail on the way are not among them."""
    times: dict[Path, list[float]] = {path: [] for path in opened}
    turns = range(-1, math.ceil(seconds / TURN))  # the one before the first is to warm up
    with progress(turns, f"timing with {count} threads") as bar:
        for turn in bar:
            for path, samples in list(times.items()):
                with _noting(path, found[path]):
                    if turn < 0:
                        opened[path].run_for(WARM_UP)
                    elif sum(samples) < 1e3 * seconds:  # a slow file takes more than its turn
                        samples += opened[path].run_for(TURN)
                if "error" in found[path]:
                    del times[path]
    return times


@contextlib.contextmanager
def _noting(path: Path, entry: dict) -> Iterator[None]:
    try:
        yield
    except GateError as error:
        entry["error"] = str(error).removeprefix(f"{path.name}: ")


def _figures(opened: runner.Bare, samples: list[float], first: list[float] | None) -> dict:
    peak, baseline = opened.peak_mib, opened.baseline_mib
    return {
        "start_up_ms": opened.start_up_ms,
        "load_ms": opened.load_ms,
        "first_ms": opened.first_ms,
        **{f"p{p}_ms": float(np.percentile(samples, p)) for p in PERCENTILES},
        "per_second": 1e3 * len(samples) / sum(samples),
        "runs": len(samples),
        "speed": first and float(np.median(first) / np.median(samples)),
        "peak_mib": peak,
        "above_mib": None if peak is None else peak - baseline,
    }
