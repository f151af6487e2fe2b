"""The trained classes as prototypes in a file, so that a device can add to them (`edge-demo enroll`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.measure import runner
from edge_demo.preprocess import to_pixels
from edge_demo.prototypes import Prototypes, fitted_scale, left_out, none
from edge_demo.scores import SOFTMAX
from edge_demo.tflite.metadata import FEATURES
from tfvit.data import Source, Split
from tfvit.data.source import part
from tfvit.evaluate import classification
from tfvit.progress import progress

if TYPE_CHECKING:
    from convert.model import Model

PER_CLASS, IN_ALL = 100, 10_000  # training pictures that prototypes are the means of, at most
PATIENCE = (
    10  # times as many pictures that are looked through where their labels are not known before
)


def possible(model: Model, source: Source | None) -> bool:
    """Whether there are training pictures, of one label each."""
    return source is not None and source.train is not None and model.scores == SOFTMAX


def measure(model: Model, path: Path, source: Source) -> tuple[Prototypes, dict]:
    """Prototypes of the classes of a training split, by the features that a .tflite tells.

    Their scale is fitted on the same pictures, each left out of its own class. Returns them, and what
    they were measured on: images; top1 of the pictures left out; scale.
    Raises GateError if the file does not run, and UserError if no picture can be read.
    """
    numbers = classification.match_labels(model.labels, source, model.scores)
    each = max(1, min(PER_CLASS, IN_ALL // len(source.labels)))
    total = min(source.train.size, each * len(source.labels))
    features, classes = [], []
    with (
        runner.runner(path, os.cpu_count(), FEATURES) as run,
        progress(total, "prototypes", "img") as bar,
    ):
        for example in _some_of_each(source.train, len(source.labels), each):
            bar.update()
            try:
                picture = images.decode(example["data"], example["name"].decode())
            except UserError:
                continue  # named in the report of the split that it is in
            features.append(run(to_pixels(picture, model.preprocess)[np.newaxis])[0])
            classes.append(numbers[example["label"]])
    if not features:
        raise UserError(f"{source.name}: no readable training image")
    return _fitted(np.array(features), np.array(classes), model.labels)


def _fitted(
    features: np.ndarray, classes: np.ndarray, labels: tuple[str, ...]
) -> tuple[Prototypes, dict]:
    found = none(features.shape[1])
    present, places = np.unique(classes, return_inverse=True)
    for number in present:
        found = found.enrolled(labels[number], features[classes == number])
    cosines = left_out(found, features, places)
    top1 = float((cosines.argmax(axis=1) == places).mean())
    scale = fitted_scale(cosines, places)
    found = Prototypes(found.labels, found.means, found.counts, scale)
    return found, {"images": len(features), "top1": top1, "scale": scale}


def _some_of_each(split: Split, classes: int, each: int) -> Iterator[dict]:
    """Examples of a split, so many of each class at most."""
    if split.at is not None and split.labels is not None:
        labels = np.asarray(split.labels)
        places = [_spread(np.flatnonzero(labels == number), each) for number in range(classes)]
        yield from part(split, np.concatenate(places)).in_order().as_numpy_iterator()
        return
    wanted = np.full(classes, each)
    for example in split.in_order().take(PATIENCE * each * classes).as_numpy_iterator():
        wanted[example["label"]] -= 1
        if wanted[example["label"]] >= 0:
            yield example
        if wanted.max() <= 0:
            return


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    """So many of them at even distances, or all."""
    if len(places) <= count:
        return places
    return places[np.linspace(0, len(places) - 1, count).astype(int)]
