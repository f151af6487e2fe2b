"""A model of several labels a picture: measured, exported, and run on a device."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tf_keras as keras
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

import tfvit
from convert import verify
from edge_demo import Classifier
from edge_demo.images import read_rgb
from edge_demo.preprocess import normalise, to_pixels
from edge_demo.tflite.metadata import read
from tfvit.model import build

LABELS = ("china", "dark", "flower")
SIZE = {"width": 48, "depth": 1, "heads": 3, "mlp_dim": 96}


def pictures(folder):
    """Resized pictures uint8 [n, 32, 32, 3] and their labels [n, 3], as the folder's fixture has them."""
    spec = tfvit.PreprocessSpec(32, 32)
    paths = sorted(folder.glob("*.png"))
    truth = [[i & 1, i >> 2 & 1, i >> 1 & 1] for i in range(len(paths))]
    return np.array([to_pixels(read_rgb(path), spec) for path in paths]), np.array(truth)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, labelled_photos):
    """A checkpoint with a random body, and a head that scikit-learn fitted to the training pictures."""
    keras.utils.set_random_seed(0)
    arch = tfvit.create_model("vit-ti/8", 3, 32, **SIZE).architecture
    model = build(arch, labels=LABELS, scores="sigmoid")
    pixels, truth = pictures(labelled_photos / "train")
    body = keras.Model(model.input, model.get_layer("head").input)
    features = body(normalise(pixels, model.preprocess)).numpy()
    for i in range(3):
        fitted = LogisticRegression(C=3.0, max_iter=2000).fit(features, truth[:, i])
        model.get_layer("head").kernel[:, i].assign(fitted.coef_[0])
        model.get_layer("head").bias[i].assign(fitted.intercept_[0])
    folder = tmp_path_factory.mktemp("models") / "several"
    tfvit.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint, labelled_photos):
    """Logits and labels of the test pictures."""
    model = tfvit.load(checkpoint)
    pixels, truth = pictures(labelled_photos / "test")
    return model(normalise(pixels, model.preprocess)).numpy(), truth


