from __future__ import annotations

import numpy as np
import pytest
import tensorflow_datasets as tfds

from edge_demo import images
from edge_demo.preprocess import PreprocessSpec
from tfvit import UserError
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.data.augment import Augmentation

MOCKED = 20  # examples of each split
OBJECTS = "airplane automobile bird cat deer dog frog horse ship truck"
SETS = {  # name: (labels, size of its pictures)
    "cifar10": (OBJECTS.split(), (32, 32)),
    "mnist": (list("0123456789"), (28, 28)),
}


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    """What TFDS keeps about prepared sets, for those of SETS: labels and splits, no examples."""
    root = tmp_path_factory.mktemp("tfds")
    for name, (labels, _) in SETS.items():
        builder = tfds.builder(name, data_dir=root)
        builder.info.features["label"].names = labels
        template = tfds.core.ShardedFileTemplate(
            data_dir=builder.data_path, dataset_name=name, filetype_suffix="tfrecord"
        )
        builder.info.set_splits(
            tfds.core.splits.SplitDict(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[MOCKED],
                    num_bytes=0,
                    filename_template=template.replace(split=split),
                )
                for split in ("train", "test")
            )
        )
        builder.data_path.mkdir(parents=True)
        builder.info.write_to_directory(builder.data_path)
    return root


