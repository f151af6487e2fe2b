"""Linear probe: how well a linear classifier does on a model's frozen features."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from edge_demo.errors import UserError
from tfvit.evaluate import features
from tfvit.evaluate.classification import Predictions
from tfvit.evaluate.features import Features
from tfvit.layers import HEADS
from tfvit.model import Model, build, named_weights

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the inverse of the regularisation
HELD_OUT = 0.2  # of the training images, to choose among them
STEPS = 1000
UNSEEN = 100.0  # nats that the bias of a class without training images is below all others


@dataclasses.dataclass(frozen=True)
class Probe:
    """kernel: float64 [d, classes] and bias [classes], of features as they are.

    strength: of STRENGTHS, the one that was chosen.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float

    def predictions(self, found: Features) -> Predictions:
        """What it makes of the images of a split."""
        return Predictions(found.values @ self.kernel + self.bias, found.labels, found.unreadable)


def fit(train: Features, labels: tuple[str, ...], seed: int) -> Probe:
    """A logistic regression on features, standardised for the fit; some classes may have no images.

    labels: names of the classes. seed: of the choice of images that decide on the strength.
    Raises UserError if there are images of one class only.
    """
    x, y = train.values.astype(np.float64), train.labels
    if len(np.unique(y)) < 2:
        raise UserError(f"all training images are of one class, {labels[y[0]]}")
    scale = StandardScaler().fit(x)
    x = scale.transform(x)
    halves = train_test_split(x, y, test_size=HELD_OUT, random_state=seed, stratify=_enough(y))
    scores = [_regression(halves[0], halves[2], c).score(halves[1], halves[3]) for c in STRENGTHS]
    strength = STRENGTHS[int(np.argmax(scores))]
    fitted = _regression(x, y, strength)
    rows = fitted.coef_ / scale.scale_  # [classes that were seen, d]
    bias = fitted.intercept_ - rows @ scale.mean_
    if len(rows) == 1:  # two classes have one row
        rows, bias = np.concatenate([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
    kernel = np.zeros((x.shape[1], len(labels)))
    biases = np.full(len(labels), bias.min() - UNSEEN)
    kernel[:, fitted.classes_], biases[fitted.classes_] = rows.T, bias
    return Probe(kernel, biases, strength)


def with_head(model: Model, probe: Probe, labels: tuple[str, ...]) -> Model:
    """The model with a probe as its head: other classes, everything else as it was."""
    arch = dataclasses.replace(model.architecture, num_classes=len(labels))
    new = build(arch, labels=labels, preprocess=model.preprocess, provenance=model.provenance)
    old = named_weights(model)
    for name, variable in named_weights(new).items():
        if name.partition("/")[0] not in HEADS:
            variable.assign(old[name])
    heads = features.heads(new)
    for head, kernel in zip(heads, np.split(probe.kernel, len(heads))):
        head.kernel.assign(kernel * len(heads))  # of two the mean is taken
        head.bias.assign(probe.bias)
    return new


def _regression(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=STEPS, tol=1e-6).fit(x, y)


def _enough(y: np.ndarray) -> np.ndarray | None:
    """y if every class has images for both halves, else None: then chance decides."""
    return y if np.unique(y, return_counts=True)[1].min() > 1 else None
