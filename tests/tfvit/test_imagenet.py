"""ImageNet's other test sets, prepared by TFDS's own code from small archives, and the ReaL labels."""

from __future__ import annotations

import dataclasses
import json
import tarfile
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from small_models import labelled

import tfvit
from edge_demo.images import read_rgb
from edge_demo.preprocess import normalise, to_pixels
from tfvit import UserError
from tfvit.data import DataOptions, imagenet, open_source
from tfvit.evaluate import real

SYNSETS = tuple(tfds.core.tfds_path("datasets/imagenet2012/labels.txt").read_text().split())
TRUTH = tfds.core.tfds_path("datasets/imagenet2012/validation_labels.txt").read_text().split()
NUMBERS = tuple(map(str, range(1000)))
WORDS = (
    "tench, Tinca tinca",
    *(f"thing {i}" for i in range(1, 999)),
    "toilet tissue, toilet paper",
)
EVERY = tuple(range(1000))
SETS = {  # name: (classes, the folder of one by its number)
    "imagenet_a": (imagenet.SUBSETS["imagenet_a"], SYNSETS.__getitem__),
    "imagenet_r": (imagenet.SUBSETS["imagenet_r"], SYNSETS.__getitem__),
    "imagenet_sketch": (EVERY, SYNSETS.__getitem__),
    "imagenet_v2": (EVERY, str),
}
TOP = {  # what is at the top of their archives
    "imagenet_a": "imagenet-a",
    "imagenet_r": "imagenet-r",
    "imagenet_sketch": "sketch",
    "imagenet_v2": "imagenetv2-matched-frequency-format-val",
}


@pytest.fixture(scope="module")
def files(photos):
    """Eight photos."""
    return sorted((photos / "test").rglob("0[0-3].jpg"))


@pytest.fixture(scope="module")
def model():
    return labelled(NUMBERS, (32, 32), depth=1)


@pytest.fixture(scope="module")
def logits(model, files):
    pixels = np.array([to_pixels(read_rgb(path), model.preprocess) for path in files])
    return model(normalise(pixels, model.preprocess)).numpy()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """saved(labels): a checkpoint of the model, whose weights are always the same, with these classes."""
    root = tmp_path_factory.mktemp("models")

    def save(labels):
        folder = root / f"{labels[0]}-{labels[-1]}"
        if not folder.exists():
            tfvit.save(labelled(labels, (32, 32), depth=1), folder)
        return folder

    return save


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, files, logits):
    """The sets as TFDS makes them of archives of the photos; returns the class of each photo in each set.

    Every other one lies in the class that the model finds among those of the set, the rest in others.
    """
    root = tmp_path_factory.mktemp("archives")
    found = {}
    for name, (classes, folder) in SETS.items():
        best = np.array(classes)[logits[:, classes].argmax(axis=1)].tolist()
        found[name] = [
            n if i % 2 == 0 else classes[(classes.index(n) + 7) % len(classes)]
            for i, n in enumerate(best)
        ]
        for i, (path, number) in enumerate(zip(files, found[name], strict=True)):
            copy = root / name / TOP[name] / folder(number) / f"{i}.JPEG"
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    with tarfile.open(root / "sketch.tar", "w") as archive:
        archive.add(root / "imagenet_sketch/sketch", "sketch")
    with pytest.MonkeyPatch.context() as patch:
        manager = tfds.download.DownloadManager
        patch.setattr(manager, "download", lambda *_: root / "sketch.tar")
        for name in SETS:
            patch.setattr(manager, "download_and_extract", lambda *_, name=name: root / name)
            tfds.builder(name).download_and_prepare()
    return found


@pytest.fixture(scope="module")
def validation(tmp_path_factory, files):
    """ImageNet's validation set as TFDS makes it of an archive: the photos are its first pictures."""
    manual = tfds.core.constants.DATA_DIR + "/downloads/manual"
    tfds.core.Path(manual).mkdir(parents=True, exist_ok=True)
    with tarfile.open(manual + "/ILSVRC2012_img_val.tar", "w") as archive:
        for i, path in enumerate(files, 1):
            archive.add(path, f"ILSVRC2012_val_{i:08d}.JPEG")
    return "tfds:imagenet2012"


def evaluate(tfvit_cli, tmp_path, *args):
    done = tfvit_cli("eval", *args, "--json", tmp_path / "x.json")
    assert done.code == 0, done.err
    return done, json.loads((tmp_path / "x.json").read_text())


def test_the_sets_of_200_classes():
    assert imagenet.synsets() == SYNSETS
    assert set(imagenet.SUBSETS) == {"imagenet_a", "imagenet_r"}
    sums = {}  # CRC-32 of the numbers in their authors' eval.py
    for name, classes in imagenet.SUBSETS.items():
        assert len(set(classes)) == 200 and list(classes) == sorted(classes)
        sums[name] = zlib.crc32(" ".join(map(str, classes)).encode())
    assert sums == {"imagenet_a": 4075369000, "imagenet_r": 3857101408}
    ends = {name: [SYNSETS[c[0]], SYNSETS[c[-1]]] for name, c in imagenet.SUBSETS.items()}
    assert ends == {
        "imagenet_a": ["n01498041", "n12267677"],  # stingray, acorn
        "imagenet_r": ["n01443537", "n12267677"],  # goldfish, acorn
    }


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_answered_by_its_classes_alone(name, prepared, saved, logits, tfvit_cli, tmp_path):
    classes = np.array(SETS[name][0])
    truth = np.array(prepared[name])
    stored = [
        evaluate(tfvit_cli, tmp_path, saved(labels), "--data", f"tfds:{name}")[1]
        for labels in ((NUMBERS, SYNSETS, WORDS) if name == "imagenet_a" else (NUMBERS,))
    ]
    for scores in stored:
        assert (scores["images"], scores["top1"]) == (8, 0.5)
        among = logits[:, classes].astype(float)
        own = among[np.arange(8), np.searchsorted(classes, truth)]
        losses = np.log(np.exp(among - own[:, np.newaxis]).sum(axis=1))
        assert scores["loss"] == pytest.approx(losses.mean(), rel=1e-4)
        assert len(scores["confusion"]) == len(scores["per_class"]) == len(classes)
    assert list(stored[0]["per_class"]) == [NUMBERS[number] for number in classes]


