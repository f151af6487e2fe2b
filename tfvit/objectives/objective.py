"""What the training loop asks its objective for."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import tensorflow as tf

from tfvit.data import Source
from tfvit.data.pipeline import Unreadable
from tfvit.model import Model


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """figures: by name, for the metrics; unreadable: pictures left out; detail: what `pictures` needs."""

    figures: dict[str, float]
    unreadable: Unreadable
    detail: object = None


class Objective(Protocol):
    """What a run learns; shapes: b pictures of a replica's share of a batch.

    model: what it leaves. weights: all that learn, by name, the model's and others.
    figures: names of what `losses` gives beside "loss". guess: the loss of one that knows nothing.
    kept: names of the pictures that are left in the run's folder as well.
    """

    model: Model
    weights: dict[str, tf.Variable]
    figures: tuple[str, ...]
    guess: float
    kept: tuple[str, ...]

    def prepared(self, batch: dict, seed: tf.Tensor, replica: tf.Tensor | int) -> dict:
        """A batch of the pipeline as `losses` takes it, each tensor [b, ...]; "mask" among them.

        seed: int32 [2], of the step. replica: its number among all. Nothing else is random in it.
        """

    def losses(self, batch: dict) -> dict[str, tf.Tensor]:
        """The "loss" and the `figures` of each picture, float32 [b], in training."""

    def evaluate(self, source: Source, strategy: tf.distribute.Strategy) -> Evaluation:
        """How it does on the held-out split; to be called on every worker."""

    def line(self, row: dict, figures: dict, held_out: str) -> str:
        """How it stands after a row of training metrics and an evaluation of the split `held_out`."""

    def pictures(
        self, source: Source, batch: dict, step: int, found: Evaluation
    ) -> dict[str, np.ndarray]:
        """What is shown of a batch of step `step` and of an evaluation, by name: uint8 [h, w, 3]."""

    def state(self) -> dict[str, np.ndarray]:
        """What resuming needs beside the model's weights and the optimizer's state, by name."""

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes on what `state` returned; UserError if it is another objective's."""
