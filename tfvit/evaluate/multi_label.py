"""What predictions score where a picture may have any number of labels."""

from __future__ import annotations

import dataclasses

import numpy as np

from edge_demo.errors import UserError
from edge_demo.scores import SIGMOID, decided


@dataclasses.dataclass(frozen=True)
class MultiLabelScores:
    """What predictions of any number of labels score, in 0-1 and nats; precision and the like as `decided`.

    map: mean over the classes of the average precision. top1: share of the images with a label whose
    best class is one of theirs. precision, recall, f1: over all decisions on all images.
    loss: sigmoid cross-entropy, summed over the classes, mean over the images.
    per_class: label -> images and the same figures, None where they are not defined.
    confusion: [true, decided] counts of images; the diagonal has those that were recognised.
    """

    images: int
    top1: float
    map: float
    precision: float | None
    recall: float | None
    f1: float | None
    loss: float
    per_class: dict[str, dict]
    confusion: list[list[int]]

    def to_json(self) -> dict:
        """A dictionary of JSON types."""
        return dataclasses.asdict(self)

    def headline(self) -> dict[str, float]:
        """Loss, top-1 and mean average precision."""
        return {"loss": self.loss, "top1": self.top1, "map": self.map}


def score(logits: np.ndarray, truth: np.ndarray, labels: tuple[str, ...]) -> MultiLabelScores:
    """Scores of logits float64 [n, classes] against truth, bool of the same shape.

    Raises UserError if no image has a label.
    """
    if not truth.any():
        raise UserError("none of the images has a label that could be recognised")
    found = decided(logits, SIGMOID)
    right, of_class, predicted = (x.sum(axis=0) for x in (found & truth, truth, found))
    precisions = average_precision(logits, truth)
    per_class = {
        label: {
            "images": int(of_class[i]),
            **_decisions(right[i], of_class[i], predicted[i]),
            "average_precision": None if np.isnan(precisions[i]) else float(precisions[i]),
        }
        for i, label in enumerate(labels)
    }
    hits = truth[np.arange(len(truth)), logits.argmax(axis=1)]
    return MultiLabelScores(
        images=len(truth),
        top1=float(hits[truth.any(axis=1)].mean()),
        map=float(np.nanmean(precisions)),
        **_decisions(right.sum(), of_class.sum(), predicted.sum()),
        loss=float(sigmoid_cross_entropy(logits, truth).mean()),
        per_class=per_class,
        confusion=(truth.T.astype(np.float64) @ found).astype(np.int64).tolist(),
    )


def average_precision(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of each class [classes]: the sum over thresholds of recall gained x precision.

    Not interpolated; equal logits are one threshold. NaN for a class without images.
    """
    found = np.full(logits.shape[1], np.nan)
    for i in np.flatnonzero(truth.any(axis=0)):
        of_class = -logits[:, i]  # in one piece of memory
        order = np.argsort(of_class)
        values, hits = of_class[order], np.cumsum(truth[order, i])
        last = np.append(values[1:] != values[:-1], True)  # of those with an equal logit
        hits, count = hits[last], np.flatnonzero(last) + 1
        found[i] = (np.diff(hits, prepend=0) * hits / count).sum() / hits[-1]
    return found


def sigmoid_cross_entropy(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of logits [n, classes] and truth of zeros and ones, summed over the classes: nats [n]."""
    return (np.logaddexp(0, logits) - logits * truth).sum(axis=1)


def _decisions(right: int, true: int, found: int) -> dict[str, float | None]:
    """Precision, recall and their harmonic mean; None where there is nothing to divide by."""
    ratios = {"precision": (right, found), "recall": (right, true), "f1": (2 * right, true + found)}
    return {name: float(a / b) if b else None for name, (a, b) in ratios.items()}