@pytest.fixture(scope="module")
def out(tmp_path_factory, checkpoint, labelled_photos, tfvit_cli):
    """`tfvit convert --int8 --max-drop 50` of it."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "LATENCY_SECONDS", 0.1)
        done = tfvit_cli(
            *("convert", checkpoint, "--data", labelled_photos, "--int8", "--qat-steps", "2"),
            *("--batch-size", "8", "--calibration-images", "8", "--max-drop", "50"),
            *("--out", folder),
        )
    assert done.code == 0, done.err
    assert "mAP" in done.out and "top-1" not in done.out
    return folder


def test_a_checkpoint_keeps_what_its_scores_are(checkpoint, tmp_path, tfvit_cli):
    assert json.loads((checkpoint / "config.json").read_text())["scores"] == "sigmoid"
    model = tfvit.load(checkpoint)
    assert model.scores == "sigmoid"
    assert "3, any number a picture: china, dark, flower" in tfvit_cli("info", checkpoint).out
    tfvit.save(model, tmp_path / "old")
    config = json.loads((tmp_path / "old/config.json").read_text())
    (tmp_path / "old/config.json").write_text(json.dumps(config | {"scores": "softmax"}))
    assert tfvit.load(tmp_path / "old").scores == "softmax"
    without = {k: v for k, v in config.items() if k != "scores"}
    for damaged in (without, config | {"scores": ["x"]}):
        (tmp_path / "old/config.json").write_text(json.dumps(damaged))
        with pytest.raises(tfvit.UserError, match="scores"):
            tfvit.load(tmp_path / "old")


def test_eval_scores_what_scikit_learn_does(
    checkpoint, labelled_photos, expected, tmp_path, tfvit_cli
):
    logits, truth = expected
    json_file, image = tmp_path / "eval.json", tmp_path / "confusion.png"
    done = tfvit_cli(
        *("eval", checkpoint, "--data", labelled_photos),
        *("--json", json_file, "--confusion", image),
    )
    assert done.code == 0, done.err
    figures = json.loads(json_file.read_text())
    assert figures["map"] == pytest.approx(average_precision_score(truth, logits), abs=1e-6)
    assert figures["map"] > 0.75  # else what follows says little
    assert f"mAP {100 * figures['map']:.2f} %" in done.out and "average precision" in done.out
    assert image.read_bytes()[:4] == b"\x89PNG"


def test_the_files_are_as_right_as_the_checkpoint_and_the_report_says_so(
    out, labelled_photos, expected
):
    logits, truth = expected
    report = json.loads((out / "report.json").read_text())
    assert report["scores"] == "sigmoid"
    paths = sorted((labelled_photos / "test").glob("*.png"))
    decided = {}
    for stem, entry in report["files"].items():
        assert read(out / f"{stem}.tflite").scores == "sigmoid"
        classifier = Classifier(out / f"{stem}.tflite")
        found = np.array([[dict(classifier.classify(p))[n] for n in LABELS] for p in paths])
        decided[stem] = found >= 0.5
        assert entry["accuracy"]["map"] == pytest.approx(average_precision_score(truth, found))
        if stem == "float32":
            np.testing.assert_allclose(found, expit(logits), atol=1e-4)
    same = (decided["int8"] == decided["float32"]).all(axis=1)
    assert report["files"]["int8"]["unchanged"] == same.mean()
    disagreements = report["files"]["int8"]["disagreements"]
    assert {d["name"] for d in disagreements} == {str(p) for p, s in zip(paths, same) if not s}
    for item in disagreements:
        assert item["reference"]["label"] != item["found"]["label"]
        assert 0.5 <= item["reference"]["score"] <= 1
    page = (out / "report.html").read_text()
    assert "<th>mAP</th>" in page and "same<br>labels" in page and "top-1" not in page


def test_eval_of_a_file_and_of_the_checkpoint_agree(
    out, checkpoint, labelled_photos, tmp_path, tfvit_cli
):
    found = []
    for model in (checkpoint, out / "float32.tflite"):
        done = tfvit_cli("eval", model, "--data", labelled_photos, "--json", tmp_path / "x.json")
        assert done.code == 0, done.err
        found.append(json.loads((tmp_path / "x.json").read_text()))
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-4)
    assert found[0]["confusion"] == found[1]["confusion"]


def test_edge_demo_names_all_that_is_in_a_picture(out, labelled_photos, expected, edge_cli):
    source = labelled_photos / "test"
    arguments = (out / "float32.tflite", "--source", source)
    lines = edge_cli(*arguments, "--json", "--top", "1").out.splitlines()
    scores = expit(expected[0])
    assert abs(scores - 0.5).min() > 1e-3
    for line, row in zip(lines, scores):
        found = json.loads(line)
        present = [LABELS[i] for i in np.argsort(-row) if row[i] >= 0.5]
        assert found["labels"] == present and len(found["top"]) == 1
        assert (found["label"], found["score"]) == (
            LABELS[row.argmax()],
            pytest.approx(row.max(), abs=1e-4),
        )
    assert edge_cli(*arguments).out.count("* ") == (scores >= 0.5).sum()


def test_parity_holds_a_device_to_every_label_of_a_picture(out, tmp_path, edge_cli):
    done = edge_cli("parity", out)
    assert done.code == 0 and done.out.count("16 of 16") == 2
    copy = shutil.copytree(out, tmp_path / "copy")
    report = json.loads((copy / "report.json").read_text())
    logits = report["files"]["float32"]["reference_logits"][3]
    weakest = min(range(len(LABELS)), key=lambda i: abs(logits[i]))
    logits[weakest] *= -1  # the others stay, and with them the best one
    (copy / "report.json").write_text(json.dumps(report))
    done = edge_cli("parity", copy)
    assert done.code == 3 and "1 of 16 answers are others" in done.out and "15 of 16" in done.out


def test_a_model_of_one_label_and_a_probe_are_refused(
    checkpoint, labelled_photos, digits_run, tmp_path, tfvit_cli
):
    data = ("--data", labelled_photos)
    commands = {
        ("eval", digits_run, *data): "the model gives one",
        ("convert", digits_run, *data, "--out", tmp_path / "out"): "the model gives one",
        ("probe", checkpoint, *data): "a probe is for one",
    }
    for command, message in commands.items():
        done = tfvit_cli(*command)
        assert done.code == 2 and message in done.err and len(done.err.splitlines()) == 1
