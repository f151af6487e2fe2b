from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from scipy.special import expit, softmax
from sklearn import metrics
from small_models import labelled

from edge_demo import images, preprocess
from edge_demo.scores import SIGMOID, SOFTMAX
from tfvit import UserError, fused
from tfvit.data import DataOptions, open_source
from tfvit.evaluate import calibration, predict, score
from tfvit.evaluate.classification import Predictions, match_labels


def predictions(count, classes, present=None, seed=0):
    """Random logits without ties, right somewhat more often than by chance."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, present or classes, count)
    logits = rng.standard_normal((count, classes)).astype(np.float32)
    logits[np.arange(count), truth] += 1
    assert all(len(np.unique(row)) == classes for row in logits)
    return Predictions(logits, truth, {})


CASES = {
    "two classes": (50, 2, None),
    "five classes": (80, 5, None),
    "six classes": (90, 6, None),
    "many classes": (200, 30, None),
    "absent classes": (40, 12, 4),
    "one image": (1, 7, None),
}


@pytest.mark.parametrize("case", CASES)
def test_scores_are_scikit_learns(case):
    count, classes, present = CASES[case]
    given = predictions(count, classes, present)
    labels = tuple(f"class {i}" for i in range(classes))
    scores = score(given, labels)
    guess, numbers = given.logits.argmax(axis=1), range(classes)
    assert scores.images == count
    assert scores.top1 == pytest.approx(metrics.accuracy_score(given.labels, guess))
    if classes > 5:
        top5 = metrics.top_k_accuracy_score(given.labels, given.logits, k=5, labels=numbers)
        assert scores.top5 == pytest.approx(top5)
    else:
        assert scores.top5 is None
    probabilities = softmax(given.logits.astype(np.float64), axis=1)
    log_loss = metrics.log_loss(given.labels, probabilities, labels=numbers)
    assert scores.loss == pytest.approx(log_loss, rel=1e-6)
    expected = metrics.confusion_matrix(given.labels, guess, labels=numbers)
    np.testing.assert_array_equal(scores.confusion, expected)
    precision, recall, _, support = metrics.precision_recall_fscore_support(
        given.labels, guess, labels=numbers, zero_division=np.nan
    )
    assert tuple(scores.per_class) == labels
    for i, label in enumerate(labels):
        entry = scores.per_class[label]
        assert entry["images"] == support[i]
        for name, value in (("recall", recall[i]), ("precision", precision[i])):
            if np.isnan(value):
                assert entry[name] is None
            else:
                assert entry[name] == pytest.approx(value)


@pytest.mark.parametrize("scores", [SOFTMAX, SIGMOID])
@pytest.mark.parametrize("case", CASES)
def test_calibration_error_is_that_of_bins_made_one_prediction_at_a_time(case, scores):
    count, classes, present = CASES[case]
    given = dataclasses.replace(predictions(count, classes, present), scores=scores)
    found = score(given, tuple(map(str, range(classes))))
    logits = given.logits.astype(np.float64)
    probabilities = softmax(logits, axis=1) if scores == SOFTMAX else expit(logits)
    members = [[] for _ in range(15)]
    for row, label in zip(probabilities, given.labels):
        (number,) = (m for m in range(15) if m / 15 < row.max() <= (m + 1) / 15)
        members[number].append((row.max(), row.argmax() == label))
    error = sum(abs(sum(c - r for c, r in inside)) for inside in members) / count
    assert found.ece == pytest.approx(error, abs=1e-12)
    assert [entry["images"] for entry in found.reliability] == list(map(len, members))
    assert count == 1 or (sum(map(bool, members)) > 3 and error > 0.01)
    filled = [m for m in members if m]
    means = [np.mean(m, axis=0) for m in filled]
    entries = [entry for entry in found.reliability if entry["images"]]
    told = [(entry["confidence"], entry["accuracy"]) for entry in entries]
    np.testing.assert_allclose(told, means)


def test_calibration_of_the_extremes():
    """A score of 1 is in the last bin, an edge in the bin below it; right by its confidence is no error."""
    sure = calibration.reliability(np.array([1.0, 1.0]), np.array([True, False]))
    assert sure[-1] == {
        **{"low": 14 / 15, "high": 1.0, "images": 2},
        **{"confidence": 1.0, "accuracy": 0.5},
    }
    assert calibration.expected_error(sure) == 0.5
    fifth = calibration.reliability(np.full(5, 0.2), np.arange(5) == 0)
    assert fifth[2]["images"] == 5
    assert calibration.expected_error(fifth) == pytest.approx(0, abs=1e-12)


def test_the_reliability_picture(digits_run, tmp_path, tfvit_cli):
    done = tfvit_cli(
        *("eval", digits_run, "--data", "digits", "--json", tmp_path / "x.json"),
        *("--reliability", tmp_path / "x.png"),
    )
    assert done.code == 0, done.err
    stored = json.loads((tmp_path / "x.json").read_text())
    assert done.out.splitlines()[-1].partition("): ")[2] == (
        f"top-1 {100 * stored['top1']:.2f} %, top-5 {100 * stored['top5']:.2f} %, "
        f"loss {stored['loss']:.4f}, calibration error {100 * stored['ece']:.2f} %"
    )
    assert len(stored["reliability"]) == 15
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.format == "PNG" and np.asarray(picture).std() > 10


def test_no_reliability_of_several_labels(digits_run, labelled_photos, tmp_path, tfvit_cli):
    picture = tmp_path / "x.png"
    done = tfvit_cli("eval", digits_run, "--data", labelled_photos, "--reliability", picture)
    assert (done.code, picture.exists()) == (2, False)
    assert "several labels" in done.err and "\n" not in done.err.strip()


def test_the_loss_of_confident_logits_is_exact():
    logits = np.array([[1000, 0, 0], [0, -1000, 0], [0, 0, 500]], np.float32)
    scores = score(Predictions(logits, np.array([0, 0, 1]), {}), ("a", "b", "c"))
    assert scores.loss == pytest.approx((0 + np.log(2) + 500) / 3)


def test_scores_are_json(tmp_path):
    scores = score(predictions(40, 12, 4), tuple("abcdefghijkl"))
    stored = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert stored["top1"] == scores.top1
    assert stored["confusion"] == scores.confusion
    assert scores.headline() == {"loss": scores.loss, "top1": scores.top1, "top5": scores.top5}
    assert "top5" not in score(predictions(9, 3), tuple("abc")).headline()


# Predictions


@pytest.fixture(scope="module")
def source(photos):
    return open_source(DataOptions(str(photos)))


@pytest.fixture(scope="module")
def model():
    return labelled(("china", "flower"))


@pytest.fixture(scope="module")
def expected(model, photos):
    """Logits of every held-out photo, one at a time, with the device's preprocessing."""
    rows = []
    for path in sorted((photos / "test").rglob("*.jpg")):
        pixels = preprocess.to_pixels(images.read_rgb(path), model.preprocess)
        rows.append(model(preprocess.normalise(pixels, model.preprocess)[None]).numpy()[0])
    return np.array(rows)


