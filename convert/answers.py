"""What a model's logits say of pictures, and how far that is from what others say."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from edge_demo.scores import SCORES, SIGMOID, SOFTMAX, decided


def agreement(found: np.ndarray, reference: np.ndarray, scores: str = SOFTMAX) -> float:
    """Share of images with the same labels: the same top-1, or all decisions alike."""
    same = decided(found, scores) == decided(reference, scores)
    return float(same.all(axis=-1).mean())


def difference(found: np.ndarray, reference: np.ndarray, scores: str = SOFTMAX) -> dict[str, float]:
    """How far logits [n, classes] are from others.

    max_difference, and the same in steps: 255ths of the reference's range; largest: of the reference;
    snr_db: power of the reference, each image's mean taken off where softmax does, over the power of the
    error; agreement: share of images with the same labels.
    """
    worst = np.abs(found - reference).max()
    error = np.square(found - reference, dtype=np.float64).mean()
    centred = reference - reference.mean(axis=-1, keepdims=True)
    power = np.square(centred if scores == SOFTMAX else reference, dtype=np.float64).mean()
    return {
        "images": len(found),
        "max_difference": float(worst),
        "steps": float(255 * worst / max(np.ptp(reference), 1e-30)),
        "largest": float(np.abs(reference).max()),
        "snr_db": float(10 * np.log10(max(power, 1e-30) / max(error, 1e-30))),
        "agreement": agreement(found, reference, scores),
    }


def answer(logits: np.ndarray, other: np.ndarray, labels: tuple[str, ...], scores: str) -> dict:
    """The label of an image [classes], or its labels, and the score that goes with it.

    other: logits that decide otherwise. Where there may be any number of labels, the score is that of the
    decision that the two differ in, the one that `logits` are surest of.
    """
    values, mine = SCORES[scores](np.float64(logits)), decided(logits, scores)
    if scores == SIGMOID:
        differing = mine != decided(other, scores)
        score = np.where(mine, values, 1 - values)[differing].max()
    else:
        score = values.max()
    return {"label": in_words(mine, labels), "score": float(score)}


def in_words(present: np.ndarray, labels: tuple[str, ...]) -> str:
    """The labels that are present, bool [classes]; "none" if there are none."""
    return ", ".join(label for label, there in zip(labels, present) if there) or "none"


def divergence(reference: tf.Tensor, found: tf.Tensor, scores: str) -> tf.Tensor:
    """Kullback-Leibler divergence of logits [n, classes] from others, in nats [n].

    Of one choice among the classes, or the sum over the classes of one of yes and no each.
    """
    if scores == SIGMOID:
        p = tf.sigmoid(reference)
        cross, own = (
            tf.nn.sigmoid_cross_entropy_with_logits(labels=p, logits=x) for x in (found, reference)
        )
        return tf.reduce_sum(cross - own, axis=-1)
    target, found = tf.nn.log_softmax(reference), tf.nn.log_softmax(found)
    return tf.reduce_sum(tf.exp(target) * (target - found), axis=-1)
