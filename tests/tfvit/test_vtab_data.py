"""Every task of VTAB over a set of TFDS's own form: which examples its splits have, and their labels."""

import functools
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from vtab_sets import ARRAY_RECORD, OTHER, TRAIN, number_of, write

from tfvit import UserError
from tfvit.data import DataOptions, open_source, vtab


def bins(edges):
    """The class of a distance: edges[n] is where class n + 1 begins, which it is not part of."""
    return lambda distance: sum(distance > edge for edge in edges)


def clevr_distance(values):
    return bins([8, 8.5, 9, 9.5, 10])(min(o["pixel_coords"][2] for o in values["objects"]))


def kitti_distance(values):
    vehicles = [o["location"][2] for o in values["objects"] if o["type"] in (0, 1, 2)]
    return bins([8, 20])(min(vehicles)) if vehicles else 3


def label(values):
    return values["label"]


VALIDATION, LAST_10, LAST_20 = "validation[:200]", "train[1800:2000]", "train[1600:1800]"
# task: (set of TFDS, number of classes, validation and test of a set of TRAIN examples, its label)
TASKS = {
    "caltech101": ("caltech101", 102, LAST_10, "test", label),
    "cifar100": ("cifar100", 100, LAST_10, "test", label),
    "dtd": ("dtd", 47, VALIDATION, "test", label),
    "flowers102": ("oxford_flowers102", 102, VALIDATION, "test", label),
    "pets": ("oxford_iiit_pet", 37, LAST_20, "test", label),
    "sun397": ("sun397/tfds", 397, VALIDATION, "test", label),
    "svhn": ("svhn_cropped", 10, LAST_10, "test", label),
    "patch_camelyon": ("patch_camelyon", 2, VALIDATION, "test", label),
    "eurosat": ("eurosat/rgb", 10, "train[1200:1400]", "train[1600:]", label),
    "resisc45": ("resisc45", 45, "train[1200:1400]", "train[1600:]", label),
    "diabetic_retinopathy": (
        "diabetic_retinopathy_detection/btgraham-300",
        *(5, VALIDATION, "test", label),
    ),
    "clevr_count": ("clevr", 8, LAST_10, "validation", lambda v: len(v["objects"]) - 3),
    "clevr_distance": ("clevr", 6, LAST_10, "validation", clevr_distance),
    "dmlab": ("dmlab", 6, VALIDATION, "test", label),
    "dsprites_location": (
        *("dsprites", 16, LAST_20, "train[1800:]"),
        lambda v: v["label_x_position"] // 2,
    ),
    "dsprites_orientation": (
        *("dsprites", 16, LAST_20, "train[1800:]"),
        lambda v: int(v["label_orientation"] / 2.5),
    ),
    "kitti_distance": ("kitti", 4, VALIDATION, "test", kitti_distance),
    "smallnorb_azimuth": (
        "smallnorb",
        18,
        "test[:200]",
        "test[220:]",
        lambda v: v["label_azimuth"],
    ),
    "smallnorb_elevation": (
        *("smallnorb", 9, "test[:200]", "test[220:]"),
        lambda v: v["label_elevation"],
    ),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """All sets on disk, where TFDS finds them: name -> features of its examples."""
    root = tmp_path_factory.mktemp("vtab")
    tfds.core.add_data_dir(root)
    yield {name: write(name, root) for name in sorted({row[0] for row in TASKS.values()})}
    tfds.core.utils.file_utils.clear_registered_data_dirs()


def numbers(split):
    """Number and label of each example of a split, in order."""
    (examples,) = split.in_order().batch(split.size).as_numpy_iterator()
    return list(zip(map(number_of, examples["data"]), examples["label"]))


@functools.cache
def in_tfds(name, split):
    """The numbers of the pictures that TFDS has in a split, in its order."""
    raw = {"image": tfds.decode.SkipDecoding()}
    if name in ARRAY_RECORD:
        pictures = [e["image"] for e in tfds.data_source(name, split=split, decoders=raw)]
    else:
        dataset = tfds.load(name, split=split, decoders=raw).map(lambda example: example["image"])
        pictures = next(dataset.batch(TRAIN).as_numpy_iterator())
    white = 1 if name == "dsprites" else 255
    return [number_of(encoded, white) for encoded in pictures]


def part(name, expression):
    """The same of an expression: "test", "train[1800:2000]"."""
    split, first, end = re.fullmatch(r"(\w+)(?:\[(\d*):(\d*)\])?", expression).groups()
    return in_tfds(name, split)[int(first or 0) : int(end) if end else None]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_examples_and_labels_of_the_benchmark(sets, task):
    name, classes, validation, test, label_of = TASKS[task]
    chosen = open_source(DataOptions(f"vtab:{task}"), prefer="val")
    final = open_source(DataOptions(f"vtab:{task}"))
    splits = (chosen.train, chosen.eval, final.train, final.eval)
    train800, val200, both, held = map(numbers, splits)
    assert [s.name for s in splits] == ["train800", "val200", "train800val200", "test"]
    assert [s.size for s in splits] == [len(x) for x in (train800, val200, both, held)]
    assert [n for n, _ in train800] == part(name, "train[:800]")
    assert [n for n, _ in val200] == part(name, validation)
    assert [n for n, _ in held] == part(name, test)
    assert sorted(both) == sorted(train800 + val200)
    assert len({n for n, _ in both + held}) == 1000 + len(held)
    assert len(chosen.labels) == len(set(chosen.labels)) == classes
    found = both + held
    assert all(label == label_of(sets[name][number]) for number, label in found)
    if classes < 50:  # else not every class is in so few examples
        assert {label for _, label in found} == set(range(classes))
    counts = np.bincount([label for _, label in both], minlength=classes)
    assert final.train.counts == tuple(counts)


def test_the_table_is_the_19_tasks():
    assert list(vtab.TASKS) == list(TASKS)
    groups = [task.group for task in vtab.TASKS.values()]
    assert groups == ["natural"] * 7 + ["specialised"] * 4 + ["structured"] * 8
    for name, task in vtab.TASKS.items():
        assert task.tfds == TASKS[name][0]


def test_views_that_destroy_a_label_are_those_of_the_big_transfer_paper():
    assert {name for name, task in vtab.TASKS.items() if not task.flip} == {
        "dsprites_location",
        "dsprites_orientation",
        "smallnorb_azimuth",
    }
    assert {name for name, task in vtab.TASKS.items() if not task.crop} == {
        *("clevr_count", "clevr_distance", "dmlab", "dsprites_location", "kitti_distance"),
    }


def test_the_training_examples_come_in_any_order(sets):
    split = open_source(DataOptions("vtab:cifar100", train_split="train800", fraction=0.5)).train
    assert split.size < 800
    stream = split.shuffled(0, 0).take(2 * split.size).as_numpy_iterator()
    seen = [number_of(e["data"]) for e in stream]
    of_split = [number for number, _ in numbers(split)]
    assert sorted(seen[: split.size]) == sorted(of_split) == sorted(seen[split.size :])
    assert seen[: split.size] != of_split


def test_a_kitti_picture_of_nothing_has_no_vehicle():
    _, number = vtab.TASKS["kitti_distance"].label({})
    empty = {"location": np.zeros((0, 3), np.float32), "type": np.zeros(0, np.int64)}
    assert number({"objects": empty}) == 3


ERRORS = {
    "unknown task": (
        "vtab:cifar10",
        {},
        "vtab:cifar10: no such task; there are caltech101, cifar100",
    ),
    "a share": ("vtab:cifar100", {"holdout": 0.1}, "has its own splits"),
    "unknown split": (
        *("vtab:cifar100", {"eval_split": "train"}),
        "no split 'train'; there are train800, val200, train800val200, test",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_task_that_cannot_be_opened_is_one_line(sets, case):
    data, options, message = ERRORS[case]
    with pytest.raises(UserError, match=message):
        open_source(DataOptions(data, **options))


def test_the_sets_are_large_enough_for_splits_that_do_not_overlap():
    assert TRAIN * 0.6 >= 800 and OTHER >= 200
