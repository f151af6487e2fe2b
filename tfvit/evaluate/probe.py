"""Linear probe: how well a linear classifier does on a model's frozen features."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import tf_keras as keras
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from edge_demo.errors import UserError
from tfvit.data import Source, Split
from tfvit.evaluate.classification import Predictions, forward_function, outputs
from tfvit.model import Model, build, named_weights

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # scikit-learn's C: the inverse of the regularisation
HELD_OUT = 0.2  # of the training images, to choose among them
STEPS = 1000
UNSEEN = 100.0  # nats that the bias of a class without training images is below all others


@dataclasses.dataclass(frozen=True)
class Probe:
    """model: with the head that was fitted. strength: of STRENGTHS, the one that was chosen."""

    model: Model
    strength: float


def fit(model: Model, source: Source, batch_size: int, seed: int) -> Probe:
    """Fits a new head to what the old one reads, everything else frozen, by logistic regression.

    Features are standardised for the fit, which the head's weights then contain.
    Raises UserError if there are no training images, or only of one class, or with several labels each, or
    if there are two heads.
    """
    if source.train is None:
        raise UserError(f"{source.name}: no training split; choose --train-split")
    if source.multi_label:
        raise UserError(f"{source.name}: has several labels a picture; a probe is for one")
    if getattr(model.architecture, "distillation_token", False):
        raise UserError(f"{model.architecture.name} has two heads; a probe has one")
    found = features(model, source.train, batch_size)
    x, y = found.logits.astype(np.float64), found.labels
    if len(np.unique(y)) < 2:
        raise UserError(f"{source.name}: training images of one class only")
    scale = StandardScaler().fit(x)
    x = scale.transform(x)
    halves = train_test_split(x, y, test_size=HELD_OUT, random_state=seed, stratify=_enough(y))
    scores = [_regression(halves[0], halves[2], c).score(halves[1], halves[3]) for c in STRENGTHS]
    strength = STRENGTHS[int(np.argmax(scores))]
    fitted = _regression(x, y, strength)
    kernel = fitted.coef_ / scale.scale_  # [classes that were seen, d]
    bias = fitted.intercept_ - kernel @ scale.mean_
    if len(kernel) == 1:  # two classes have one row
        kernel, bias = np.concatenate([-kernel, kernel]) / 2, np.concatenate([-bias, bias]) / 2
    new = _with_head(model, source.labels)
    weights = np.zeros((x.shape[1], len(source.labels)))
    biases = np.full(len(source.labels), bias.min() - UNSEEN)
    weights[:, fitted.classes_], biases[fitted.classes_] = kernel.T, bias
    head = new.get_layer("head")
    head.kernel.assign(weights)
    head.bias.assign(biases)
    return Probe(new, strength)


def features(model: Model, split: Split, batch_size: int) -> Predictions:
    """What the head reads, as the `logits` of predictions, and the labels of every image of a split."""
    body = keras.Model(model.input, model.get_layer("head").input)
    body.architecture, body.preprocess = model.architecture, model.preprocess
    return outputs(forward_function(body), split, model.preprocess, batch_size, label="features")


def _regression(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=strength, max_iter=STEPS, tol=1e-6).fit(x, y)


def _enough(y: np.ndarray) -> np.ndarray | None:
    """y if every class has images for both halves, else None: then chance decides."""
    return y if np.unique(y, return_counts=True)[1].min() > 1 else None


def _with_head(model: Model, labels: tuple[str, ...]) -> Model:
    """The same model with other classes."""
    arch = dataclasses.replace(model.architecture, num_classes=len(labels))
    new = build(arch, labels=labels, preprocess=model.preprocess, provenance=model.provenance)
    old = named_weights(model)
    for name, variable in named_weights(new).items():
        if not name.startswith("head/"):
            variable.assign(old[name])
    return new