@pytest.mark.parametrize("batch_size", [1, 5, 16, 64, 512])  # the last one in fused pieces
def test_predictions_do_not_depend_on_the_batch_size(model, source, expected, batch_size):
    assert fused.worthwhile(model.architecture, batch_size) == (batch_size == 512)
    found = predict(model, source, batch_size)
    assert found.logits.dtype == np.float32
    assert expected.std(axis=0).min() > 0.01
    np.testing.assert_allclose(found.logits, expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, [0] * 8 + [1] * 8)
    assert not found.unreadable


def test_classes_are_matched_by_name(model, source, expected):
    other = labelled(("zebra", "flower", "apple", "china"))
    assert match_labels(other.labels, source).tolist() == [3, 1]
    found = predict(other, source, 5)
    np.testing.assert_array_equal(found.labels, [3] * 8 + [1] * 8)
    scores = score(found, other.labels)
    assert {k: v["images"] for k, v in scores.per_class.items()} == {
        "zebra": 0,
        "flower": 8,
        "apple": 0,
        "china": 8,
    }
    assert scores.top1 == metrics.accuracy_score(found.labels, found.logits.argmax(axis=1))


def test_the_order_of_the_models_labels_decides_what_is_right(source):
    """The same weights with the labels exchanged are right where they were wrong."""
    first, second = (
        score(predict(labelled(labels, seed=3), source), labels)
        for labels in (("china", "flower"), ("flower", "china"))
    )
    assert first.top1 + second.top1 == pytest.approx(1)


@pytest.mark.parametrize("labels", [("china", "rose"), ("China", "flower"), ("0", "1")])
def test_a_class_that_the_model_does_not_know_is_one_line_that_names_it(source, labels):
    unknown = next(label for label in source.labels if label not in labels)
    with pytest.raises(UserError) as caught:
        predict(labelled(labels), source)
    message = str(caught.value)
    assert "\n" not in message
    for part in (source.name, repr(unknown), *labels):
        assert part in message


@pytest.fixture
def copied(photos, tmp_path):
    """copied(n): a folder with the first n held-out photos of each class."""

    def make(count):
        for split in ("train", "test"):
            for label in ("china", "flower"):
                (tmp_path / split / label).mkdir(parents=True)
                for path in sorted((photos / "test" / label).iterdir())[:count]:
                    (tmp_path / split / label / path.name).write_bytes(path.read_bytes())
        return tmp_path

    return make


@pytest.mark.parametrize("batch_size", [2, 5])
def test_unreadable_photos_are_left_out_and_named(model, expected, copied, batch_size):
    root = copied(3)
    (root / "test/china/01.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (root / "test/flower/02.jpg").write_text("text")
    found = predict(model, open_source(DataOptions(str(root))), batch_size)
    np.testing.assert_allclose(found.logits, expected[[0, 2, 8, 9]], atol=1e-5)
    np.testing.assert_array_equal(found.labels, [0, 0, 1, 1])
    bad = {str(root / "test/china/01.jpg"), str(root / "test/flower/02.jpg")}
    assert set(found.unreadable) == bad
    good = [root / "test" / name for name in ("china/00", "china/02", "flower/00", "flower/01")]
    assert list(found.names) == [f"{path}.jpg" for path in good]


def test_a_split_without_a_readable_photo_is_one_line(model, copied):
    root = copied(2)
    for path in (root / "test").rglob("*.jpg"):
        path.write_text("text")
    with pytest.raises(UserError) as caught:
        predict(model, open_source(DataOptions(str(root))), 3)
    assert "no readable image" in str(caught.value)
    assert "\n" not in str(caught.value)
