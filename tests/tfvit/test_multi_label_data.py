"""Pictures with any number of labels: labels.csv, and sets of TFDS."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from edge_demo.preprocess import PreprocessSpec
from tfvit import UserError
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.data.augment import Augmentation


def labels_by_name(split):
    """The last part of each picture's name -> its row of zeros and ones."""
    found = {}
    for example in split.in_order().as_numpy_iterator():
        assert example["label"].dtype == np.float32
        found[example["name"].decode().rpartition("/")[2]] = example["label"].tolist()
    return found


def test_a_folder_has_the_labels_of_its_file(labelled_photos):
    source = open_source(DataOptions(str(labelled_photos)))
    assert source.multi_label and source.labels == ("china", "dark", "flower")
    assert (source.train.size, source.eval.size) == (40, 16)
    assert source.train.counts == (20, 20, 20)
    found = labels_by_name(source.eval)
    assert found == {f"{i:02d}.png": [i & 1, i >> 2 & 1, i >> 1 & 1] for i in range(16)}
    shuffled = source.train.shuffled(0, 0).take(40).as_numpy_iterator()
    again = {e["name"].decode().rpartition("/")[2]: e["label"].tolist() for e in shuffled}
    assert again == labels_by_name(source.train)


def test_batches_hold_them(labelled_photos):
    source, spec = open_source(DataOptions(str(labelled_photos))), PreprocessSpec(8, 8)
    held = list(pipeline.eval_batches(source.eval, spec, 12, unreadable={}))
    assert [batch["label"].shape for batch in held] == [(12, 3)] * 2
    assert not held[1]["label"][4:].numpy().any()  # the filling
    batches = pipeline.train_batches(
        *(source.train, spec, 8), augmentation=Augmentation(), seed=0, start_step=0, unreadable={}
    )
    assert batches.element_spec["label"].shape == (8, 3)
    found = np.concatenate([batch["label"] for batch in batches.take(5)])
    assert found.sum(axis=0).tolist() == [20, 20, 20]