def test_a_folder_of_some_of_the_classes_is_answered_by_these(
    files, saved, logits, tfvit_cli, tmp_path
):
    classes = np.arange(3, 1000, 130)
    for path, number in zip(files, classes, strict=True):
        copy = tmp_path / "photos/test" / SYNSETS[number] / path.name
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
    among = logits[:, classes].astype(float)
    losses = np.log(np.exp(among - np.diag(among)[:, np.newaxis]).sum(axis=1))
    for labels in (NUMBERS, SYNSETS, WORDS):
        _, stored = evaluate(tfvit_cli, tmp_path, saved(labels), "--data", tmp_path / "photos")
        assert stored["loss"] == pytest.approx(losses.mean(), rel=1e-4)
        assert stored["top1"] == np.mean(among.argmax(axis=1) == np.arange(8))
        assert len(stored["confusion"]) == len(stored["per_class"]) == 8
    few = saved(tuple(SYNSETS[number] for number in (0, *classes, 1)))  # of another task
    _, stored = evaluate(tfvit_cli, tmp_path, few, "--data", tmp_path / "photos")
    assert len(stored["confusion"]) == 10


def test_corruptions_of_a_set_are_answered_by_its_classes_too(prepared, saved, tfvit_cli, tmp_path):
    options = ("--data", "tfds:imagenet_r", "--corruptions", "contrast")
    _, stored = evaluate(tfvit_cli, tmp_path, saved(NUMBERS), *options)
    assert [entry["clean"] for entry in stored["models"].values()] == [0.5]


def test_real_labels(validation, saved, logits, tfvit_cli, tmp_path):
    best = logits.argmax(axis=1).tolist()
    deserved = [[best[0]], [3, best[1]], [], [(best[3] + 1) % 1000], [], [], [7], [8]]
    deserved[6:] = [[(n + 5) % 1000] for n in best[6:]]
    (tmp_path / "real.json").write_text(json.dumps(deserved))
    for labels in (NUMBERS, SYNSETS):
        done, stored = evaluate(
            *(tfvit_cli, tmp_path, saved(labels), "--data", validation),
            *("--real-labels", tmp_path / "real.json"),
        )
        assert stored["real"] == {"images": 5, "top1": 2 / 5}
        assert "ReaL 40.00 % of 5" in done.out
        own = [SYNSETS.index(synset) for synset in TRUTH[:8]]
        assert stored["top1"] == np.mean(np.array(best) == own)


BAD = {
    "nothing": (None, "real.json"),
    "no JSON": ("[[1], [", "damaged"),
    "not a list": ('{"a": [1]}', "list of lists"),
    "not lists": ("[1, 2]", "list of lists"),
    "no classes": ('[["cat"]]', "list of lists"),
    "too large": ("[[1000]]", "list of lists"),
    "too few": ("[[1], [2]]", "ILSVRC2012_val_00000001.JPEG to 00000002"),
    "no labels": (json.dumps([[]] * 8), "none of its images has a ReaL label"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_real_labels_are_one_line(case, validation, saved, tfvit_cli, tmp_path):
    content, reason = BAD[case]
    if content is not None:
        (tmp_path / "real.json").write_text(content)
    options = ("--real-labels", tmp_path / "real.json")
    _refused(tfvit_cli("eval", saved(NUMBERS), "--data", validation, *options), reason)


def test_real_labels_of_other_sets_are_refused(prepared, photos, saved, tfvit_cli, tmp_path):
    (tmp_path / "real.json").write_text(json.dumps([[1]] * 8))
    options = ("--real-labels", tmp_path / "real.json")
    for data, reason in (
        (photos, "not ImageNet's 1,000"),
        ("tfds:imagenet_v2", "not called ILSVRC2012_val_"),
    ):
        _refused(tfvit_cli("eval", saved(NUMBERS), "--data", data, *options), reason)


def test_real_labels_are_of_the_classes_in_their_order(validation):
    source = open_source(DataOptions(validation, eval_split="validation"))
    real.check(source)
    with pytest.raises(UserError, match="not ImageNet's 1,000"):
        real.check(dataclasses.replace(source, labels=source.labels[::-1]))


def test_classes_in_another_order_are_not_taken_for_imagenets(prepared, saved, tfvit_cli):
    for labels in (NUMBERS[::-1], WORDS[::-1], (*NUMBERS, "1000")):
        done = tfvit_cli("eval", saved(labels), "--data", "tfds:imagenet_a")
        _refused(done, "does not know the class 'n01440764'")


def _refused(done, reason):
    assert done.code == 2 and reason in done.err
    assert "\n" not in done.err.strip()
