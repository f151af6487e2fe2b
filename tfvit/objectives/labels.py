"""Learning from labels, and from a teacher: what `tfvit train` does."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.scores import SIGMOID
from tfvit import watch
from tfvit.data import Source
from tfvit.data.mix import mix
from tfvit.evaluate import classification
from tfvit.figures import best_by
from tfvit.layers import HEADS
from tfvit.model import Model, named_weights
from tfvit.objectives.objective import Evaluation
from tfvit.preprocess import normalise
from tfvit.recipe import Recipe

MIX = 1 << 20  # folded into the step's seed for mixup and cutmix; above any number of replicas


class Labels:
    """Learning from labels: see `objective.Objective`."""

    figures = ("top1",)
    kept = ()

    def __init__(self, model: Model, recipe: Recipe, teacher: Model | None = None) -> None:
        """teacher: a model to learn from as well; its classes are the same."""
        self.model, self._recipe, self._teacher = model, recipe, teacher
        self.weights = named_weights(model)
        classes = model.architecture.num_classes
        self.guess = classes * math.log(2) if model.scores == SIGMOID else math.log(classes)
        self._outputs = _outputs(model)
        self._forward = None

    def prepared(self, batch: dict, seed: tf.Tensor, replica: tf.Tensor | int) -> dict:
        """The batch mixed, with what is to be answered."""
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
        return prepared(batch, seed, self._recipe, self.model.architecture.num_classes)

    def losses(self, batch: dict) -> dict[str, tf.Tensor]:
        """The loss of each picture, and whether it is recognised."""
        recipe, loss_of = self._recipe, LOSSES[self._recipe.loss]
        images = normalise(batch["pixels"], self.model.preprocess)
        logits = [tf.cast(x, tf.float32) for x in self._outputs(images, training=True)]
        answering = logits if self._teacher is None else logits[:1]
        losses = tf.add_n([loss_of(batch["targets"], x) for x in answering]) / len(answering)
        if self._teacher is not None:
            taught = _distillation(self._teacher, batch["pixels"], logits[-1], recipe)
            weight = recipe.distillation_weight
            losses = (1 - weight) * losses + weight * taught
        answer = tf.one_hot(tf.argmax(tf.add_n(logits), axis=-1), logits[0].shape[-1])
        right = tf.cast(tf.reduce_sum(answer * batch["truth"], axis=-1) > 0, tf.float32)
        return {"loss": losses, "top1": right}

    def evaluate(self, source: Source, strategy: tf.distribute.Strategy) -> Evaluation:
        """Scores the held-out split."""
        self._forward = self._forward or classification.forward_function(self.model, strategy)
        predictions = classification.predict(
            *(self.model, source, self._recipe.batch_size),
            forward=self._forward,
            strategy=strategy,
        )
        scores = classification.score(predictions, self.model.labels)
        return Evaluation(scores.headline(), predictions.unreadable, scores)

    def line(self, row: dict, figures: dict, held_out: str) -> str:
        """How it stands, in words."""
        figure = figures[best_by(figures)]
        return f"train {100 * row['top1']:5.1f} %  {held_out} {100 * figure:5.1f} %"

    def pictures(
        self, source: Source, batch: dict, step: int, found: Evaluation
    ) -> dict[str, np.ndarray]:
        """A batch as the model gets it, what it confuses and where it looks."""
        shown = as_trained_on(batch, self._recipe, step, self.model.labels)
        pictures = {
            "batch": watch.augmented_batch(*shown),
            "confusion": watch.confusion(found.detail.confusion, self.model.labels),
        }
        attention = watch.attention_maps(self.model, batch["pixels"].numpy())
        return pictures if attention is None else pictures | {"attention": attention}

    def state(self) -> dict[str, np.ndarray]:
        """Nothing beside the model's weights."""
        return {}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Nothing to take on."""


def as_trained_on(
    batch: dict, recipe: Recipe, step: int, labels: tuple[str, ...]
) -> tuple[np.ndarray, list[str]]:
    """A batch of the pipeline as the model gets it, mixed: pixels uint8 [b, height, width, 3], captions."""
    seen = prepared(batch, tf.constant([recipe.seed, step]), recipe, len(labels))
    pixels = np.clip(np.round(seen["pixels"].numpy()), 0, 255).astype(np.uint8)
    return pixels, watch.captions(seen["targets"].numpy(), labels)


def prepared(batch: dict, seed: tf.Tensor, recipe: Recipe, classes: int) -> dict:
    """A batch of the pipeline as it is trained on: mixed, with what is to be answered.

    truth: [b, classes], 1 for each class that a picture has. targets: the same, smoothed and mixed.
    """
    label = batch["label"]
    truth = tf.one_hot(label, classes) if label.shape.rank == 1 else tf.cast(label, tf.float32)
    targets = truth
    if recipe.label_smoothing:
        smoothing = recipe.label_smoothing
        targets = truth * (1 - smoothing) + smoothing / (classes if recipe.loss == "softmax" else 2)
    pixels, mask = batch["pixels"], batch["mask"]
    if recipe.mixup or recipe.cutmix:
        mask *= tf.reverse(mask, [0])  # whoever is mixed with an unreadable one counts as little
        seed = tf.random.experimental.stateless_fold_in(seed, MIX)
        pixels = tf.cast(pixels, tf.float32)
        pixels, targets = mix(pixels, targets, seed, mixup=recipe.mixup, cutmix=recipe.cutmix)
    return {"pixels": pixels, "mask": mask, "truth": truth, "targets": targets}


def _softmax(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _sigmoid(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)


# (targets [b, classes], logits [b, classes]) -> loss of each image [b]
LOSSES: dict[str, Callable] = {"softmax": _softmax, "sigmoid": _sigmoid}


def _distillation(
    teacher: Model, pixels: tf.Tensor, logits: tf.Tensor, recipe: Recipe
) -> tf.Tensor:
    """How far logits are from the teacher's answer: [b]; the teacher sees the same pixels."""
    height, width = teacher.preprocess.height, teacher.preprocess.width
    if pixels.shape[1:3] != (height, width):
        pixels = tf.image.resize(tf.cast(pixels, tf.float32), (height, width))
    answer = tf.cast(teacher(normalise(pixels, teacher.preprocess), training=False), tf.float32)
    answer = tf.stop_gradient(answer)
    if recipe.distillation == "hard":
        return _softmax(tf.one_hot(tf.argmax(answer, axis=-1), answer.shape[-1]), logits)
    t = recipe.temperature
    if recipe.loss == "sigmoid":
        return t**2 * _sigmoid(tf.sigmoid(answer / t), logits / t)
    return t**2 * _softmax(tf.nn.softmax(answer / t), logits / t)


def _outputs(model: Model) -> keras.Model:
    """The model with a list of logits: of its heads where it has two (DeiT), else of its one."""
    heads = [model.output]
    if getattr(model.architecture, "distillation_token", False):
        heads = [model.get_layer(name).output for name in HEADS]
    return keras.Model(model.input, heads) if len(heads) > 1 else _listed(model)


def _listed(model: Model) -> Callable:
    return lambda images, training: [model(images, training=training)]