@pytest.fixture
def folder(labelled_photos, tmp_path):
    """folder("a.png,x\\n"): eight pictures 0.png to 7.png below `all`, with this labels.csv."""

    def make(text, below="all"):
        root = tmp_path / below
        (root / "deep").mkdir(parents=True)
        for i in range(8):
            shutil.copy(labelled_photos / f"test/{i:02d}.png", root / f"{i}.png")
        shutil.copy(root / "7.png", root / "deep/photo.png")
        (root / "labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return make


ROWS = "".join(f"{i}.png,a;b\n" for i in range(7))


def test_a_share_of_one_file_is_held_out(folder):
    root = folder(f"file_name,labels\n{ROWS}deep/photo.png,\n")
    source = open_source(DataOptions(str(root), holdout=0.4))
    assert source.multi_label and source.labels == ("a", "b")
    parts = [labels_by_name(split) for split in (source.train, source.eval)]
    assert all(parts) and not parts[0].keys() & parts[1].keys()
    expected = {f"{i}.png": [1.0, 1.0] for i in range(7)} | {"photo.png": [0.0, 0.0]}
    assert parts[0] | parts[1] == expected


def test_what_a_spreadsheet_writes_is_read(folder):
    text = '\ufefffile_name,labels\r\n"0.png"," a b ;c,d;c,d;"\r\n\r\n1.png,\r\n'
    root = folder(text, "all/test").parent
    source = open_source(DataOptions(str(root)))
    assert source.labels == ("a b", "c,d") and source.train is None
    assert labels_by_name(source.eval) == {"0.png": [1, 1], "1.png": [0, 0]}


ERRORS = {
    "no header": ("0.png,a\n", ["labels.csv", "'0.png,a'", "file_name,labels"]),
    "nothing": ("", ["the first line is missing"]),
    "only a header": ("file_name,labels\n", ["no pictures"]),
    "a name too long": (f"file_name,labels\n{'x' * 300}.png,a\n", ["line 2", "no such file"]),
    "a third column": ("file_name,labels\n0.png,a,b\n", ["line 2", "3 columns instead of 2"]),
    "one column": ("file_name,labels\n0.png\n", ["line 2", "1 columns"]),
    "no such picture": ("file_name,labels\n0.png,a\n9.png,a\n", ["line 3", "'9.png'"]),
    "no picture": ("file_name,labels\nlabels.csv,a\n", ["line 2", "not an image", ".jpg"]),
    "twice": ("file_name,labels\n0.png,a\n1.png,a\n0.png,b\n", ["line 4", "line 2"]),
    "a line break": ('file_name,labels\n0.png,"a\nb"\n1.png,c\n', ["class 'a\\nb'", "printed"]),
    "no labels": ("file_name,labels\n0.png,\n1.png, ; \n", ["no picture has a label"]),
    "not text": (b"file_name,labels\n\xff\xfe.png,a\n", ["not a CSV file in UTF-8"]),
    "an open quote": ('file_name,labels\n"0.png,a\n', ["not a CSV file"]),
    "a rare label": ("file_name,labels\n0.png,a\n1.png,b\n", ["no image falls into"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_file_that_cannot_be_used_is_one_line(folder, case):
    text, parts = ERRORS[case]
    refused(folder(text), parts, holdout=0.999)


def refused(root, parts, **options):
    with pytest.raises(UserError) as caught:
        open_source(DataOptions(str(root), **options))
    message = str(caught.value)
    assert "\n" not in message and str(root) in message
    for part in parts:
        assert part in message


def test_held_out_pictures_have_labels_of_the_training_ones(folder):
    folder("file_name,labels\n0.png,a;b\n", "both/train")
    root = folder("file_name,labels\n0.png,a\n1.png,z\n", "both/test").parent
    refused(root, ["test/labels.csv, line 3", "'z'", "a, b"])


@pytest.mark.parametrize("at_the_root", [True, False])
def test_each_split_has_a_file_of_its_own(folder, at_the_root):
    folder("file_name,labels\n0.png,a\n", "both/train")
    root = folder("file_name,labels\n0.png,a\n", "both/test").parent
    (root / "test/labels.csv").unlink()
    if at_the_root:
        (root / "train/labels.csv").rename(root / "labels.csv")
    refused(root, [f"{'train' if at_the_root else 'test'}: no labels.csv inside"])


# TFDS

OBJECT = tfds.features.ClassLabel(names=["cat", "dog", "bird"])
POSE = tfds.features.ClassLabel(names=["left", "right"])
OBJECTS = tfds.features.Sequence({"label": OBJECT, "pose": POSE, "area": np.int64})
FEATURES = {
    "pictures": {"objects": OBJECTS, "labels": tfds.features.Sequence(OBJECT)},
    "objects": {"objects": OBJECTS},
}
CONTENT = [[], [0], [2, 0], [1, 1, 2]]  # objects of the four pictures


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two sets that TFDS itself has written to disk, like VOC and like COCO."""
    root = tmp_path_factory.mktemp("tfds")

    def generate(kind):
        for i, numbers in enumerate(CONTENT):
            objects = [{"label": n, "pose": 0, "area": 5} for n in numbers]
            example = {"image": np.full((6, 5, 3), i, np.uint8), "objects": objects}
            yield i, example | ({"labels": sorted(set(numbers))} if kind == "pictures" else {})

    class Several(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=kind) for kind in FEATURES]

        def _info(self):
            of_kind = FEATURES[self.builder_config.name]
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(), **of_kind})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {name: self._generate_examples() for name in ("train", "test")}

        def _generate_examples(self):
            yield from generate(self.builder_config.name)

    for kind in FEATURES:
        Several(config=kind, data_dir=root).download_and_prepare()
    tfds.core.add_data_dir(root)
    yield
    tfds.core.utils.file_utils.clear_registered_data_dirs()


@pytest.mark.parametrize("kind", FEATURES)
def test_a_set_with_several_labels_a_picture_has_them(stored, kind):
    source = open_source(DataOptions(f"tfds:several:{kind}"))
    assert source.multi_label and source.labels == ("cat", "dog", "bird")
    expected = sorted([n in numbers for n in range(3)] for numbers in CONTENT)
    assert sorted(labels_by_name(source.eval).values()) == expected
    shuffled = source.train.shuffled(0, 2).take(6).as_numpy_iterator()
    assert sorted(e["label"].tolist() for e in list(shuffled)[2:]) == expected
