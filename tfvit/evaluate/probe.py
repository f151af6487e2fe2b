"""Linear probe: how well a linear classifier does on a model's frozen features."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from edge_demo.errors import UserError
from tfvit.evaluate import features
from tfvit.evaluate.classification import Predictions, score
from tfvit.evaluate.features import Features
from tfvit.layers import HEADS
from tfvit.model import Model, build, named_weights

# Powers of ten of scikit-learn's C, the inverse of the regularisation: 1e-6 to 1e6 as in CLIP's probe
# (arXiv 2103.00020, appendix A.3), and those of them that are tried in any case.
EXPONENTS, FIRST = range(-6, 7), range(-3, 1)
HELD_OUT = 5  # one of so many training images of a class is to choose by
STEPS = 1000
UNSEEN = 100.0  # nats that the bias of a class without training images is below all others


@dataclasses.dataclass(frozen=True)
class Probe:
    """kernel: float64 [d, classes] and bias [classes], of features as they are.

    strength: the C that was chosen. converged: whether scikit-learn says that the fit did.
    """

    kernel: np.ndarray
    bias: np.ndarray
    strength: float
    converged: bool

    @property
    def at_end(self) -> bool:
        """Whether a better strength may lie beyond those that are tried."""
        return self.strength in (10.0 ** EXPONENTS[0], 10.0 ** EXPONENTS[-1])

    def predictions(self, found: Features) -> Predictions:
        """What it makes of the images of a split."""
        return Predictions(found.values @ self.kernel + self.bias, found.labels, found.unreadable)


def fit(train: Features, labels: tuple[str, ...], seed: int) -> Probe:
    """A logistic regression on features, standardised for the fit; some classes may have no images.

    Its strength is that of the least loss on some of the images; accuracy has too many peaks by chance to be
    searched for the highest.
    labels: names of the classes. seed: of the choice of images that decide on the strength.
    Raises UserError if there are images of one class only, or one of each.
    """
    present = np.unique(train.labels)
    if len(present) < 2:
        raise UserError(f"all training images are of one class, {labels[present[0]]}")
    held = _held_out(train.labels, seed)
    if not held.any():
        raise UserError(
            "one training image of each class: a probe takes two of some class at least"
        )
    learned, decisive = (_some(train, which) for which in (~held, held))

    def loss(exponent: int) -> float:
        fitted = _regression(learned, len(labels), 10.0**exponent)
        return score(fitted.predictions(decisive), labels).loss

    return _regression(train, len(labels), 10.0 ** _least(loss))


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


def _least(loss: Callable[[int], float]) -> int:
    """The exponent of the least loss, sought outwards from FIRST until it is between two others."""
    found, missing = {}, list(FIRST)
    while missing:
        found |= {exponent: loss(exponent) for exponent in missing}
        best = min(found, key=found.get)
        missing = [e for e in (best - 1, best + 1) if e in EXPONENTS and e not in found]
    return best


def _regression(train: Features, classes: int, strength: float) -> Probe:
    x = train.values.astype(np.float64)
    scale = StandardScaler().fit(x)
    regression = LogisticRegression(C=strength, max_iter=STEPS, tol=1e-6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fitted = regression.fit(scale.transform(x), train.labels)
    converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
    rows = fitted.coef_ / scale.scale_  # [classes that were seen, d]
    bias = fitted.intercept_ - rows @ scale.mean_
    if len(rows) == 1:  # two classes have one row
        rows, bias = np.concatenate([-rows, rows]) / 2, np.concatenate([-bias, bias]) / 2
    kernel = np.zeros((x.shape[1], classes))
    biases = np.full(classes, bias.min() - UNSEEN)
    kernel[:, fitted.classes_], biases[fitted.classes_] = rows.T, bias
    return Probe(kernel, biases, strength, converged)


def _held_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """Which images are to choose by, bool [n]: of each class the second of every five, in a random order.

    So one stays to learn from of every class.
    """
    order, held = np.random.default_rng(seed).permutation(len(labels)), np.zeros(len(labels), bool)
    for number in np.unique(labels):
        held[order[labels[order] == number][1::HELD_OUT]] = True
    return held


def _some(found: Features, which: np.ndarray) -> Features:
    return Features(found.values[which], found.labels[which], found.unreadable)
