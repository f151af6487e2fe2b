"""How every figure of the report is written; None, what was not measured, is "-"."""

from __future__ import annotations

from collections.abc import Callable

from edge_demo.tables import percent


def number(value: float) -> str:
    """Three significant digits, without an exponent for what is large."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _or_dash(write: Callable[[float], str]) -> Callable[[float | None], str]:
    return lambda value: "-" if value is None else write(value)


# name, also of a filter in the template -> figure to text
FORMATS = {
    name: _or_dash(write)
    for name, write in {
        "percent": percent,
        "points": lambda share: f"{round(100 * share, 2) + 0.0:+.2f}",  # + 0.0: never "-0.00"
        "milliseconds": lambda ms: f"{number(ms)} ms",
        "megabytes": lambda count: f"{count / 1e6:.2f} MB",
        "mebibytes": lambda mib: f"{mib:.1f} MiB",
        "times": lambda ratio: f"{ratio:.2f}x",
        "decibels": lambda db: f"{db:.1f} dB",
        "tiny": lambda value: f"{value:.1e}",
        "seconds": lambda seconds: f"{seconds:.0f} s",
        "pixels": lambda size: "x".join(map(str, dict.fromkeys(size))),
    }.items()
}
