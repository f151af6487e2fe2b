from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_demo import images
from tfvit import UserError
from tfvit.data import DataOptions, open_source


@pytest.fixture
def grow(sample_photos, tmp_path):
    """grow({"train/a": 3}): makes folders of that many small pictures, all different; returns root.

    BMP: the same bytes whatever the version of a compressor.
    """
    taken = 0

    def make(counts: dict[str, int], root: Path = tmp_path / "data", prefix: str = "") -> Path:
        nonlocal taken
        root.mkdir(exist_ok=True)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                left, top = taken % 600, taken // 600 * 3
                crop = sample_photos["china"].crop((left, top, left + 16, top + 12))
                crop.save(root / folder / f"{prefix}{i:03d}.bmp")
                taken += 1
        return root

    return make


def open_folder(root, prefer="test", **options):
    return open_source(DataOptions(str(root), **options), prefer=prefer)


def examples(split):
    return list(split.in_order().as_numpy_iterator())


def names(split):
    return [example["name"].decode() for example in examples(split)]


# Image folders


def test_a_folder_has_its_classes_and_both_splits(photos):
    source = open_folder(photos)
    assert source.labels == ("china", "flower")
    assert source.name == str(photos)
    for split, name, count in ((source.train, "train", 24), (source.eval, "test", 8)):
        assert (split.name, split.size, split.counts) == (name, 2 * count, (count, count))
        found = examples(split)
        assert [e["index"] for e in found] == list(range(2 * count))
        for example in found:
            path = Path(example["name"].decode())
            assert path.parent.parent == photos / name
            assert example["data"] == path.read_bytes()
            assert source.labels[example["label"]] == path.parent.name
        assert len({e["name"] for e in found}) == 2 * count


@pytest.mark.parametrize("validation", ["val", "validation", "valid"])
def test_training_holds_out_val_and_measuring_test(grow, validation):
    root = grow({"train/a": 2, "train/b": 3, "test/a": 1, "test/b": 1})
    grow({f"{validation}/a": 2, f"{validation}/b": 2})
    assert open_folder(root).eval.name == "test"
    assert open_folder(root, prefer="val").eval.name == validation
    assert open_folder(root, prefer="val", eval_split="test").eval.name == "test"
    assert open_folder(root, train_split=validation).train.name == validation


@pytest.mark.parametrize("only, prefer", [("test", "val"), ("val", "test")])
def test_the_one_held_out_folder_there_is_serves_both(grow, only, prefer):
    root = grow({"train/a": 1, "train/b": 1, f"{only}/a": 1, f"{only}/b": 1})
    assert open_folder(root, prefer=prefer).eval.name == only


def test_a_folder_without_training_images_can_be_measured_on(grow):
    source = open_folder(grow({"test/a": 1, "test/b": 2}))
    assert source.train is None
    assert source.eval.counts == (1, 2)


def test_a_held_out_folder_may_lack_a_class(grow):
    root = grow({"train/a": 1, "train/b": 1, "train/c": 1, "test/c": 2, "test/a": 1})
    assert open_folder(root).eval.counts == (1, 0, 2)


def test_pictures_are_found_whatever_their_depth_and_case_and_nothing_else_is(grow):
    root = grow({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1})
    grow({"train/a/holiday/2024": 2, "train/.hidden": 1})
    (root / "train/a/000.bmp").rename(root / "train/a/000.BMP")
    (root / "train/a/notes.txt").write_text("not a picture")
    (root / "train/a/album.jpg").mkdir()
    (root / "train/readme.md").write_text("not a class")
    source = open_folder(root)
    assert source.labels == ("a", "b")
    assert source.train.counts == (3, 1)


