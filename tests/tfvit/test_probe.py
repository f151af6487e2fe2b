"""The linear probe against scikit-learn's own pipeline on the same features."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small_models import computed, labelled

import tfvit
from tfvit import UserError
from tfvit.data import DataOptions, open_source
from tfvit.evaluate import features, predict, probe
from tfvit.evaluate.features import Features
from tfvit.evaluate.probe import fit, with_head
from tfvit.model import named_weights


def test_it_is_scikit_learns_regression_on_the_same_features(digits_run):
    model, source = tfvit.load(digits_run / "best"), open_source(DataOptions("digits"))
    found = fit(features.of_model(model, 100)(source.train), source.labels, seed=0)
    x, y = computed(model, source.train)
    regression = LogisticRegression(C=found.strength, max_iter=1000, tol=1e-6)
    expected = make_pipeline(StandardScaler(), regression).fit(x, y)
    tested, _ = computed(model, source.eval)
    logits = tested @ found.kernel + found.bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    np.testing.assert_allclose(shares, expected.predict_proba(tested), atol=1e-3)


def test_the_command_leaves_a_checkpoint_that_scores_what_it_says(digits_run, tmp_path, tfvit_cli):
    out, figures = tmp_path / "probed", tmp_path / "probe.json"
    done = tfvit_cli("probe", digits_run, "--data", "digits", "--out", out, "--json", figures)
    assert done.code == 0
    stored = json.loads(figures.read_text())
    origin = {"data": "digits", "split": "held out", "training_images": 1449, "images": 348}
    assert stored == stored | origin | {"unreadable": []}
    top1 = stored["top1"]
    assert f"{100 * top1:.2f} %" in done.out
    model, source = tfvit.load(out), open_source(DataOptions("digits"))
    x, y = computed(model, source.eval)
    head = model.get_layer("head")
    logits = x @ head.kernel.numpy() + head.bias.numpy()
    assert accuracy_score(y, logits.argmax(1)) == pytest.approx(top1, abs=2e-3)
    body = named_weights(tfvit.load(digits_run / "best"))["block_0/mlp/dense_1/kernel"].numpy()
    assert np.array_equal(named_weights(model)["block_0/mlp/dense_1/kernel"].numpy(), body)


def test_two_classes_have_two_columns(photos):
    source = open_source(DataOptions(str(photos)))
    train = features.of_model(labelled(source.labels, (24, 40)), 8)(source.train)
    found = fit(train, source.labels, seed=0)
    assert found.kernel.shape == (48, 2) and found.bias.shape == (2,)
    guesses = found.predictions(train).logits.argmax(1)
    assert accuracy_score(train.labels, guesses) > 0.5


@pytest.mark.parametrize("changes", [{}, {"distillation_token": True}, {"pooling": "cls+gap"}])
def test_a_model_with_the_head_answers_as_the_probe(changes, photos):
    source = open_source(DataOptions(str(photos)))
    model = labelled(("a", "b", "c"), **changes)
    read = features.of_model(model)
    found = fit(read(source.train), source.labels, seed=0)
    new = with_head(model, found, source.labels)
    expected = found.predictions(read(source.eval)).logits
    assert np.ptp(expected, axis=0).min() > 0.01
    np.testing.assert_allclose(predict(new, source).logits, expected, atol=1e-4)


def test_an_exported_file_scores_what_its_checkpoint_does(digits_run, telling, tmp_path, tfvit_cli):
    top1 = []
    for model in (digits_run, telling / "int8.tflite"):
        figures = tmp_path / "probe.json"
        done = tfvit_cli("probe", model, "--data", "digits", "--json", figures)
        assert done.code == 0, done.err
        assert f"{model} on digits: linear probe on 1449 images" in done.out
        top1.append(json.loads(figures.read_text())["top1"])
    assert top1[0] > 0.8 and top1[1] == pytest.approx(top1[0], abs=0.03)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("telling/int8.tflite", ("--out", "{tmp}/new"), "--out is for a checkpoint folder"),
        ("exported/int8.tflite", (), "tells no features; export it with"),
        ("nothing.tflite", (), "no such checkpoint folder"),
    ],
)
def test_a_file_that_cannot_be_probed_is_one_line(
    name, options, message, telling, exported, tmp_path, tfvit_cli
):
    folder, _, file = name.rpartition("/")
    path = {"telling": telling, "exported": exported, "": tmp_path}[folder] / file
    options = [option.format(tmp=tmp_path) for option in options]
    done = tfvit_cli("probe", path, "--data", "digits", *options)
    assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("width, count, slope", [(600, 3000, 0.015), (3, 1500, 12)])
def test_the_strength_is_sought_where_it_is(width, count, slope):
    """Faint signs in many features, then sharp bounds in few."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count + 5000, width)).astype(np.float32)
    signal = x @ (slope * rng.standard_normal((width, 3)))
    y = (signal + rng.gumbel(size=signal.shape)).argmax(axis=1)
    learned = x[:count], y[:count]
    found = fit(Features(*learned, {}), ("a", "b", "c"), seed=0)
    assert not 1e-3 <= found.strength <= 1 and not found.at_end
    loss = log_loss(y[count:], softmax(x[count:] @ found.kernel + found.bias, axis=1))
    for strength in (1e-3, 1):
        regression = LogisticRegression(C=strength, max_iter=1000).fit(*learned)
        assert loss < 0.98 * log_loss(y[count:], regression.predict_proba(x[count:]))


