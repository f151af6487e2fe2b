"""From the pictures of a source to a class: their features, and how far they stand apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from edge_demo.errors import UserError
from edge_demo.pipeline import Pipeline
from edge_demo.progress import progress
from edge_demo.prototypes import Prototypes, left_out
from edge_demo.sources.source import Source
from edge_demo.tflite.metadata import FEATURES

LIVE_LIMIT = 10  # pictures of a camera, if not told


@dataclasses.dataclass(frozen=True)
class Separation:
    """How a class stands apart, each of its new examples left out of it in turn.

    right: of the examples, how many are nearest to it; nearest: of the other classes. own, other: mean
    cosine of the examples to the two.
    """

    right: int
    own: float
    nearest: str
    other: float


def features(
    pipeline: Pipeline,
    source: Source,
    every: int,
    limit: int | None,
    skip: Callable[[UserError], None] | None,
) -> np.ndarray:
    """What the head reads of each picture of a source: float32 [n, d], n may be 0.

    The arguments are those of `Pipeline.results`; of a live source LIVE_LIMIT pictures are taken if
    there is no limit.
    """
    limit = limit or (LIVE_LIMIT if source.is_live else None)
    with progress(pipeline.results(source, every, limit, skip), "features") as results:
        found = [pipeline.classifier.extras[FEATURES] for _ in results]
    return np.array(found, np.float32)


def separation(prototypes: Prototypes, label: str, examples: np.ndarray) -> Separation | None:
    """Of a class that `examples`, features [n, d], were just enrolled in; None where nothing can tell."""
    place = prototypes.labels.index(label)
    if len(prototypes.labels) == 1 or prototypes.counts[place] == 1:
        return None
    cosines = left_out(prototypes, examples, np.full(len(examples), place))
    own, others = cosines[:, place], np.delete(cosines, place, axis=1)
    names, means = np.delete(prototypes.labels, place), others.mean(axis=0)
    nearest = int(means.argmax())
    right = int((own > others.max(axis=1)).sum())
    return Separation(right, float(own.mean()), str(names[nearest]), float(means[nearest]))
