"""Few-shot accuracy: ridge regression on the frozen features of a few images per class, in closed form.

The "linear few-shot" of the ViT paper (arXiv 2010.11929, section 4.1) as big_vision's
evaluators/fewshot_lsr.py computes it. There l2 is fixed; how it is chosen beside that is our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from edge_demo.errors import UserError
from tfvit.data import Source
from tfvit.data.pipeline import Unreadable
from tfvit.data.source import part
from tfvit.evaluate import features
from tfvit.evaluate.features import Features, Reader

SWEEP = tuple(2.0**i for i in range(-10, 20))  # l2_regs of google/uncertainty-baselines
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
        """The l2 of SWEEP by which most training images are recognised when left out in turn.

        Of several the one with the least squared error; one image of a class cannot be left out.
        """
        truth, best = self.targets.argmax(axis=1), []
        for l2 in SWEEP:
            found = self.left_out(l2)
            right = (found.argmax(axis=1) == truth).sum()
            best.append((right, -((found - self.targets) ** 2).mean(), l2))
        return max(best)[-1]


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
    """fixed: with one l2 for all. chosen: with that of `Ridge.chosen`, which takes two shots at least.

    images: in the test. unreadable: left out of both splits.
    """

    fixed: tuple[FewShot, ...]
    chosen: tuple[FewShot, ...]
    images: int
    unreadable: Unreadable

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        return {
            name: [row.to_json() for row in getattr(self, name)] for name in ("fixed", "chosen")
        }


def measure(read: Reader, source: Source, shots: Sequence[int], seeds: int, l2: float) -> Found:
    """Accuracies on all held-out images of probes fitted on so many training images per class.

    seeds: draws, numbered from 0 on; they are alike for all models, and the 5 images that one takes of a
    class are among its 10. l2: the fixed one.
    Raises UserError if there are too few images of a class, none to learn from or several labels a picture.
    """
    check(source, max(shots))
    train, draws = _training(read, source, max(shots), seeds)
    tested, classes = read(source.eval), len(source.labels)
    fixed, chosen = [], []
    for count in shots:
        trials = []
        for rows in draws[:, :, :count].reshape(seeds, -1):
            probe = ridge(train.values[rows], train.labels[rows], classes)
            l2s = (l2, probe.chosen()) if count > 1 else (l2,)
            trials.append([(each, _accuracy(probe, tested, each)) for each in l2s])
        for results, of_seeds in zip((fixed, chosen), zip(*trials)):
            results.append(FewShot(count, *zip(*of_seeds)))
    unreadable = train.unreadable | tested.unreadable
    return Found(tuple(fixed), tuple(chosen), len(tested.labels), unreadable)


def check(source: Source, shots: int) -> None:
    """UserError if a source cannot give so many images of each class, as far as is known without reading."""
    split = features.to_learn_from(source)
    if split.counts is not None:
        _check(split.counts, source, shots)


def draw(labels: np.ndarray, classes: int, shots: int, seeds: int) -> np.ndarray:
    """Where the images lie that each seed draws from labels [n]: int64 [seeds, classes, shots]."""
    generators = map(np.random.default_rng, range(seeds))
    of_class = [np.flatnonzero(labels == number) for number in range(classes)]
    return np.array(
        [[rng.permutation(places)[:shots] for places in of_class] for rng in generators]
    )


def _training(read: Reader, source: Source, shots: int, seeds: int) -> tuple[Features, np.ndarray]:
    """Features of training images, all that are drawn at least, and which of them are: see `draw`."""
    split, classes = source.train, len(source.labels)
    if split.at is not None and split.labels is not None:
        places = draw(np.asarray(split.labels), classes, shots, seeds)
        some, rows = np.unique(places, return_inverse=True)
        found = read(part(split, some))
        if not found.unreadable:
            return found, rows.reshape(places.shape)
    found = read(split)
    _check(np.bincount(found.labels, minlength=classes), source, shots)
    return found, draw(found.labels, classes, shots, seeds)


def _check(counts: Sequence[int], source: Source, shots: int) -> None:
    """UserError if there are classes of fewer images than shots."""
    few = [f"{label} ({n})" for label, n in zip(source.labels, counts) if n < shots]
    if few:
        others = f" and {len(few) - 5} more" if len(few) > 5 else ""
        raise UserError(
            f"{source.name}: {shots} shots need as many training images of each class; "
            f"too few of {', '.join(few[:5])}{others}"
        )


def _accuracy(probe: Ridge, tested: Features, l2: float) -> float:
    return float((probe.scores(tested.values, l2).argmax(axis=1) == tested.labels).mean())
