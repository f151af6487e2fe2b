"""Engines that take turns: first parity of their logits, then latency, in another order each round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tfvit.progress import progress

MIN_COSINE = 0.9  # of the logits with the float model's: below this an engine is not timed
UNCOUNTED, COUNTED = 1, 3  # calls of an engine when its turn comes: caches warm, then timed


class Runner(Protocol):
    """An engine with a model, wherever it runs. bytes: of the model's files."""

    name: str
    bytes: int

    def logits(self) -> np.ndarray:
        """Of the images to check it on: [n, classes]."""

    def time(self, uncounted: int, counted: int) -> dict:
        """Runs the first of them; {"milliseconds": of each counted call}, and other figures of this turn."""


def measure(
    runners: Sequence[Runner], reference: np.ndarray, rounds: int, title: str
) -> list[dict]:
    """One dictionary per runner: parity with the float model's logits, then latency.

    samples: the median milliseconds of each round, in the same order for all. One whose logits are wrong
    has no latency. title: of the bar.
    """
    rows = [
        {"name": runner.name, "bytes": runner.bytes, **_parity(runner.logits(), reference)}
        for runner in runners
    ]
    right = [i for i, row in enumerate(rows) if row["cosine"] >= MIN_COSINE]
    turns: dict[int, list[dict]] = {i: [] for i in right}
    order = np.random.default_rng(0)  # so that none is always in the wake of the same other
    with progress(rounds, title, "round") as bar:
        for _ in range(rounds):
            for i in order.permutation(right).tolist():
                turns[i].append(runners[i].time(UNCOUNTED, COUNTED))
            bar.update()
    for i in right:
        samples = [float(np.median(turn["milliseconds"])) for turn in turns[i]]
        others = turns[i][0].keys() - {"milliseconds"}
        medians = {key: float(np.median([turn[key] for turn in turns[i]])) for key in others}
        rows[i] |= {"milliseconds": float(np.median(samples)), **medians, "samples": samples}
    return rows


def speed(row: dict, baseline: dict) -> list[float]:
    """How many times as fast as the baseline, by rounds: lower quartile, median, upper quartile."""
    ratios = np.array(baseline["samples"]) / np.array(row["samples"])
    return np.percentile(ratios, (25, 50, 75)).tolist()


def named(rows: list[dict], name: str) -> dict:
    """The row of a name."""
    return next(row for row in rows if row["name"] == name)


def _parity(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Mean cosine of logits [n, classes] with the reference's, and the share of equal top-1."""
    dot = (found * reference).sum(-1)
    cosine = dot / (np.linalg.norm(found, axis=-1) * np.linalg.norm(reference, axis=-1))
    agreement = found.argmax(-1) == reference.argmax(-1)
    return {"cosine": float(cosine.mean()), "agreement": float(agreement.mean())}