def test_few_images_of_many_classes_are_enough():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 2)
    train = Features(rng.standard_normal((20, 8)).astype(np.float32), labels, {})
    for seed in range(3):
        found = fit(train, tuple("abcdefghij"), seed)
        assert found.kernel.shape == (8, 10) and np.isfinite(found.kernel).all()
    with pytest.raises(UserError, match="one training image of each class: a probe takes two"):
        fit(Features(train.values[::2], labels[::2], {}), tuple("abcdefghij"), 0)


def test_what_may_be_wrong_with_the_fit_is_said(
    digits_run, photos, tmp_path, monkeypatch, tfvit_cli
):
    tfvit.save(labelled(("any",)), tmp_path / "model")
    for split in ("train", "test"):  # each picture in both classes: any weight is too much
        for label in ("one", "other"):
            shutil.copytree(photos / "train/china", tmp_path / "photos" / split / label)
    cases = (  # model, data, steps, what is wrong
        (digits_run, "digits", probe.STEPS, set()),
        (digits_run, "digits", 20, {"converged"}),
        (tmp_path / "model", tmp_path / "photos", probe.STEPS, {"C_at_end"}),
    )
    for model, data, steps, wrong in cases:
        monkeypatch.setattr(probe, "STEPS", steps)
        done = tfvit_cli("probe", model, "--data", data, "--json", tmp_path / "probe.json")
        stored = json.loads((tmp_path / "probe.json").read_text())
        assert stored["C_at_end"] == ("C_at_end" in wrong)
        assert stored["converged"] == ("converged" not in wrong)
        assert (f"C {stored['C']:g} is the last that is tried" in done.err) == stored["C_at_end"]
        assert ("has not converged, in 20 steps at most" in done.err) != stored["converged"]


def test_images_of_one_class_only_are_one_line(photos, tmp_path, tfvit_cli):
    shutil.copytree(photos / "test", tmp_path / "test")
    shutil.copytree(photos / "train", tmp_path / "train")
    for path in (tmp_path / "train/flower").iterdir():
        path.write_text("no picture")
    tfvit.save(labelled(("china", "flower")), tmp_path / "model")
    done = tfvit_cli("probe", tmp_path / "model", "--data", tmp_path)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "all training images are of one class, china" in done.err


def test_nothing_is_overwritten(digits_run, tmp_path, tfvit_cli):
    done = tfvit_cli("probe", digits_run, "--data", "digits", "--out", tmp_path)
    assert done.code == 2 and "exists already" in done.err
    assert not list(tmp_path.iterdir())
