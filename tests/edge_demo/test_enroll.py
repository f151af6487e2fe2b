"""A class added, corrected and forgotten on a device, by a few pictures."""

import io
import itertools
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import normalize

from edge_demo import Classifier, UserError, enrolment, prototypes
from edge_demo.pipeline import Pipeline
from edge_demo.sources.frames import Frame
from edge_demo.sources.source import Source
from edge_demo.tflite.metadata import describe, read

FEW = 10


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Digits as files: few/7/... ten of each class to enroll, other/7/... forty to try."""
    root, data = tmp_path_factory.mktemp("pictures"), load_digits()
    levels = np.round(data.images * (255 / 16)).astype(np.uint8)
    for digit in range(10):
        places = np.flatnonzero(data.target == digit)
        for name, some in (("few", places[:FEW]), ("other", places[-40:])):
            (root / name / str(digit)).mkdir(parents=True)
            for i in some:
                Image.fromarray(levels[i]).save(root / name / str(digit) / f"{i}.png")
    return root


@pytest.fixture
def model(telling, tmp_path) -> Path:
    """An int8 file with features and prototypes, to be enrolled in."""
    return Path(shutil.copy(telling / "int8.tflite", tmp_path / "int8.tflite"))


def features(model, folder):
    classifier, found = Classifier(model), []
    for path in sorted(folder.glob("*.png")):
        classifier.classify(path)
        found.append(classifier.extras["features"])
    return np.array(found)


def recalls(model, pictures, digits="0123456789"):
    """Share of the other pictures of each digit that are taken for it."""
    classifier, found = Classifier(model), {}
    for digit in digits:
        paths = list((pictures / "other" / digit).glob("*.png"))
        right = [classifier.classify(path, top=1)[0][0][0] == digit for path in paths]
        found[digit] = np.mean(right)
    return found


# --- the command


def test_a_forgotten_class_is_learnt_again_from_ten_pictures(model, pictures, edge_cli, tmp_path):
    before, original = recalls(model, pictures), model.read_bytes()
    done = edge_cli("enroll", model, "--forget", "7")
    enrolled = tmp_path / "int8.enrolled.tflite"
    assert (done.code, done.out) == (0, f"forgot 7\n{enrolled}: 9 classes\n")
    assert "7" not in Classifier(enrolled).labels
    assert recalls(enrolled, pictures, "7") == {"7": 0}
    done = edge_cli("enroll", enrolled, "--label", " 7 up ", "--source", pictures / "few/7")
    assert done.code == 0 and done.err == ""
    assert done.out.startswith("added 7 up from 10 pictures; each left out, ")
    assert done.out.splitlines()[1] == f"{enrolled}: 10 classes"
    after = recalls(enrolled, pictures)
    assert after["7"] >= 0.7
    others = [after[digit] for digit in "012345689"]
    assert np.mean(others) > np.mean([before[digit] for digit in "012345689"]) - 0.1
    assert model.read_bytes() == original  # what it was made from
    lines = edge_cli(enrolled, "--source", pictures / "other/7", "--json", "--top", "10").out
    results = [json.loads(line) for line in lines.splitlines()]
    assert np.mean([r["label"] == "7 up" for r in results]) == after["7"]
    assert sum(item["score"] for item in results[0]["top"]) == pytest.approx(1, abs=1e-4)


def test_only_the_zip_is_another_and_the_figures_of_the_old_head_are_gone(
    model, pictures, edge_cli, split_model, tmp_path, tfvit_cli
):
    out = tmp_path / "new.tflite"
    done = edge_cli(
        *("enroll", model, "--label", "x", "--source", pictures / "few/1", "--out", out)
    )
    assert done.code == 0, done.err
    (graph, labels, text), (old_graph, old_labels, old) = split_model(out), split_model(model)
    assert graph == old_graph and labels == old_labels == "".join(f"{i}\n" for i in range(10))
    text, old = json.loads(text), json.loads(old)
    assert old["prototypes"]["decide"] is False and text["prototypes"]["decide"] is True
    assert "accuracy" in old and "accuracy" not in text
    assert {**old, "accuracy": 0, "prototypes": 0} == {**text, "accuracy": 0, "prototypes": 0}
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        means = np.load(io.BytesIO(archive.read("prototypes.npy")), allow_pickle=False)
    assert means.dtype == np.float32 and means.shape == (11, 48)
    assert tfvit_cli("info", out, "--json", tmp_path / "info.json").code == 0
    assert json.loads((tmp_path / "info.json").read_text())["labels"] == [*"0123456789", "x"]


def test_a_corrected_class_is_half_of_what_it_was_and_half_of_ten_pictures(
    model, pictures, edge_cli, tmp_path
):
    out = tmp_path / "int8.enrolled.tflite"
    done = edge_cli("enroll", model, "--label", "3", "--source", pictures / "few/8")
    assert done.code == 0 and done.out.startswith("corrected 3 from 10 pictures")
    before, after = read(model).prototypes, read(out).prototypes
    assert after.labels == before.labels and after.scale == before.scale
    new = normalize(features(model, pictures / "few/8"))
    np.testing.assert_allclose(
        after.means[3], (10 * before.means[3] + new.sum(axis=0)) / 20, atol=1e-5
    )
    assert before.counts[3] == 100 and after.counts[3] == 20
    kept = [i for i in range(10) if i != 3]
    assert np.array_equal(after.means[kept], before.means[kept])


def test_it_is_the_nearest_centroid_of_scikit_learn(model, pictures):
    known, examples, labels = prototypes.none(48), [], []
    for digit in "0123456789":
        found = features(model, pictures / "few" / digit)
        known = known.enrolled(digit, found)
        examples.append(found)
        labels += [digit] * len(found)
    nearest = NearestCentroid().fit(normalize(np.concatenate(examples)), labels)
    nearest.centroids_ = normalize(nearest.centroids_)
    describe(model, prototypes=known)
    classifier = Classifier(model)
    expected, chosen = [], []
    for path in sorted(pictures.glob("other/*/*.png")):
        chosen.append(classifier.classify(path, top=1)[0][0])
        expected.append(nearest.predict(normalize(classifier.extras["features"][np.newaxis]))[0])
    assert chosen == expected and len(set(chosen)) == 10


def test_without_prototypes_only_what_is_enrolled_is_known(
    digits_run, pictures, tmp_path, tfvit_cli, edge_cli
):
    done = tfvit_cli("convert", digits_run, "--with-features", "--out", tmp_path)
    assert done.code == 0, done.err
    model, out = tmp_path / "float32.tflite", tmp_path / "float32.enrolled.tflite"
    assert edge_cli("enroll", model, "--forget", "0").code == 2
    done = edge_cli("enroll", model, "--label", "four", "--source", pictures / "few/4")
    assert done.code == 0 and len(done.err.splitlines()) == 1
    assert "exported without --data, so only what is enrolled is known" in done.err
    done = edge_cli("enroll", out, "--label", "5", "--source", pictures / "few/5", "--limit", "4")
    assert done.code == 0 and done.err == "" and "added 5 from 4 pictures" in done.out
    assert Classifier(out).labels == ("four", "5")
    done = edge_cli("enroll", out, "--forget", " four ")  # as --label would be taken
    assert (done.code, done.out) == (0, f"forgot four\n{out}: 1 classes\n")
    done = edge_cli("enroll", out, "--forget", "5")
    assert done.code == 2 and "is the only class" in done.err


def test_a_picture_that_cannot_be_read_is_named_and_skipped(model, pictures, edge_cli, tmp_path):
    folder = shutil.copytree(pictures / "few/2", tmp_path / "two")
    (folder / "text.png").write_text("these are not pixels")
    done = edge_cli("enroll", model, "--label", "two", "--source", folder)
    assert done.code == 0 and "added two from 10 pictures" in done.out
    assert done.err.count("\n") == 1 and "skipped" in done.err and "text.png" in done.err


PROGRAM = """
import sys
from edge_demo.cli import main
main(sys.argv[1:], standalone_mode=False)
print(sorted({"tensorflow", "tf_keras", "tfvit", "convert"} & sys.modules.keys()))
"""


def test_a_device_needs_no_tensorflow_for_it(model, pictures):
    arguments = ("enroll", model, "--label", "x", "--source", pictures / "few/1/")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# --- what ends with one line

BAD = {
    "no features": (("{plain}", "--label", "x", "--source", "{few}"), "tells no features"),
    "no pictures": (("{model}", "--label", "x", "--source", "{empty}"), "no images"),
    "no source": (("{model}", "--label", "x", "--source", "{empty}/x"), "no such file"),
    "no picture": (("{model}", "--label", "x", "--source", "{model}"), "not a JPEG"),
    "empty label": (("{model}", "--label", "", "--source", "{few}"), "some text in one line"),
    "blank label": (("{model}", "--label", "  ", "--source", "{few}"), "some text in one line"),
    "no label's name": (("{model}", "--label", " unknown", "--source", "{few}"), "another label"),
    "two lines": (("{model}", "--label", "a\nb", "--source", "{few}"), "some text in one line"),
    "unknown": (("{model}", "--forget", "x"), "no class 'x' to forget; there are 0, 1, 2"),
    "nothing": (("{model}",), "needs --label and --source, or --forget alone"),
    "no label": (("{model}", "--source", "{few}"), "needs --label and --source"),
    "both": (("{model}", "--label", "x", "--source", "{few}", "--forget", "1"), "or --forget"),
    "there already": (("{model}", "--forget", "1", "--out", "{plain}"), "is there already"),
    "no folder": (("{model}", "--forget", "1", "--out", "{plain}/x"), "not written"),
    "no model": (("{empty}/x.tflite", "--forget", "1"), "No such file"),
    "several labels": (("{several}", "--forget", "1"), "gives several labels a picture"),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_writes_nothing(
    arguments, message, model, exported, pictures, tmp_path, edge_cli
):
    plain = shutil.copy(exported / "int8.tflite", tmp_path / "plain.tflite")
    several = shutil.copy(model, tmp_path / "several.tflite")
    describe(Path(several), scores="sigmoid")
    (tmp_path / "empty").mkdir()
    names = {"model": model, "plain": plain, "several": several, "few": pictures / "few/1"}
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()}
    done = edge_cli("enroll", *[a.format(**names, empty=tmp_path / "empty") for a in arguments])
    assert done.code == 2 and message in done.err, done.err
    assert len(done.err.splitlines()) == 1
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.iterdir()} == before


def array_file(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


GOOD = np.ones((10, 48), np.float32)
DAMAGED = {
    "not there": None,
    "no array": b"these are no numbers",
    "another length": array_file(GOOD[:, :5]),
    "another number": array_file(GOOD[:9]),
    "double": array_file(GOOD.astype(np.float64)),
    "not a number": array_file(GOOD * np.float32("nan")),
    "objects": array_file(np.array([{}] * 10)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_prototypes_are_one_line(
    content, model, edge_cli, split_model, join_model, tmp_path
):
    assert edge_cli("enroll", model, "--forget", "7", "--out", tmp_path / "x.tflite").code == 0
    graph, labels, text = split_model(tmp_path / "x.tflite")
    inside = json.loads(text)
    inside["prototypes"] |= {"labels": [*"0123456789"], "counts": [1] * 10}
    files = {"labels.txt": labels, "tfvit.json": json.dumps(inside)}
    (tmp_path / "y.tflite").write_bytes(
        join_model(graph, files | ({} if content is None else {"prototypes.npy": content}))
    )
    with pytest.raises(UserError, match=r"y\.tflite: .*export it") as error:
        Classifier(tmp_path / "y.tflite")
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_old_file(model, edge_cli, monkeypatch, tmp_path):
    assert edge_cli("enroll", model, "--forget", "7").code == 0
    enrolled = tmp_path / "int8.enrolled.tflite"
    before = enrolled.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    done = edge_cli("enroll", enrolled, "--forget", "6")
    assert done.code == 2 and "not written (No space left on device)" in done.err
    assert enrolled.read_bytes() == before


# --- its parts


def test_of_a_live_source_ten_pictures_are_taken(model):
    frames = (Frame(np.full((8, 8, 3), n % 256, np.uint8), "0", n, 0.0) for n in itertools.count())
    pipeline = Pipeline(Classifier(model))
    source = Source(frames, is_live=True, at_hand=False)
    assert enrolment.features(pipeline, source, 3, None, print).shape == (10, 48)
    assert next(frames).number == 28  # of every three, the first
    assert enrolment.features(pipeline, source, 1, 4, print).shape == (4, 48)


@pytest.fixture(scope="module")
def examples():
    """Features of three classes that overlap, [60, 6], and the class of each."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 20)
    return (np.eye(6)[classes] + rng.normal(0, 0.6, (60, 6))).astype(np.float32) * 3, classes


def test_leaving_out_is_as_if_an_example_had_never_been_there(examples):
    found, classes = examples
    known = prototypes.none(6)
    for number in range(3):
        known = known.enrolled(str(number), found[classes == number])
    cosines = prototypes.left_out(known, found, classes)
    for i in (0, 25, 59):
        rest = np.arange(60) != i
        for number in range(3):
            mean = normalize(found[rest & (classes == number)]).mean(axis=0)
            expected = mean @ found[i] / np.linalg.norm(mean) / np.linalg.norm(found[i])
            assert cosines[i, number] == pytest.approx(expected, abs=1e-5)


def test_the_scale_is_the_most_likely_one(examples):
    found, classes = examples
    cosines = normalize(found) @ np.eye(6)[:3].T
    best = minimize_scalar(
        lambda s: -log_softmax(s * cosines, axis=1)[np.arange(60), classes].mean(),
        bounds=prototypes.SCALES,
        method="bounded",
        options={"xatol": 1e-6},
    )
    assert prototypes.fitted_scale(cosines, classes) == pytest.approx(best.x, rel=1e-3)
    apart = np.eye(3)[classes]
    assert prototypes.fitted_scale(apart, classes) == pytest.approx(prototypes.SCALES[1])
