"""Few-shot accuracy against scikit-learn's ridge regression, over every l2, and as a command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge
from small_models import computed, labelled, randomise

import tfvit
from tfvit import UserError
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.data import DataOptions, open_source
from tfvit.evaluate import features, fewshot
from tfvit.model import build


def design(x, of):
    """Features standardised by those of the training images, and a hundred behind them."""
    return np.hstack([(x - of.mean(axis=0)) / (of.std(axis=0) + 1e-5), np.full((len(x), 1), 100.0)])


def reference(x, y, classes, l2):
    """scikit-learn's solution, by another algorithm than ours."""
    targets = np.where(y[:, None] == np.arange(classes), 1.0, -1.0)
    return Ridge(alpha=l2, fit_intercept=False, solver="cholesky").fit(design(x, x), targets)


def first(labels, classes, shots, seed):
    """The images that big_vision's evaluator draws."""
    rng = np.random.default_rng(seed)
    mixed = [rng.permutation(np.where(labels == c)[0]) for c in range(classes)]
    return np.concatenate([places[:shots] for places in mixed])


@pytest.fixture(scope="module")
def digits(digits_run):
    """Features and labels of both splits, of a trained model."""
    model, source = tfvit.load(digits_run / "best"), open_source(DataOptions("digits"))
    return *computed(model, source.train), *computed(model, source.eval)


def duplicated(x, y):
    return np.repeat(x, 2, axis=0), np.repeat(y, 2)


