"""From logits to scores and decisions: what a model was trained for decides.

softmax: one label a picture, scores sum to 1; sigmoid: any number of labels, each score on its own.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_demo.errors import UserError

SOFTMAX, SIGMOID = "softmax", "sigmoid"
NONE = "none"  # of a model from elsewhere whose outputs are scores
PRESENT = 0.5  # score from which on a picture has a label, where it may have any number of them


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities that exclude each other, over the last axis; of the type of the logits."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """A probability for each logit; of the type of the logits."""
    return np.exp(-np.logaddexp(0, -logits))


# name, as checkpoints and files keep it -> logits [..., classes] to scores
SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {SOFTMAX: softmax, SIGMOID: sigmoid}


def known(scores: str) -> str:
    """The name itself, if it is one of SCORES; UserError if not."""
    if scores not in tuple(SCORES):  # whatever its type
        raise UserError(f"scores {scores!r} is not one of {', '.join(SCORES)}")
    return scores


def decided(logits: np.ndarray, scores: str) -> np.ndarray:
    """The labels that logits [..., classes] give a picture, as bool of the same shape.

    The best one, or with sigmoid scores those of a score of PRESENT at least, which may be none.
    """
    if scores == SIGMOID:
        return sigmoid(logits) >= PRESENT
    return np.arange(logits.shape[-1]) == logits.argmax(axis=-1)[..., np.newaxis]