@pytest.fixture
def mocked(metadata):
    """TFDS with random pictures."""
    with tfds.testing.mock_data(num_examples=MOCKED, data_dir=str(metadata)):
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A set that TFDS itself has written to disk: "tfds:grey_levels", 30 and 7 pictures, every one
    of another grey level; even ones are "even"."""
    features = tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(shape=(None, None, 3)),
            "parity": tfds.features.ClassLabel(names=["even", "odd"]),
        }
    )

    class GreyLevels(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            keys = ("picture", "parity")
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=keys)

        def _split_generators(self, _):
            return {
                "train": self._generate_examples(0, 30),
                "test": self._generate_examples(30, 37),
            }

        def _generate_examples(self, first, end):
            for level in range(first, end):
                yield level, {"picture": np.full((6, 5, 3), level, np.uint8), "parity": level % 2}

    root = tmp_path_factory.mktemp("prepared")
    GreyLevels(data_dir=root).download_and_prepare()
    tfds.core.add_data_dir(root)
    yield "tfds:grey_levels"
    tfds.core.utils.file_utils.clear_registered_data_dirs()


def level(example):
    picture = np.asarray(images.decode(example["data"], example["name"].decode()))
    assert (picture == picture[0, 0, 0]).all()
    return int(picture[0, 0, 0])


def levels(stream, count=None):
    return [level(e) for e in (stream.take(count) if count else stream).as_numpy_iterator()]


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_its_labels_splits_and_pictures(mocked, name):
    labels, size = SETS[name]
    source = open_source(DataOptions(f"tfds:{name}"))
    assert source.labels == tuple(labels)
    assert (source.train.name, source.train.size) == ("train", MOCKED)
    assert (source.eval.name, source.eval.size) == ("test", MOCKED)
    found = list(source.eval.in_order().as_numpy_iterator())
    assert [e["index"] for e in found] == list(range(MOCKED))
    assert len({e["name"] for e in found}) == MOCKED
    for example in found:
        picture = images.decode(example["data"], example["name"].decode())
        assert picture.size == size
        assert 0 <= example["label"] < 10


def test_split_expressions_divide_a_set(prepared):
    source = open_source(DataOptions(prepared, train_split="train[:60%]", eval_split="train[60%:]"))
    assert source.labels == ("even", "odd")
    assert (source.train.size, source.eval.size) == (18, 12)
    parts = levels(source.train.in_order()), levels(source.eval.in_order())
    assert sorted(parts[0] + parts[1]) == list(range(30))
    assert (len(parts[0]), len(parts[1])) == (18, 12)
    for split in (source.train, source.eval):
        for example in split.in_order().as_numpy_iterator():
            assert example["label"] == level(example) % 2


def test_without_expressions_train_and_test_are_taken(prepared):
    source = open_source(DataOptions(prepared), prefer="val")
    assert sorted(levels(source.train.in_order())) == list(range(30))
    assert sorted(levels(source.eval.in_order())) == list(range(30, 37))


def test_a_fraction_is_the_first_part_of_each_split_that_is_added(prepared):
    options = DataOptions(prepared, fraction=0.2, train_split="train[:50%]+test", eval_split="test")
    source = open_source(options)
    assert source.train.size == 4 and source.eval.size == 7
    whole = open_source(DataOptions(prepared, eval_split="test"))
    of_train = levels(whole.train.in_order())[:3]
    assert levels(source.train.in_order()) == of_train + levels(whole.eval.in_order())[:1]
    assert sorted(levels(source.train.shuffled(0, 0), 4)) == sorted(levels(source.train.in_order()))


def test_every_pass_of_the_shuffled_stream_is_a_permutation_of_its_own(prepared):
    split = open_source(DataOptions(prepared)).train
    stream = levels(split.shuffled(3, 0), 90)
    passes = [stream[i : i + 30] for i in (0, 30, 60)]
    assert all(sorted(one) == list(range(30)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    assert levels(split.shuffled(3, 0), 90) == stream
    assert levels(split.shuffled(4, 0), 90) != stream


@pytest.mark.parametrize("start", [17, 30, 75])
def test_the_shuffled_stream_goes_on_where_it_was_left(prepared, start):
    split = open_source(DataOptions(prepared)).train
    whole = list(split.shuffled(3, 0).take(90).as_numpy_iterator())
    rest = list(split.shuffled(3, start).take(90 - start).as_numpy_iterator())
    assert rest == whole[start:]
    assert [e["index"] for e in rest] == list(range(start, 90))


def test_the_mocked_stream_goes_on_where_it_was_left_too(mocked):
    split = open_source(DataOptions("tfds:mnist")).train
    whole = [e["data"] for e in split.shuffled(0, 0).take(50).as_numpy_iterator()]
    assert sorted(whole[:20]) == sorted(whole[20:40])
    assert [e["data"] for e in split.shuffled(0, 27).take(23).as_numpy_iterator()] == whole[27:]


def test_a_picture_has_one_name_in_order_and_shuffled(prepared):
    split = open_source(DataOptions(prepared)).train
    in_order = {level(e): e["name"] for e in split.in_order().as_numpy_iterator()}
    for example in split.shuffled(0, 0).take(45).as_numpy_iterator():
        assert example["name"] == in_order[level(example)]


def test_batches_of_a_set_are_its_pictures(prepared):
    source, spec = open_source(DataOptions(prepared)), PreprocessSpec(4, 4)
    unreadable = {}
    held = list(pipeline.eval_batches(source.eval, spec, 4, unreadable=unreadable))
    assert np.concatenate([b["mask"] for b in held]).tolist() == [1] * 7 + [0]
    seen = np.concatenate([b["pixels"] for b in held])[:7]
    assert sorted(seen[:, 0, 0, 0]) == list(range(30, 37))
    batches = pipeline.train_batches(
        source.train,
        spec,
        10,
        augmentation=Augmentation(),
        seed=0,
        start_step=0,
        unreadable=unreadable,
    )
    pixels = np.concatenate([b["pixels"] for b in batches.take(3)])
    assert sorted(pixels[:, 0, 0, 0]) == list(range(30))
    assert not unreadable


ERRORS = {
    "unknown name": ("tfds:mnst", {}, ["tfds:mnst", "did you mean tfds:mnist?"]),
    "name like nothing": ("tfds:zqzqzqzq", {}, ["tfds:zqzqzqzq", "no such"]),
    "no name": ("tfds:", {}, ["tfds:"]),
    "unknown config": ("tfds:cifar10_corrupted:nope", {}, ["tfds:cifar10_corrupted:nope"]),
    "config of a set without": ("tfds:mnist:nope", {}, ["tfds:mnist:nope", "nope"]),
    "no labels": ("tfds:div2k", {}, ["tfds:div2k", "one label or several"]),
    "attributes": ("tfds:celeb_a", {}, ["one label or several", "pretrain takes its pictures"]),
    "no pictures": ("tfds:imdb_reviews", {}, ["tfds:imdb_reviews", "image"]),
    "a share": ("tfds:mnist", {"holdout": 0.1}, ["--split", "--train-split 'train[:90%]'"]),
    "unknown split": ("tfds:mnist", {"eval_split": "tset"}, ["tfds:mnist", "'tset'", "train"]),
    "unknown training split": ("tfds:mnist", {"train_split": "tarin"}, ["'tarin'", "test"]),
    "broken expression": ("tfds:mnist", {"train_split": "train[:60%"}, ["'train[:60%'"]),
    "empty expression": ("tfds:mnist", {"train_split": "train[:0]"}, ["'train[:0]'", "empty"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_set_that_cannot_be_used_is_one_line_that_names_it(mocked, case):
    data, options, parts = ERRORS[case]
    with pytest.raises(UserError) as caught:
        open_source(DataOptions(data, **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["tfds:div2k", "tfds:imdb_reviews"])
def test_without_labels_there_must_be_one_picture_as_well(mocked, name):
    with pytest.raises(UserError, match=f"^{name}: not a set of one image each$"):
        open_source(DataOptions(name), labelled=False)