# What may be special about the features of 10 classes: more of them than images, or as many; some of
# no rank; far from zero.
CASES = {
    "1 shot": (1, lambda x, y: (x, y)),
    "5 shots": (5, lambda x, y: (x, y)),
    "25 shots": (25, lambda x, y: (x, y)),
    "as many images as columns": (5, lambda x, y: (x[:49], y[:49])),
    "constant features": (25, lambda x, y: (np.where(np.arange(48) % 3, x, 0.1), y)),
    "equal features": (25, lambda x, y: (x[:, np.arange(48) // 2], y)),
    "equal images": (3, duplicated),
    "far from zero": (10, lambda x, y: (1e3 + 1e-2 * x, y)),
    "a class without images": (5, lambda x, y: (x[y != 4], y[y != 4])),
}


@pytest.mark.parametrize("case", CASES)
def test_every_l2_is_scikit_learns_ridge(case, digits):
    x, y, others, truth = digits
    shots, change = CASES[case]
    some = first(y, 10, shots, seed=0)
    x, y = change(x[some], y[some])
    others, _ = change(others, truth)
    found = fewshot.ridge(x, y, 10)
    for l2 in fewshot.SWEEP:
        expected = reference(x, y, 10, l2)
        assert np.abs(expected.coef_).max() > 1e-6
        np.testing.assert_allclose(found.weights(l2), expected.coef_.T, atol=1e-6)
        scores = expected.predict(design(others, x))
        close = 1e-6 * max(1, np.abs(scores).max())
        np.testing.assert_allclose(found.scores(others, l2), scores, atol=close)


def test_images_are_left_out_as_if_they_had_not_been_there(digits):
    x, y, *_ = digits
    some = first(y, 10, 4, seed=1)
    x, y = x[some], y[some]
    found, matrix, right = fewshot.ridge(x, y, 10), design(x, x), {}
    for l2 in fewshot.SWEEP:
        alone = np.empty((len(x), 10))
        for i in range(len(x)):
            kept = np.arange(len(x)) != i
            ridge = Ridge(alpha=l2, fit_intercept=False).fit(matrix[kept], found.targets[kept])
            alone[i] = ridge.predict(matrix[[i]])[0]
        np.testing.assert_allclose(found.left_out(l2), alone, atol=1e-5)
        right[l2] = (alone.argmax(axis=1) == y).mean()
    assert len(set(right.values())) > 2
    assert right[found.chosen()] == max(right.values())


def test_the_command_prints_the_accuracies_of_scikit_learn(digits_run, digits, tmp_path, tfvit_cli):
    out = tmp_path / "figures.json"
    options = ("--shots", "5,1", "--seeds", "3", "--l2", "100")
    done = tfvit_cli("fewshot", digits_run, "--data", "digits", *options, "--json", out)
    assert done.code == 0, done.err
    found = json.loads(out.read_text())
    assert (found["data"], found["split"], found["images"]) == ("digits", "held out", 348)
    fixed, chosen = (found["models"][str(digits_run)][name] for name in ("fixed", "chosen"))
    assert [row["shots"] for row in fixed] == [1, 5] and [row["shots"] for row in chosen] == [5]
    x, y, others, truth = digits
    for row in fixed + chosen:
        draws = [first(y, 10, row["shots"], seed) for seed in range(3)]
        for some, l2, accuracy in zip(draws, row["l2"], row["accuracies"], strict=True):
            guess = reference(x[some], y[some], 10, l2).predict(design(others, x[some])).argmax(1)
            assert accuracy == pytest.approx((guess == truth).mean(), abs=1.1 / 348)
        assert row["mean"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["std"] == pytest.approx(np.std(row["accuracies"], ddof=1))
        assert f"{100 * row['mean']:.2f} ± {100 * row['std']:.2f} %" in done.out
    assert {l2 for row in fixed for l2 in row["l2"]} == {100}
    assert fixed[1]["mean"] > fixed[0]["mean"] > 0.2


def test_models_and_files_stand_side_by_side(digits_run, telling, tmp_path, tfvit_cli):
    models = [digits_run, telling / "float32.tflite", telling / "int8.tflite"]
    out, picture = tmp_path / "figures.json", tmp_path / "shots.png"
    options = ("--data", "digits", "--shots", "2,10", "--seeds", "2", "--threads", "1")
    done = tfvit_cli("fewshot", *models, *options, "--json", out, "--plot", picture)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split()[:2] for line in lines[2:8]] == [
        [str(model), l2] for model in models for l2 in ("1024", "chosen")
    ]
    found = json.loads(out.read_text())["models"]
    assert list(found) == [str(model) for model in models]
    checkpoint, float32, int8 = ([r["mean"] for r in found[str(m)]["fixed"]] for m in models)
    assert float32 == pytest.approx(checkpoint, abs=0.005)
    assert int8 == pytest.approx(checkpoint, abs=0.05) and int8 != float32
    with Image.open(picture) as image:
        assert image.width > 600


SIZE, TINY = (32, 64), {"width": 32, "depth": 2, "mlp_dim": 64, "heads": 2}
MODELS = {
    "BiT": ResNetArchitecture("bit", 2, SIZE, (1, 1), 1),
    "hybrid": Architecture("hybrid", 2, SIZE, patch_size=1, stem=(1, 1), **TINY),
    "distillation token": Architecture("d", 2, SIZE, patch_size=8, distillation_token=True, **TINY),
    "hidden layer": Architecture("hidden", 2, SIZE, patch_size=8, representation_size=16, **TINY),
}


@pytest.mark.parametrize("kind", MODELS)
def test_features_are_what_the_head_makes_its_logits_of(kind, photos):
    source = open_source(DataOptions(str(photos)))
    model = randomise(build(MODELS[kind], labels=source.labels))
    found = features.of_model(model, 5)(source.eval)
    heads = features.heads(model)
    parts = np.split(found.values, len(heads), axis=1)
    logits = [x @ head.kernel.numpy() + head.bias.numpy() for x, head in zip(parts, heads)]
    expected, labels = computed(model, source.eval, model.layers[-1].name)
    assert np.ptp(expected, axis=0).min() > 0.01
    np.testing.assert_allclose(np.mean(logits, axis=0), expected, atol=1e-4)
    np.testing.assert_array_equal(found.labels, labels)


def test_a_model_that_computes_no_numbers_is_one_line(photos):
    source, model = open_source(DataOptions(str(photos))), labelled(("a", "b"))
    model.get_layer("norm").gamma.assign(np.full(48, np.nan))
    with pytest.raises(UserError) as caught:
        features.of_model(model)(source.eval)
    assert "are not finite numbers" in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def folder(photos, tmp_path):
    """The photos in a folder of their own, and the checkpoint of an untrained model."""
    shutil.copytree(photos, tmp_path / "photos")
    tfvit.save(labelled(("any",)), tmp_path / "model")
    return tmp_path


def test_unreadable_photos_are_named_and_others_drawn(folder, tfvit_cli):
    data, out = folder / "photos", folder / "figures.json"
    command = ("fewshot", folder / "model", "--data", data, "--shots", "20", "--json", out)
    bad = [data / "train/china" / f"{i:02d}.jpg" for i in (3, 7)] + [data / "test/flower/02.jpg"]
    for path in bad:
        path.write_text("no picture")
    done = tfvit_cli(*command)
    assert done.code == 0, done.err
    assert done.err.startswith("skipped 3 unreadable images:")
    found = json.loads(out.read_text())
    assert found["unreadable"] == sorted(map(str, bad)) and found["images"] == 15
    for path in bad:
        path.unlink()
    assert tfvit_cli(*command).err == ""
    assert json.loads(out.read_text()) == {**found, "unreadable": []}


BAD = {
    "more shots than images": (("--shots", "5,25"), "too few of china (24), flower (24)"),
    "no shots": (("--shots", "0"), "is not like 1,2,4"),
    "shots that are no number": (("--shots", "5,x"), "is not like 1,2,4"),
    "no l2": (("--l2", "0"), "'--l2': 0.0 is not in the range x>0"),
    "no finite l2": (("--l2", "nan"), "'--l2': 'nan' is not a finite number"),
    "no seeds": (("--seeds", "0"), "--seeds"),
    "no training split": (("--train-split", "nothing"), "no split 'nothing'"),
}


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(options, message, folder, tfvit_cli):
    out = folder / "figures.json"
    done = tfvit_cli(
        *("fewshot", folder / "model", "--data", folder / "photos", "--json", out, *options)
    )
    assert done.code == 2 and message in done.err.splitlines()[-1] and not out.exists()


def test_too_few_readable_images_are_one_line(folder, tfvit_cli):
    for i in range(5):
        (folder / "photos/train/china" / f"{i:02d}.jpg").write_text("no picture")
    options = ("--data", folder / "photos", "--shots", "20")
    done = tfvit_cli("fewshot", folder / "model", *options)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "20 shots" in done.err and done.err.endswith("too few of china (19)\n")


def test_what_has_no_features_or_no_single_label_is_one_line(
    exported, digits_run, labelled_photos, tmp_path, tfvit_cli
):
    commands = {
        (exported / "int8.tflite", "--data", "digits"): "tells no features; export it with",
        (digits_run, tmp_path / "none", "--data", "digits"): "no such checkpoint folder",
        (digits_run, "--data", labelled_photos): "a probe is for one",
    }
    for command, message in commands.items():
        done = tfvit_cli("fewshot", *command)
        assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