@pytest.mark.parametrize("holdout", [None, 0.5])
def test_a_link_to_nothing_stops_nobody(grow, holdout):
    from edge_demo.preprocess import PreprocessSpec
    from tfvit.data import pipeline

    part = "" if holdout else "test/"
    root = grow({"train/a": 2, "train/b": 2} if not holdout else {})
    grow({f"{part}a": 12, f"{part}b": 12})
    (root / part / "a" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    source = open_folder(root, holdout=holdout)
    read = 0
    for split in (source.train, source.eval):
        batches = pipeline.eval_batches(split, PreprocessSpec(8, 8), 4, unreadable={})
        read += sum(int(batch["mask"].numpy().sum()) for batch in batches)
    assert read == 24 + (0 if holdout else 4)


# A part of the training images


def test_a_fraction_is_the_same_share_of_every_class_and_inside_a_larger_one(grow):
    root = grow({"train/a": 40, "train/b": 10, "train/c": 1, "test/a": 2, "test/b": 2})
    found = {part: open_folder(root, fraction=part) for part in (0.1, 0.5, 1.0)}
    assert [source.train.counts for source in found.values()] == [
        (4, 1, 1),
        (20, 5, 1),
        (40, 10, 1),
    ]
    tenth, half, whole = (names(source.train) for source in found.values())
    assert set(tenth) < set(half) < set(whole) and whole == names(open_folder(root).train)
    assert half == sorted(half) and half == names(open_folder(root, fraction=0.5).train)
    assert sorted(half) != sorted(whole)[: len(half)]
    assert found[0.1].eval.counts == (2, 2, 0)
    shuffled = found[0.5].train.shuffled(0, 0).take(26).as_numpy_iterator()
    assert sorted(example["name"].decode() for example in shuffled) == half
    for example in examples(found[0.1].train):
        assert Path(example["name"].decode()).parent.name == "abc"[example["label"]]


def test_a_fraction_of_pictures_with_several_labels_is_that_of_all(labelled_photos):
    source = open_folder(labelled_photos, fraction=0.25)
    assert source.train.size == 10 and len(set(names(source.train))) == 10


# Class folders alone


def test_classes_alone_are_divided_by_share(grow):
    root = grow({"a": 120, "b": 120})
    source = open_folder(root, holdout=0.3)
    train, held = set(names(source.train)), set(names(source.eval))
    assert source.labels == ("a", "b")
    assert not train & held
    assert train | held == {str(path) for path in root.rglob("*.bmp")}
    assert len(held) == source.eval.size
    assert 0.2 < len(held) / 240 < 0.4
    assert min(source.train.counts + source.eval.counts) > 10


def test_a_larger_share_holds_out_the_same_pictures_and_more(grow):
    root = grow({"a": 40, "b": 40})
    small, large = (set(names(open_folder(root, holdout=h).eval)) for h in (0.2, 0.5))
    assert small < large


def test_new_pictures_do_not_move_the_others(grow):
    root = grow({"a": 40, "b": 40})
    before = set(names(open_folder(root, holdout=0.3).eval))
    old = {str(path) for path in root.rglob("*.bmp")}
    grow({"a": 25, "c": 40}, prefix="new")
    after = set(names(open_folder(root, holdout=0.3).eval))
    assert after & old == before
    assert after - old


def test_a_renamed_picture_stays_on_its_side(grow, tmp_path):
    root = grow({"a": 40, "b": 40})
    before = [Path(name) for name in names(open_folder(root, holdout=0.3).eval)]
    moved = root.rename(tmp_path / "elsewhere")
    for i, path in enumerate(sorted(moved.rglob("*.bmp"), reverse=True)):
        path.rename(path.with_name(f"{i}-{path.name}"))
    after = [Path(name) for name in names(open_folder(moved, holdout=0.3).eval)]
    assert sorted((p.parent.name, p.name) for p in before) == sorted(
        (p.parent.name, p.name.split("-")[1]) for p in after
    )


def test_copies_of_a_picture_are_on_one_side(grow):
    root = grow({"a": 40, "b": 40})
    for path in list(root.rglob("*.bmp")):
        shutil.copy(path, path.with_name(f"copy of {path.name}"))
    source = open_folder(root, holdout=0.3)
    contents = [{e["data"] for e in examples(split)} for split in (source.train, source.eval)]
    assert not contents[0] & contents[1]
    assert 2 * len(contents[1]) == source.eval.size


ERRORS = {
    "missing folder": ({}, {}, "nowhere", ["nowhere", "no such folder"]),
    "a file": ({}, {}, "file.txt", ["file.txt", "not a folder"]),
    "empty folder": ({}, {}, "", ["--split"]),
    "no classes with share": ({}, {"holdout": 0.1}, "", ["no class folders", "two at least"]),
    "one class": ({"train/a": 1, "test/a": 1}, {}, "", ["train", "one class folder"]),
    "one class alone": ({"a": 3}, {"holdout": 0.5}, "", ["one class folder"]),
    "empty class": (
        {"train/a": 1, "train/b": 0, "test/a": 1, "test/b": 1},
        {},
        "",
        ["train/b", "no images", ".jpg"],
    ),
    "empty class alone": ({"a": 9, "b": 0}, {"holdout": 0.5}, "", ["/b", "no images"]),
    "a line break in a class": (
        {"train/a\nb": 1, "train/c": 1, "test/c": 1},
        {},
        "",
        ["train: class 'a\\nb'", "printed"],
    ),
    "a line break in a class alone": (
        {"a\u2028b": 9, "c": 9},
        {"holdout": 0.5},
        "",
        ["'a\\u2028b'"],
    ),
    "unknown held-out class": (
        {"train/a": 1, "train/b": 1, "test/a": 1, "test/c": 1},
        {},
        "",
        ["test/c", "'c'", "a, b"],
    ),
    "nothing held out": ({"train/a": 1, "train/b": 1}, {}, "", ["nothing held out", "test"]),
    "wrong eval split": (
        {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1},
        {"eval_split": "tset"},
        "",
        ["'tset'", "test, train"],
    ),
    "wrong train split": (
        {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1},
        {"train_split": "all"},
        "",
        ["'all'", "test, train"],
    ),
    "share of a folder with splits": (
        {"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1},
        {"holdout": 0.1},
        "",
        ["test, train", "--split"],
    ),
    "classes alone without share": ({"a": 1, "b": 1}, {}, "", ["--split 0.1"]),
    "wrong eval split of classes alone": (
        {"a": 40, "b": 40},
        {"holdout": 0.3, "eval_split": "tset"},
        "",
        ["'tset'"],
    ),
    "no picture held out": ({"a": 1, "b": 1}, {"holdout": 1e-9}, "", ["held out", "--split"]),
    "no picture to train on": ({"a": 1, "b": 1}, {"holdout": 1 - 1e-9}, "", ["training part"]),
}


@pytest.mark.parametrize("case", ERRORS)
def test_data_that_cannot_be_used_is_one_line_that_says_where(grow, case):
    counts, options, below, parts = ERRORS[case]
    root = grow(counts)
    (root / "file.txt").write_text("text")
    refused(str(root / below), options, [str(root), *parts])


def refused(data, options, parts):
    with pytest.raises(UserError) as caught:
        open_source(DataOptions(data, **options))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# Digits


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    digits = load_digits()
    source = open_source(DataOptions("digits"))
    assert source.labels == tuple("0123456789")
    assert source.train.size + source.eval.size == 1797
    assert 0.15 < source.eval.size / 1797 < 0.25
    assert min(source.eval.counts) > 10
    seen = []
    for split in (source.train, source.eval):
        per_class = [0] * 10
        for example in examples(split):
            name = example["name"].decode()
            number = int(name.removeprefix("digits[").removesuffix("]"))
            pixels = np.asarray(images.decode(example["data"], name))
            assert pixels.shape == (8, 8, 3)
            levels = digits.images[number] * (255 / 16)
            assert np.abs(pixels - levels[..., None]).max() <= 0.5
            assert example["label"] == digits.target[number]
            per_class[example["label"]] += 1
            seen.append(number)
        assert split.counts == tuple(per_class)
    assert sorted(seen) == list(range(1797))


def test_digits_hold_out_the_share_asked_for():
    source = open_source(DataOptions("digits", holdout=0.5))
    assert 0.45 < source.eval.size / 1797 < 0.55
    assert source.train.size + source.eval.size == 1797


@pytest.mark.parametrize("option", ["train_split", "eval_split"])
def test_a_split_that_digits_do_not_have_is_refused(option):
    refused("digits", {option: "tset"}, ["digits", "'tset'"])


def test_a_folder_named_digits_is_a_folder(grow, tmp_path, monkeypatch):
    grow({"train/a": 1, "train/b": 1, "test/a": 1, "test/b": 1}, tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert open_source(DataOptions("digits")).labels == ("a", "b")


def test_the_shuffled_stream_of_digits_visits_all_in_another_order_each_pass():
    split = open_source(DataOptions("digits", holdout=0.9)).train
    assert 100 < split.size < 300
    stream = split.shuffled(5, 0).take(2 * split.size)
    numbers = [example["name"] for example in stream.as_numpy_iterator()]
    passes = numbers[: split.size], numbers[split.size :]
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(e["name"] for e in examples(split))
    assert passes[0] != passes[1]
    later = split.shuffled(5, 150).take(100).as_numpy_iterator()
    assert [example["name"] for example in later] == numbers[150:250]
