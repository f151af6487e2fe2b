"""Few-shot accuracy: ridge regression on the frozen features of a few images per class, in closed form.

The "linear few-shot" of the ViT paper (arXiv 2010.11929, section 4.1) as big_vision's
evaluators/fewshot_lsr.py computes it. There l2 is fixed; how it is chosen beside that is our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_demo.errors import UserError
from tfvit.evaluate.features import Features

SWEEP = tuple(2.0**i for i in range(-10, 20))  # of l2, as earlier versions of the reference had it
BIAS = 100.0  # the constant feature: large, so that l2 hardly holds its weights back
EPSILON = 1e-5  # added to the standard deviation of a feature


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Least squares with an l2 penalty from features to -1 and 1 for each class, solved for any l2.

    The design matrix is what `_design` makes of features, [n, d + 1], by the mean and std [d] of the
    training features; u [n, r], s [r] and vt [r, d + 1] are its singular value decomposition.
    targets: [n, classes]. All float64.
    """

    mean: np.ndarray
    std: np.ndarray
    u: np.ndarray
    s: np.ndarray
    vt: np.ndarray
    targets: np.ndarray

    def weights(self, l2: float) -> np.ndarray:
        """The solution (x'x + l2)^-1 x'y: [d + 1, classes]; its last row is for the constant feature."""
        return self.vt.T @ ((self.s / (self.s**2 + l2))[:, np.newaxis] * (self.u.T @ self.targets))

    def scores(self, values: np.ndarray, l2: float) -> np.ndarray:
        """What the solution makes of features [m, d]: [m, classes]."""
        return _design(values, self.mean, self.std) @ self.weights(l2)

    def left_out(self, l2: float) -> np.ndarray:
        """What each training image gets from the solution of all others: [n, classes]."""
        kept = self.s**2 / (self.s**2 + l2)
        fitted = self.u @ (kept[:, np.newaxis] * (self.u.T @ self.targets))
        own = (self.u**2 @ kept)[:, np.newaxis]  # how much of its own target is in what it gets
        return (fitted - own * self.targets) / (1 - own)

    def chosen(self) -> float:
        """The l2 of SWEEP with the least squared error on training images that are left out in turn."""
        errors = [((self.left_out(l2) - self.targets) ** 2).mean() for l2 in SWEEP]
        return SWEEP[int(np.argmin(errors))]


def ridge(values: np.ndarray, labels: np.ndarray, classes: int) -> Ridge:
    """The regression of features [n, d] of images whose class numbers are labels [n]."""
    values = values.astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0) + EPSILON
    decomposed = np.linalg.svd(_design(values, mean, std), full_matrices=False)
    return Ridge(mean, std, *decomposed, 2.0 * (labels[:, np.newaxis] == np.arange(classes)) - 1)


def _design(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Features standardised, and the constant behind them."""
    return np.pad((values - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS)


@dataclasses.dataclass(frozen=True)
class FewShot:
    """What probes on `shots` images per class score: accuracy, 0-1, and l2 of each seed's draw."""

    shots: int
    l2: tuple[float, ...]
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean accuracy over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float | None:
        """Standard deviation over the seeds (n - 1); None of one seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None

    def to_json(self) -> dict:
        """A dictionary of JSON types, mean and std included."""
        return {**dataclasses.asdict(self), "mean": self.mean, "std": self.std}


@dataclasses.dataclass(frozen=True)
class Found:
    """fixed: with one l2 for all. chosen: with that of `Ridge.chosen`, which takes two shots at least."""

    fixed: list[FewShot]
    chosen: list[FewShot]

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        return {name: [row.to_json() for row in rows] for name, rows in vars(self).items()}


def measure(
    train: Features,
    tested: Features,
    labels: tuple[str, ...],
    shots: Sequence[int],
    seeds: int,
    l2: float,
) -> Found:
    """Accuracies on all of `tested` of probes fitted on so many images per class of `train`.

    labels: names of the classes. seeds: numbers of the draws, from 0 on, alike for all models; the 5 images
    of a class are among its 10. l2: the fixed one. Raises UserError as `enough`.
    """
    enough(np.bincount(train.labels, minlength=len(labels)), labels, shots)
    found = Found([], [])
    for count in shots:
        fixed, chosen = [], []
        for seed in range(seeds):
            some = drawn(train.labels, len(labels), count, seed)
            probe = ridge(train.values[some], train.labels[some], len(labels))
            fixed.append((l2, _accuracy(probe, tested, l2)))
            if count > 1:
                best = probe.chosen()
                chosen.append((best, _accuracy(probe, tested, best)))
        found.fixed.append(FewShot(count, *zip(*fixed)))
        if chosen:
            found.chosen.append(FewShot(count, *zip(*chosen)))
    return found


def drawn(labels: np.ndarray, classes: int, shots: int, seed: int) -> np.ndarray:
    """Where the images lie that a seed draws from labels [n], class after class: [classes * shots]."""
    rng = np.random.default_rng(seed)
    mixed = [rng.permutation(np.flatnonzero(labels == number)) for number in range(classes)]
    return np.concatenate([places[:shots] for places in mixed])


def enough(counts: Sequence[int], labels: tuple[str, ...], shots: Sequence[int]) -> None:
    """UserError, naming them, if there are classes of fewer images than the most shots."""
    most = max(shots)
    few = [f"{label} ({count})" for label, count in zip(labels, counts) if count < most]
    if few:
        others = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise UserError(
            f"{most} shots: too few training images of {', '.join(few[:5])}{others}; lower --shots"
        )


def _accuracy(probe: Ridge, tested: Features, l2: float) -> float:
    return float((probe.scores(tested.values, l2).argmax(axis=1) == tested.labels).mean())
