"""Numbers for Prometheus, in its text format 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable
from pathlib import Path

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# upper ends of a histogram, in seconds: from a small model on a desk to a large one on a small board
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STATM = Path("/proc/self/statm")

Sample = tuple[str, dict[str, str], float]  # what follows the name, labels, value
Family = tuple[str, str, str, list[Sample]]  # name, type, help, samples


class Histogram:
    """How many values were at most each of BUCKETS, and their sum."""

    def __init__(self) -> None:
        self._counts, self._sum = [0] * (len(BUCKETS) + 1), 0.0

    def add(self, value: float) -> None:
        """Counts a value."""
        self._counts[bisect.bisect_left(BUCKETS, value)] += 1
        self._sum += value

    def samples(self) -> list[Sample]:
        """Cumulative, as the format wants them."""
        found, total = [], 0
        for end, count in zip((*map(str, BUCKETS), "+Inf"), self._counts):
            total += count
            found.append(("_bucket", {"le": end}, total))
        return [*found, ("_sum", {}, self._sum), ("_count", {}, total)]


def single(value: float | None) -> list[Sample]:
    """The sample of a number without labels; none where it is not known."""
    return [] if value is None else [("", {}, value)]


def text(families: Iterable[Family]) -> str:
    """The page that Prometheus reads."""
    lines = []
    for name, kind, help_text, samples in families:
        if samples:
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        for suffix, labels, value in samples:
            pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            lines.append(
                f"{name}{suffix}{{{pairs}}} {value}" if pairs else f"{name}{suffix} {value}"
            )
    return "\n".join(lines) + "\n"


def resident_bytes() -> int | None:
    """Memory that this process has in RAM; None where Linux is not there to tell."""
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, AttributeError, ValueError):
        return None


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
