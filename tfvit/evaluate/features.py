"""What a model's head reads of every image of a split: the frozen features that probes are fitted on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tf_keras as keras

from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.tflite import metadata
from tfvit import checkpoint
from tfvit.data import Source, Split
from tfvit.data.pipeline import Unreadable
from tfvit.evaluate.classification import (
    Predictions,
    forward_function,
    outputs,
    pixel_outputs,
)
from tfvit.layers import HEADS
from tfvit.model import Model


@dataclasses.dataclass(frozen=True)
class Features:
    """values: float32 [n, d]; labels: int64 [n], the source's numbers; unreadable: left out."""

    values: np.ndarray
    labels: np.ndarray
    unreadable: Unreadable


# The features of a split, in its order. Raises UserError if none of its images can be read, or the model
# makes no finite numbers of them.
Reader = Callable[[Split], Features]


def heads(model: Model) -> list[keras.layers.Dense]:
    """Its classifiers: one, or two whose mean is the answer."""
    return [layer for name in HEADS for layer in model.layers if layer.name == name]


def body(model: Model) -> Model:
    """The model without its head: normalised images -> features [batch, d], of two heads side by side."""
    read = [head.input for head in heads(model)]
    found = Model(model.input, read[0] if len(read) == 1 else keras.layers.Concatenate()(read))
    found.card = model.card
    return found


def of_model(model: Model, batch_size: int = 64) -> Reader:
    """Reads the features of a model; it is compiled once for all splits."""
    forward = forward_function(body(model))

    def read(split: Split) -> Features:
        label = f"features, {split.name}"
        return _finite(outputs(forward, split, model.preprocess, batch_size, label=label))

    return read


def of_tflite(path: Path, threads: int | None = None) -> Reader:
    """Reads the features that an exported file tells beside its logits, by the device's own code.

    threads: of the CPU; None lets the runtime choose. Raises UserError if it tells none.
    """
    metadata.read_with_features(path)
    classifier = Classifier(path, threads)

    def run(pixels: np.ndarray) -> np.ndarray:
        classifier.logits(pixels[0])
        return classifier.extras[metadata.FEATURES][np.newaxis]

    def read(split: Split) -> Features:
        label = f"features, {split.name}"
        return _finite(pixel_outputs(run, classifier.preprocess, split, label=label))

    return read


def of_path(path: Path, batch_size: int = 64, threads: int | None = None) -> Reader:
    """Reads the features of a checkpoint or run folder, or of a .tflite: `batch_size` or `threads` is for it.

    Raises UserError if it is neither.
    """
    if path.is_file():
        return of_tflite(path, threads)
    return of_model(checkpoint.load(checkpoint.find(path)), batch_size)


def to_learn_from(source: Source) -> Split:
    """The training split of a source; UserError if it has none, or several labels a picture."""
    if source.train is None:
        raise UserError(f"{source.name}: no training split; choose --train-split")
    if source.multi_label:
        raise UserError(f"{source.name}: has several labels a picture; a probe is for one")
    return source.train


def _finite(found: Predictions) -> Features:
    if not np.isfinite(found.logits).all():
        raise UserError("the model's features are not finite numbers: its weights are damaged")
    return Features(found.logits, found.labels, found.unreadable)
