"""Accuracy of models on corrupted pictures, side by side: what quantization costs off the clean data."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit import checkpoint
from tfvit.data import Source, pipeline
from tfvit.data.pipeline import Unreadable
from tfvit.data.source import evenly_spaced
from tfvit.evaluate.classification import answers, forward_function, match_labels
from tfvit.evaluate.corruptions import LEVELS, corrupt
from tfvit.progress import progress


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model to measure. logits: a batch of `pipeline.eval_batches` -> float32 [b, classes]."""

    labels: tuple[str, ...]
    scores: str
    preprocess: PreprocessSpec
    logits: Callable[[dict], np.ndarray]


def subject(path: Path, threads: int | None = None) -> Subject:
    """A checkpoint or run folder, or a .tflite, which the device's own code runs in so many threads.

    Raises UserError if it is neither.
    """
    if path.is_file():
        model = Classifier(path, threads)

        def logits(batch: dict) -> np.ndarray:
            return np.array([model.logits(pixels) for pixels in batch["pixels"]])

        return Subject(model.labels, model.score_function, model.preprocess, logits)
    model = checkpoint.load(checkpoint.find(path))
    forward = forward_function(model)
    return Subject(model.labels, model.scores, model.preprocess, lambda batch: forward(batch)[0])


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of two accuracies on the same images, 0-1. error: standard error of the mean; None of one image."""

    mean: float
    error: float | None


@dataclasses.dataclass(frozen=True)
class Robustness:
    """right: which images were recognised, bool [1 + kinds x levels, n]: clean, then kind after kind."""

    kinds: tuple[str, ...]
    right: np.ndarray

    @property
    def clean(self) -> float:
        """Top-1 on the pictures as they are."""
        return float(self.right[0].mean())

    @property
    def corrupted(self) -> float:
        """Mean top-1 over all kinds and levels."""
        return float(self.right[1:].mean())

    @property
    def levels(self) -> dict[str, list[float]]:
        """Top-1 of each kind, level after level."""
        of_kinds = self.right[1:].reshape(len(self.kinds), len(LEVELS), -1).mean(axis=-1)
        return dict(zip(self.kinds, of_kinds.tolist()))

    def against(self, other: Robustness) -> dict[str, Difference]:
        """What this is better by than another model on the same images: "clean" and "corrupted"."""
        found = {}
        for name, rows in (("clean", slice(1)), ("corrupted", slice(1, None))):
            of_image = self.right[rows].mean(axis=0) - other.right[rows].mean(axis=0)
            n = len(of_image)
            error = float(of_image.std(ddof=1) / np.sqrt(n)) if n > 1 else None
            found[name] = Difference(float(of_image.mean()), error)
        return found

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        return {"clean": self.clean, "corrupted": self.corrupted, "levels": self.levels}


def measure(
    subjects: dict[str, Subject],
    source: Source,
    kinds: Sequence[str],
    *,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> tuple[dict[str, Robustness], Unreadable]:
    """Accuracies of models on the held-out split, clean and corrupted, and what was unreadable.

    Models that resize alike see the very same pixels; the corruption of an image is a function of
    (seed, its place, kind, level). images: measure on so many, spread evenly over the split.
    Raises UserError if no image can be read, the set has several labels a picture, or as `match_labels`.
    """
    if source.multi_label:
        raise UserError(f"{source.name}: has several labels a picture; corruptions are for one")
    numbers = {
        name: match_labels(each.labels, source, each.scores) for name, each in subjects.items()
    }
    size = min(images or source.eval.size, source.eval.size)
    split = evenly_spaced(source.eval, size)
    conditions = list(itertools.product(kinds, LEVELS))
    right = {name: [[] for _ in range(1 + len(conditions))] for name in subjects}
    unreadable: Unreadable = {}
    with progress(size * (1 + len(conditions)) * len(subjects), "corruptions", "img") as bar:
        for spec in dict.fromkeys(map(_resizing, subjects.values())):
            group = {name: each for name, each in subjects.items() if _resizing(each) == spec}
            batches = pipeline.eval_batches(
                split, spec, min(batch_size, size), unreadable=unreadable
            )
            for number, batch in _corrupted(batches, conditions, seed):
                for name, each in group.items():
                    kept = answers(each.labels, source, numbers[name])
                    guesses = kept[each.logits(batch)[:, kept].argmax(axis=1)]
                    hits = guesses == numbers[name][batch["label"]]
                    right[name][number].append(hits[batch["mask"] > 0])
                    bar.update(len(right[name][number][-1]))
    found = {name: np.array([np.concatenate(x) for x in parts]) for name, parts in right.items()}
    if not next(iter(found.values())).size:
        reason = next(iter(unreadable.values()))
        raise UserError(f"split {split.name!r}: no readable image ({reason})")
    return {name: Robustness(tuple(kinds), rows) for name, rows in found.items()}, unreadable


def _resizing(each: Subject) -> PreprocessSpec:
    """Its preprocessing up to the pixels: a file has the mean and std of its checkpoint in its weights."""
    return dataclasses.replace(each.preprocess, mean=(0, 0, 0), std=(1, 1, 1))


def _corrupted(
    batches: tf.data.Dataset, conditions: Sequence[tuple[str, int]], seed: int
) -> Iterator[tuple[int, dict]]:
    """Every batch as it is, 0, and by each condition, a kind and a level, numbered from 1 on."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        place = 0
        for batch in batches.as_numpy_iterator():
            seeds = [(seed, place + row) for row in range(len(batch["pixels"]))]
            place += len(seeds)
            yield 0, batch
            for number, (kind, level) in enumerate(conditions, 1):
                how = itertools.repeat(kind), itertools.repeat(level), seeds
                done = pool.map(corrupt, batch["pixels"], *how)
                yield number, {**batch, "pixels": np.array(list(done))}
