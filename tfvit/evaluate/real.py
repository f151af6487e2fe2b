"""ReaL (arXiv 2006.07159): ImageNet's validation pictures with every label that they deserve."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_demo import files
from edge_demo.errors import UserError
from tfvit.data import Source, imagenet
from tfvit.evaluate.classification import Predictions, match_labels

PICTURE = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)  # 1 is the first of the file


@dataclasses.dataclass(frozen=True)
class Real:
    """top1: share of the images whose best class is one of their labels, 0-1; images: those with any."""

    images: int
    top1: float


def read(path: Path) -> list[frozenset[int]]:
    """The labels of each validation picture, from the file real.json that its authors publish.

    Raises UserError if it is missing or anything else.
    """
    with files.decoding(path):
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, list) or not all(map(_is_labels, content)):
            raise ValueError("not a list of lists of class numbers")
    return list(map(frozenset, content))


def check(source: Source) -> None:
    """UserError if the labels of a source are not the 1,000 classes of ImageNet in their order, as ReaL's."""
    if tuple(source.labels) != imagenet.synsets():
        raise UserError(
            f"{source.name}: its classes are not ImageNet's 1,000; --real-labels is for its validation set"
        )


def score(
    predictions: Predictions,
    model_labels: Sequence[str],
    source: Source,
    labels: Sequence[frozenset[int]],
) -> Real:
    """What predictions of the held-out split score by the labels of `read`.

    Raises UserError if a picture's name has no number of the validation set, or none has a label.
    """
    numbers = match_labels(tuple(model_labels), source, predictions.scores)
    of_model = np.full(len(model_labels), -1)
    of_model[numbers] = np.arange(len(numbers))
    guesses = of_model[predictions.logits.argmax(axis=1)].tolist()
    deserved = [labels[_place(name, len(labels))] for name in predictions.names]
    hits = [guess in known for guess, known in zip(guesses, deserved, strict=True) if known]
    if not hits:
        raise UserError(f"{source.name}: none of its images has a ReaL label")
    return Real(len(hits), float(np.mean(hits)))


def _place(name: str, size: int) -> int:
    found = PICTURE.search(name)
    if not found or not 1 <= int(found[1]) <= size:
        raise UserError(
            f"{name}: not called ILSVRC2012_val_00000001.JPEG to {size:08d}, by which ReaL knows it"
        )
    return int(found[1]) - 1


def _is_labels(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < imagenet.CLASSES for value in values
    )
