"""One way to show progress: a bar on a terminal, nothing in a log file."""

from __future__ import annotations

from tqdm import tqdm


def progress(total: int, label: str, unit: str, start: int = 0) -> tqdm:
    """A tqdm bar with rate and time left; `.update(n)` advances it, a `with` block closes it."""
    return tqdm(
        total=total,
        initial=start,
        desc=label,
        unit=unit,
        disable=None,
        leave=False,
        dynamic_ncols=True,
        smoothing=0.05,
    )
