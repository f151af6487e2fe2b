"""`tfvit eval --corruptions`: models side by side, against accuracies counted one picture at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from small_models import labelled

import tfvit
from edge_demo import Classifier
from edge_demo.images import read_rgb
from edge_demo.preprocess import normalise, to_pixels
from tfvit.data import DataOptions, open_source
from tfvit.data.source import evenly_spaced
from tfvit.evaluate.corruptions import LEVELS, corrupt
from tfvit.evaluate.robustness import Robustness

LABELS = ("china", "flower")
KINDS = ("gaussian_noise", "contrast")


@pytest.fixture(scope="module")
def models(tmp_path_factory, photos, tfvit_cli):
    """A checkpoint, the float file made of it, and a checkpoint of another input size."""
    root = tmp_path_factory.mktemp("models")
    model = labelled(LABELS, seed=3)
    tfvit.save(model, root / "first")
    tfvit.save(labelled(LABELS, (32, 32), seed=1), root / "second")
    done = tfvit_cli(
        *("convert", root / "first", "--data", photos, "--scheme", "float32"),
        *("--calibrate-only", "--out", root / "out"),
    )
    assert done.code == 0, done.err
    return root / "first", root / "out/float32.tflite", root / "second"


def accuracies(model, photos, kind, seed=0, every=1):
    """Of all levels of a kind, or of clean pictures, [levels]: each picture on its own."""
    if model.suffix:
        spec, logits = (classifier := Classifier(model)).preprocess, classifier.logits
        run = lambda pictures: np.array([logits(pixels) for pixels in pictures])  # noqa: E731
    else:
        loaded = tfvit.load(model)
        spec = loaded.preprocess
        run = lambda pictures: loaded(normalise(pictures, spec)).numpy()  # noqa: E731
    views, truth = [], []
    for place, path in enumerate(sorted((photos / "test").rglob("*.jpg"))[::every]):
        pixels = to_pixels(read_rgb(path), spec)
        levels = [corrupt(pixels, kind, n, (seed, place)) for n in LEVELS] if kind else [pixels]
        views += levels
        truth += len(levels) * [LABELS.index(path.parent.name)]
    hits = run(np.array(views)).argmax(axis=1) == truth
    return hits.reshape(-1, len(levels)).mean(axis=0).tolist()


def run(tfvit_cli, tmp_path, *args):
    done = tfvit_cli("eval", *args, "--json", tmp_path / "x.json")
    assert done.code == 0, done.err
    return done, json.loads((tmp_path / "x.json").read_text())


def test_models_side_by_side(models, photos, tfvit_cli, tmp_path):
    options = ("--data", photos, "--corruptions", ",".join(KINDS), "--seed", "5")
    done, stored = run(tfvit_cli, tmp_path, *models, *options, "--batch-size", "5")
    assert list(stored["models"]) == list(map(str, models)) and stored["images"] == 16
    for model in models:
        entry = stored["models"][str(model)]
        assert [entry["clean"]] == accuracies(model, photos, None)
        assert list(entry["levels"]) == list(KINDS)
        for kind in KINDS:
            assert entry["levels"][kind] == accuracies(model, photos, kind, seed=5)
        assert entry["corrupted"] == pytest.approx(np.mean(list(entry["levels"].values())))
        assert f"{100 * entry['corrupted']:.2f} %" in done.out
    first, file, second = (stored["models"][str(model)] for model in models)
    assert first == file and first != second
    differences = stored["against"]["differences"]
    assert stored["against"]["model"] == str(models[0])
    assert differences[str(models[1])]["corrupted"] == {"mean": 0, "error": 0}
    for which in ("clean", "corrupted"):
        expected = second[which] - first[which]
        assert differences[str(models[2])][which]["mean"] == pytest.approx(expected)
        assert f"{100 * expected:+.2f} ± " in done.out
    for name in ("gaussian noise", "contrast", "mean", "clean"):
        assert f"\n{name} " in done.out


def test_a_part_of_the_images_is_spread_over_the_split(models, photos, tfvit_cli, tmp_path):
    options = ("--data", photos, "--corruptions", "contrast", "--corruption-images", "4")
    _, stored = run(tfvit_cli, tmp_path, *options, models[0])
    assert stored["images"] == 4
    (entry,) = stored["models"].values()
    assert [entry["clean"]] == accuracies(models[0], photos, None, every=4)
    assert entry["levels"]["contrast"] == accuracies(models[0], photos, "contrast", every=4)


@pytest.mark.parametrize("in_any_order", [True, False])
def test_evenly_spaced(photos, in_any_order):
    split = open_source(DataOptions(str(photos))).eval
    names = [example["name"] for example in split.in_order().as_numpy_iterator()]
    if not in_any_order:
        split = type(split)(split.name, split.size, None, split.in_order, split.shuffled)
    for count, places in ((16, range(16)), (5, (0, 3, 6, 9, 12)), (1, (0,))):
        some = evenly_spaced(split, count)
        examples = list(some.in_order().as_numpy_iterator())
        assert some.size == count
        assert [example["name"] for example in examples] == [names[place] for place in places]
        assert [example["index"] for example in examples] == list(range(count))


def test_the_error_of_a_difference_is_that_of_paired_images():
    rng = np.random.default_rng(0)
    first, second = (Robustness(("fog",), rng.random((6, 40)) < share) for share in (0.5, 0.8))
    found = second.against(first)["corrupted"]
    of_image = (second.right[1:].astype(float) - first.right[1:]).mean(axis=0)
    assert found.mean == pytest.approx(second.corrupted - first.corrupted)
    resampled = rng.choice(of_image, (20_000, 40)).mean(axis=1)
    assert found.error == pytest.approx(resampled.std(), rel=0.05)


def test_unreadable_pictures_are_left_out_and_named(models, photos, tfvit_cli, tmp_path):
    copies = {}
    for path in sorted((photos / "test").rglob("0[01].jpg")):
        copies[path] = tmp_path / "photos/test" / path.parent.name / path.name
        copies[path].parent.mkdir(parents=True, exist_ok=True)
        copies[path].write_bytes(path.read_bytes())
    bad = copies[photos / "test/china/00.jpg"]
    bad.write_bytes(b"\xff\xd8\xff nothing")
    options = ("--data", tmp_path / "photos", "--corruptions", "fog")
    done, stored = run(tfvit_cli, tmp_path, models[0], *options)
    assert stored["images"] == 3 and stored["unreadable"] == [str(bad)]
    assert str(bad) in done.err
    strict = tfvit_cli("eval", models[0], *options, "--strict")
    assert strict.code == 2 and str(bad) in strict.err and not strict.out
    for path in copies.values():
        path.write_text("nothing")
    nothing = tfvit_cli("eval", models[0], *options)
    assert nothing.code == 2 and "no readable image" in nothing.err


def test_bad_options_are_one_line(models, photos, labelled_photos, tfvit_cli, tmp_path):
    picture = tmp_path / "x.png"
    cases = {
        ("--corruptions", "rain"): "'rain' is not one of all, gaussian_noise",
        ("--corruption-images", "4"): "are for --corruptions",
        ("--corruptions", "all", "--confusion", picture): "do not go with --corruptions",
        ("--corruptions", "all", "--reliability", picture): "do not go with --corruptions",
    }
    for options, reason in cases.items():
        _refused(tfvit_cli("eval", models[0], "--data", photos, *options), reason)
    _refused(tfvit_cli("eval", *models, "--data", photos), "several models")
    of_no_kind = ("eval", "--data", photos, "--corruptions", *models)
    _refused(tfvit_cli(*of_no_kind), f"'{models[0]}' is not one of all, gaussian_noise")
    several = ("eval", models[0], "--data", labelled_photos, "--corruptions", "all")
    _refused(tfvit_cli(*several), "has several labels a picture")
    assert not picture.exists()


def _refused(done, reason):
    assert done.code == 2 and reason in done.err
    assert "\n" not in done.err.strip()
