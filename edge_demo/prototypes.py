"""Classes as prototypes: the mean direction of the features of their examples.

A picture belongs to the class whose prototype its features point to most nearly; no training, so a few
examples on a device are enough for a new class. Source: weight imprinting (arXiv 1712.07136); with the
mean over the examples as in prototypical networks (arXiv 1703.05175).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math

import numpy as np

from edge_demo.errors import UserError
from edge_demo.scores import softmax
from edge_demo.smoothing import UNKNOWN

KNOWN = 10  # examples that a class weighs against new ones of it, at most
SCALE = 16.0  # of a file that was exported without examples to fit it on
SCALES = (
    1.0,
    100.0,
)  # that a fit may end at: cosines of separate classes would take it to infinity


@dataclasses.dataclass(frozen=True)
class Prototypes:
    """One row for each class, in the order of `labels`.

    means: float32 [classes, d], of the examples' features at length 1. counts: of the examples.
    scale: logits are so many times the cosine. decide: whether they are the classes of the file; else
    its own head decides.
    """

    labels: tuple[str, ...]
    means: np.ndarray
    counts: tuple[int, ...]
    scale: float = SCALE
    decide: bool = False

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Logits float32 [..., classes] of features [..., d]."""
        return self.scale * (unit(features) @ self._directions.T)

    @functools.cached_property
    def _directions(self) -> np.ndarray:
        return unit(self.means)

    def enrolled(self, label: str, features: np.ndarray) -> Prototypes:
        """With more examples of a class, which may be new; features: float32 [n, d].

        What was known of the class counts for no more than KNOWN examples, so that a few correct it.
        """
        total, count = unit(features).sum(axis=0), len(features)
        if label not in self.labels:
            return dataclasses.replace(
                self,
                labels=(*self.labels, label),
                means=np.concatenate([self.means, total[np.newaxis] / count]),
                counts=(*self.counts, count),
                decide=True,
            )
        place, means, counts = self.labels.index(label), self.means.copy(), list(self.counts)
        known = min(counts[place], KNOWN)
        counts[place] = known + count
        means[place] = (known * means[place] + total) / counts[place]
        return dataclasses.replace(self, means=means, counts=tuple(counts), decide=True)

    def forgotten(self, label: str) -> Prototypes:
        """Without a class; UserError if it is unknown or the last one."""
        if label not in self.labels:
            raise UserError(f"no class {label!r} to forget; there are {', '.join(self.labels)}")
        if len(self.labels) == 1:
            raise UserError(f"{label!r} is the only class; without it nothing is left")
        kept = [i for i, other in enumerate(self.labels) if other != label]
        return dataclasses.replace(
            self,
            labels=tuple(self.labels[i] for i in kept),
            means=self.means[kept],
            counts=tuple(self.counts[i] for i in kept),
            decide=True,
        )

    def to_json(self) -> dict:
        """All but the means, as JSON types."""
        named = {name: getattr(self, name) for name in ("scale", "decide")}
        return {"labels": list(self.labels), "counts": list(self.counts), **named}

    def to_bytes(self) -> bytes:
        """The means, as an .npy file."""
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(self.means, np.float32), allow_pickle=False)
        return file.getvalue()

    @classmethod
    def read(cls, values: dict, content: bytes) -> Prototypes:
        """Of `to_json` and `to_bytes`; UserError if they are damaged."""
        try:
            means = np.load(io.BytesIO(content), allow_pickle=False)
            labels = tuple(map(str, values["labels"]))
            counts = tuple(map(int, values["counts"]))
            scale, decide = float(values["scale"]), bool(values["decide"])
            fit = means.ndim == 2 and len(means) == len(set(labels)) == len(counts) == len(labels)
            good = means.dtype == np.float32 and np.isfinite(means).all() and min(counts) > 0
            if not (fit and good and 0 < scale < math.inf):
                raise ValueError
        except (EOFError, KeyError, MemoryError, OSError, TypeError, ValueError):
            raise UserError("damaged prototypes; export it again") from None
        return cls(labels, means, counts, scale, decide)


def none(size: int) -> Prototypes:
    """No class yet; size: of the features."""
    return Prototypes((), np.zeros((0, size), np.float32), ())


def unit(features: np.ndarray) -> np.ndarray:
    """Features [..., d] at length 1."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.maximum(lengths, np.float32(1e-12))


def check(label: str) -> str:
    """A label without the spaces around it; UserError if nothing is left or it is no line of text.

    Nor can it be UNKNOWN, which is what pictures of no label are called.
    """
    label = str(label).strip()
    if not label or not label.isprintable():
        raise UserError(f"a label must be some text in one line, not {label!r}")
    if label == UNKNOWN:
        raise UserError(
            f"{label!r} is what a picture below --threshold is called; take another label"
        )
    return label


def left_out(prototypes: Prototypes, features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Cosines [n, classes] of examples to the prototypes, each to its own class as if it were not in it.

    features: [n, d], of the examples that `prototypes` hold; classes: the class of each, int [n]. An
    example that is alone in its class has cosine 0 to it.
    """
    directions = unit(features)
    cosines = directions @ unit(prototypes.means).T
    counts = np.array(prototypes.counts, np.float32)[classes][:, np.newaxis]
    rest = counts * prototypes.means[classes] - directions
    cosines[np.arange(len(classes)), classes] = (unit(rest) * directions).sum(axis=-1) * (
        counts[:, 0] > 1
    )
    return cosines


def fitted_scale(cosines: np.ndarray, classes: np.ndarray) -> float:
    """The scale within SCALES that makes the classes most likely, by bisection.

    The negative log-likelihood is convex in it. cosines: [n, classes]; classes: int [n].
    """
    own = cosines[np.arange(len(classes)), classes].mean()
    low, high = SCALES
    for _ in range(30):
        middle = math.sqrt(low * high)
        expected = (softmax(middle * cosines) * cosines).sum(axis=1).mean()
        low, high = (middle, high) if expected <= own else (low, middle)
    return math.sqrt(low * high)
