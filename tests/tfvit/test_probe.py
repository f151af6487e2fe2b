"""The linear probe against scikit-learn's own pipeline on the same features."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tf_keras as keras
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import labelled

import tfvit
from tfvit.data import DataOptions, open_source
from tfvit.data.pipeline import eval_batches
from tfvit.evaluate.probe import fit
from tfvit.model import named_weights
from tfvit.preprocess import normalise


def read(model, split):
    """Features and labels of a split, by what stands before the head."""
    body = keras.Model(model.input, model.get_layer("pool").output)
    found, labels = [], []
    for batch in eval_batches(split, model.preprocess, 50, unreadable={}):
        real = batch["mask"].numpy() > 0
        found.append(
            body(normalise(batch["pixels"], model.preprocess)).numpy()[real].astype(np.float64)
        )
        labels.append(batch["label"].numpy()[real])
    return np.concatenate(found), np.concatenate(labels)


def test_it_is_scikit_learns_regression_on_the_same_features(digits_run):
    model, source = tfvit.load(digits_run / "best"), open_source(DataOptions("digits"))
    found = fit(model, source, 100, seed=0)
    x, y = read(model, source.train)
    regression = LogisticRegression(C=found.strength, max_iter=1000, tol=1e-6)
    expected = make_pipeline(StandardScaler(), regression).fit(x, y)
    tested, _ = read(model, source.eval)
    head = found.model.get_layer("head")
    logits = tested @ head.kernel.numpy() + head.bias.numpy()
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected.predict_proba(tested), atol=1e-3)


def test_the_command_leaves_a_checkpoint_that_scores_what_it_says(digits_run, tmp_path, tfvit_cli):
    out, figures = tmp_path / "probed", tmp_path / "probe.json"
    done = tfvit_cli("probe", digits_run, "--data", "digits", "--out", out, "--json", figures)
    assert done.code == 0
    top1 = json.loads(figures.read_text())["top1"]
    assert f"{100 * top1:.2f} %" in done.out
    model, source = tfvit.load(out), open_source(DataOptions("digits"))
    x, y = read(model, source.eval)
    head = model.get_layer("head")
    logits = x @ head.kernel.numpy() + head.bias.numpy()
    assert accuracy_score(y, logits.argmax(1)) == pytest.approx(top1, abs=2e-3)
    body = named_weights(tfvit.load(digits_run / "best"))["block_0/mlp/dense_1/kernel"].numpy()
    assert np.array_equal(named_weights(model)["block_0/mlp/dense_1/kernel"].numpy(), body)


def test_two_classes_have_two_columns(tmp_path, photos):
    source = open_source(DataOptions(str(photos)))
    model = labelled(source.labels, (24, 40))
    found = fit(model, source, 8, seed=0)
    assert found.model.labels == source.labels
    x, y = read(found.model, source.train)
    head = found.model.get_layer("head")
    assert accuracy_score(y, (x @ head.kernel.numpy() + head.bias.numpy()).argmax(1)) > 0.5


@pytest.mark.parametrize(
    "changes, message", [({"distillation_token": True}, "two heads; a probe has one")]
)
def test_what_has_no_single_head_is_one_line(tmp_path, tfvit_cli, changes, message):
    tfvit.save(labelled(tuple("0123456789"), (16, 16), **changes), tmp_path / "model")
    done = tfvit_cli("probe", tmp_path / "model", "--data", "digits")
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1


def test_nothing_is_overwritten(digits_run, tmp_path, tfvit_cli):
    done = tfvit_cli("probe", digits_run, "--data", "digits", "--out", tmp_path)
    assert done.code == 2 and "exists already" in done.err
    assert not list(tmp_path.iterdir())
