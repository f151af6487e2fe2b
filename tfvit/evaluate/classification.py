"""Predictions of a checkpoint or a .tflite on a split, and what they score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from edge_demo import images
from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec, to_pixels
from edge_demo.scores import SCORES, SIGMOID, SOFTMAX
from tfvit import fused
from tfvit.data import Source, Split, imagenet, pipeline
from tfvit.data.pipeline import Unreadable
from tfvit.evaluate import calibration, multi_label
from tfvit.evaluate.multi_label import MultiLabelScores, sigmoid_cross_entropy
from tfvit.preprocess import normalise
from tfvit.progress import progress


@dataclasses.dataclass(frozen=True)
class Predictions:
    """logits: float32 [n, classes]; labels: int64 [n], the model's numbers; unreadable: left out.

    labels of a multi-label set: float32 [n, classes] of zeros and ones.
    names: of the images, in order; with several processes, of those that this one read.
    scores: what the model makes of its logits, a name of `edge_demo.scores.SCORES`.
    """

    logits: np.ndarray
    labels: np.ndarray
    unreadable: Unreadable
    names: Sequence[str] = ()
    scores: str = SOFTMAX


@dataclasses.dataclass(frozen=True)
class Scores:
    """What predictions of one label each score; accuracies and losses are over all images, in 0-1 and nats.

    top5 is None with five classes or fewer. confusion: [true, predicted] counts.
    per_class: label -> images, recall (its images that were recognised) and precision (predictions of
    it that are right; None where there are none).
    ece: expected calibration error, 0-1, of the bins in `reliability`: see `calibration`.
    """

    images: int
    top1: float
    top5: float | None
    loss: float
    ece: float
    reliability: list[dict]
    per_class: dict[str, dict]
    confusion: list[list[int]]

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        return dataclasses.asdict(self)

    def headline(self) -> dict[str, float]:
        """Loss, top-1 and, where there are more than five classes, top-5."""
        found = {"loss": self.loss, "top1": self.top1}
        return found if self.top5 is None else {**found, "top5": self.top5}


def forward_function(model, strategy: tf.distribute.Strategy | None = None) -> Callable:
    """A compiled function from a batch of `pipeline.eval_batches` to (logits, label, mask), NumPy.

    To be called many times, with batches distributed by `strategy`.
    """
    strategy = strategy or tf.distribute.get_strategy()

    def replica(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        pixels = batch["pixels"]
        with fused.enabled(fused.worthwhile(model.architecture, pixels.shape[0])):
            logits = model(normalise(pixels, model.preprocess), training=False)
        return logits, batch["label"], batch["mask"]

    @tf.function(autograph=False)
    def compiled(batch: dict[str, tf.Tensor]) -> list[tf.Tensor]:
        return [strategy.gather(x, axis=0) for x in strategy.run(replica, args=(batch,))]

    return lambda batch: [x.numpy() for x in compiled(batch)]


def predict(
    model,
    source: Source,
    batch_size: int = 64,
    *,
    forward: Callable | None = None,
    strategy: tf.distribute.Strategy | None = None,
    label: str = "evaluating",
) -> Predictions:
    """Logits of a tf_keras model over the held-out split, preprocessed as on the device, all of it.

    forward: `forward_function(model, strategy)` of an earlier call, to compile only once.
    Raises UserError if no image can be read, or as `match_labels`.
    """
    numbers, split = match_labels(model.labels, source, model.scores), source.eval
    strategy = strategy or tf.distribute.get_strategy()
    forward = forward or forward_function(model, strategy)
    found = outputs(forward, split, model.preprocess, batch_size, strategy=strategy, label=label)
    labels = _renumbered(found.labels, numbers, len(model.labels))
    return dataclasses.replace(found, labels=labels, scores=model.scores)


def batches(
    split: Split,
    spec: PreprocessSpec,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    unreadable: Unreadable,
    names: list[str] | None = None,
) -> tf.distribute.DistributedDataset:
    """`pipeline.eval_batches`, distributed by a strategy."""

    def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return pipeline.eval_batches(
            *(split, spec, batch_size),
            unreadable=unreadable,
            names=names,
            replicas=context.num_replicas_in_sync,
            shard=(context.input_pipeline_id, context.num_input_pipelines),
        )

    return strategy.distribute_datasets_from_function(share)


def outputs(
    forward: Callable,
    split: Split,
    spec: PreprocessSpec,
    batch_size: int,
    *,
    strategy: tf.distribute.Strategy | None = None,
    label: str,
) -> Predictions:
    """What a `forward_function` makes of every image of a split; labels are the source's numbers.

    Raises UserError if no image can be read.
    """
    strategy = strategy or tf.distribute.get_strategy()
    unreadable: Unreadable = {}
    names: list[str] = []
    found, labels = [], []
    with progress(split.size, label, "img") as bar:
        for batch in batches(split, spec, batch_size, strategy, unreadable, names):
            values, truth, mask = forward(batch)
            found.append(values[mask > 0])
            labels.append(truth[mask > 0])
            bar.update(len(labels[-1]))
    logits, truth = np.concatenate(found), np.concatenate(labels)
    return _checked(Predictions(logits, truth, unreadable, names), split)


def predict_tflite(
    path: str | Path, source: Source, *, threads: int | None = None, label: str = "evaluating"
) -> Predictions:
    """Logits of an exported file over the held-out split, by the device's own code.

    Raises UserError if no image can be read, or as `match_labels`.
    """
    classifier = Classifier(path, threads)

    def run(pixels: np.ndarray) -> np.ndarray:
        return np.array([classifier.logits(image) for image in pixels])

    spec, scores = classifier.preprocess, classifier.score_function
    return predict_pixels(run, classifier.labels, spec, source, scores=scores, label=label)


def predict_pixels(
    run: Callable[[np.ndarray], np.ndarray],
    labels: tuple[str, ...],
    spec: PreprocessSpec,
    source: Source,
    *,
    scores: str = SOFTMAX,
    label: str = "evaluating",
) -> Predictions:
    """Logits of any function over the held-out split, its images resized by the device's own code.

    run: resized pictures, uint8 [n, height, width, 3] -> logits [n, classes], in the order of `labels`.
    scores: what is made of them, a name of `edge_demo.scores.SCORES`.
    Raises UserError if no image can be read, or as `match_labels`.
    """
    numbers = match_labels(labels, source, scores)
    found = pixel_outputs(run, spec, source.eval, label=label)
    truth = _renumbered(found.labels, numbers, len(labels))
    return dataclasses.replace(found, labels=truth, scores=scores)


def pixel_outputs(
    run: Callable[[np.ndarray], np.ndarray], spec: PreprocessSpec, split: Split, *, label: str
) -> Predictions:
    """As `outputs`, of a function as `predict_pixels` has it, one image after the other."""
    unreadable: Unreadable = {}
    found, truth, names = [], [], []
    with progress(split.size, label, "img") as bar:
        for example in split.in_order().as_numpy_iterator():
            name = example["name"].decode()
            bar.update(1)
            try:
                image = images.decode(example["data"], name)
            except UserError as error:
                unreadable[name] = str(error)
                continue
            found.append(run(to_pixels(image, spec)[np.newaxis])[0])
            truth.append(example["label"])
            names.append(name)
    logits = np.array(found, np.float32)
    return _checked(Predictions(logits, np.array(truth), unreadable, names), split)


def _checked(predictions: Predictions, split: Split) -> Predictions:
    if not len(predictions.labels):
        first = next(iter(predictions.unreadable.values()), "it is empty")
        raise UserError(f"split {split.name!r}: no readable image ({first})")
    return predictions


def match_labels(
    model_labels: tuple[str, ...], source: Source, scores: str = SOFTMAX
) -> np.ndarray:
    """The model's class number of each of the source's classes.

    scores: the model's. A model whose labels are numbers or words for ImageNet's classes knows them by
    their order. Raises UserError if the model lacks a class, or gives one label a picture where the
    source has several.
    """
    if source.multi_label and scores != SIGMOID:
        raise UserError(
            f"{source.name}: has several labels a picture; the model gives one (its scores are {scores})"
        )
    if imagenet.are_synsets(source.labels) and imagenet.in_its_order(model_labels):
        return np.array([imagenet.synsets().index(label) for label in source.labels])
    for label in source.labels:
        if label not in model_labels:
            known = ", ".join(model_labels[:10]) + (", ..." if len(model_labels) > 10 else "")
            raise UserError(
                f"{source.name}: the model does not know the class {label!r}; it knows {known}"
            )
    return np.array([model_labels.index(label) for label in source.labels])


def answers(model_labels: tuple[str, ...], source: Source, numbers: np.ndarray) -> np.ndarray:
    """The model's class numbers that are answers to a source: all, or those of `source.classes`.

    If the source's classes are some of ImageNet's, and the model knows all of these, just the source's.
    numbers: of `match_labels`.
    """
    if source.classes is not None:
        return numbers[list(source.classes)]
    if imagenet.are_synsets(source.labels) and imagenet.are_all(model_labels):
        return numbers
    return np.arange(len(model_labels))


def within(
    predictions: Predictions, labels: tuple[str, ...], source: Source
) -> tuple[Predictions, tuple[str, ...]]:
    """Predictions of a model and its labels, of those classes alone that are `answers` to the source.

    Raises UserError if a picture is of another class.
    """
    kept = answers(labels, source, match_labels(labels, source, predictions.scores))
    new = np.full(len(labels), -1)
    new[kept] = np.arange(len(kept))
    truth = new[predictions.labels]
    if truth.min() < 0:
        odd = labels[predictions.labels[truth.argmin()]]
        raise UserError(
            f"{source.name}: has a picture of {odd!r}, not one of its {len(kept)} classes"
        )
    found = dataclasses.replace(predictions, logits=predictions.logits[:, kept], labels=truth)
    return found, tuple(labels[number] for number in kept)


def _renumbered(labels: np.ndarray, numbers: np.ndarray, classes: int) -> np.ndarray:
    """The source's labels, one or several for each image, in the model's numbers."""
    if labels.ndim == 1:
        return numbers[labels]
    several = np.zeros((len(labels), classes), np.float32)
    several[:, numbers] = labels
    return several


def score(predictions: Predictions, labels: tuple[str, ...]) -> Scores | MultiLabelScores:
    """Scores of predictions whose labels count in `labels`, the model's classes.

    The loss is that of the model's scores: softmax or, summed over the classes, sigmoid cross-entropy.
    Raises UserError if no image of a multi-label set has a label.
    """
    logits, truth = predictions.logits.astype(np.float64), predictions.labels
    if truth.ndim == 2:
        return multi_label.score(logits, truth > 0, labels)
    count, classes = logits.shape
    order = np.argsort(-logits, axis=1, kind="stable")
    if predictions.scores == SIGMOID:
        losses = sigmoid_cross_entropy(logits, truth[:, np.newaxis] == np.arange(classes))
    else:
        shifted = logits - logits.max(axis=1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(count), truth]
    right = order[:, 0] == truth
    confidence = SCORES[predictions.scores](logits)[np.arange(count), order[:, 0]]
    bins = calibration.reliability(confidence, right)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, order[:, 0]), 1)
    per_class = {}
    for i, label in enumerate(labels):
        hits, of_class, predicted = confusion[i, i], confusion[i].sum(), confusion[:, i].sum()
        per_class[label] = {
            "images": int(of_class),
            "recall": float(hits / of_class) if of_class else None,
            "precision": float(hits / predicted) if predicted else None,
        }
    return Scores(
        images=count,
        top1=float(right.mean()),
        top5=float((order[:, :5] == truth[:, None]).any(axis=1).mean()) if classes > 5 else None,
        loss=float(losses.mean()),
        ece=calibration.expected_error(bins),
        reliability=bins,
        per_class=per_class,
        confusion=confusion.tolist(),
    )
