"""Scores of predictions of several labels a picture, against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn import metrics

from tfvit import PreprocessSpec, UserError, create_model
from tfvit.data import DataOptions, open_source
from tfvit.evaluate import predict_pixels, score
from tfvit.evaluate.classification import Predictions
from tfvit.model import build

LABELS = tuple("abcdef")


def predictions(count, absent=(), steps=None):
    """Random logits, right somewhat more often than by chance; steps: of so many values only."""
    rng = np.random.default_rng(0)
    truth = (rng.random((count, len(LABELS))) < 0.3).astype(np.float32)
    truth[:, list(absent)] = 0
    logits = rng.standard_normal(truth.shape) - 1 + 1.5 * truth
    if steps:
        logits = np.round(logits * steps / 4) * 4 / steps
    return Predictions(logits.astype(np.float32), truth, {}, scores="sigmoid")


CASES = {
    "many": predictions(80),
    "two": predictions(2),
    "absent classes": predictions(40, (1, 4)),
    "equal logits": predictions(60, steps=6),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_scikit_learns(case):
    given = CASES[case]
    truth, logits = given.labels.astype(int), given.logits.astype(np.float64)
    scores = score(given, LABELS)
    assert scores.images == len(truth)
    known = truth.any(axis=0)
    precisions = [metrics.average_precision_score(truth[:, i], logits[:, i]) for i in range(6)]
    assert scores.map == pytest.approx(np.mean(np.array(precisions)[known]))
    found = expit(logits) >= 0.5
    overall = metrics.precision_recall_fscore_support(
        truth, found, average="micro", zero_division=np.nan
    )
    for name, value in zip(("precision", "recall", "f1"), overall):
        assert getattr(scores, name) == pytest.approx(value)
    columns = metrics.precision_recall_fscore_support(truth, found, zero_division=np.nan)
    for i, (label, entry) in enumerate(scores.per_class.items()):
        assert label == LABELS[i] and entry["images"] == truth[:, i].sum()
        expected = dict(zip(("precision", "recall", "f1"), (column[i] for column in columns)))
        expected["average_precision"] = precisions[i] if known[i] else np.nan
        for name, value in expected.items():
            assert (np.nan if entry[name] is None else entry[name]) == pytest.approx(
                value, nan_ok=True
            )
    entropy = [metrics.log_loss(y, p, labels=[0, 1]) for y, p in zip(truth.T, expit(logits).T)]
    assert scores.loss == pytest.approx(np.sum(entropy))
    with_labels = truth.any(axis=1)
    hits = truth[np.arange(len(truth)), logits.argmax(axis=1)]
    assert scores.top1 == pytest.approx(hits[with_labels].mean())
    for i, j in np.ndindex(6, 6):
        assert scores.confusion[i][j] == (truth[:, i] * found[:, j]).sum()


def test_figures_for_people_and_programs():
    scores = score(CASES["absent classes"], LABELS)
    assert scores.headline() == {"loss": scores.loss, "top1": scores.top1, "map": scores.map}
    stored = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert stored["map"] == scores.map and stored["per_class"]["b"]["average_precision"] is None


def test_the_loss_of_confident_logits_is_exact():
    logits = np.array([[1000, -1000], [-500, 800]], np.float32)
    truth = np.array([[1, 0], [1, 0]], np.float32)
    assert score(Predictions(logits, truth, {}), ("a", "b")).loss == 1300 / 2


def test_pictures_without_any_label_are_one_line():
    given = Predictions(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32), {})
    with pytest.raises(UserError, match="none of the images has a label"):
        score(given, ("a", "b"))


def test_one_label_each_with_sigmoid_scores_has_the_sigmoid_loss():
    rng = np.random.default_rng(0)
    logits, truth = rng.standard_normal((30, 4)).astype(np.float32), rng.integers(0, 4, 30)
    scores = score(Predictions(logits, truth, {}, scores="sigmoid"), LABELS[:4])
    p, y = expit(logits.astype(np.float64)), np.eye(4)[truth]
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(axis=1).mean()
    assert scores.loss == pytest.approx(expected)
    assert scores.top1 == (logits.argmax(1) == truth).mean()


def test_predictions_are_in_the_order_of_the_models_labels(labelled_photos):
    source, spec = open_source(DataOptions(str(labelled_photos))), PreprocessSpec(4, 4)
    labels = ("flower", "zebra", "china", "dark")

    def run(pixels):
        return np.zeros((len(pixels), 4), np.float32)

    found = predict_pixels(run, labels, spec, source, scores="sigmoid")
    assert found.scores == "sigmoid"
    assert found.labels.tolist() == [[i >> 1 & 1, 0, i & 1, i >> 2 & 1] for i in range(16)]
    with pytest.raises(UserError, match="several labels a picture; the model gives one"):
        predict_pixels(run, labels, spec, source)


def test_other_scores_are_refused():
    with pytest.raises(UserError, match="scores 'tanh' is not one of softmax, sigmoid"):
        build(create_model("vit-ti/16", 2, 16, depth=1).architecture, scores="tanh")
