"""An image folder as a Source: `train/` and `test/` or `val/` with a folder per class, or classes alone."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from edge_demo.errors import UserError
from edge_demo.images import EXTENSIONS
from tfvit.data.source import (
    TEST_NAMES,
    TRAIN_NAMES,
    VALIDATION_NAMES,
    DataOptions,
    Source,
    Split,
    choose,
    held_out,
    indexed_split,
    no_named_splits,
)

HASHED_BYTES = 65_536  # of each file, with its length: enough to tell photos apart


def open_folder(options: DataOptions, eval_names: tuple[str, ...]) -> Source:
    """The Source of an image folder.

    Raises UserError if the folder is missing, a class is empty, a held-out class is not among the
    training classes, or there is nothing held out and `options.holdout` is not given.
    """
    root = Path(options.data)
    if not root.is_dir():
        reason = "not a folder" if root.exists() else "no such folder"
        raise UserError(f"{root}: {reason} (--data takes a folder, tfds:NAME or digits)")
    known = (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)
    asked = (options.train_split, options.eval_split)
    available = [d.name for d in _folders(root) if d.name in known or d.name in asked]
    if not available:
        return _classes_alone(root, options)
    if options.holdout is not None:
        raise UserError(f"{root}: has {', '.join(available)}; --split is for folders without")
    train = choose(available, options.train_split, TRAIN_NAMES, str(root))
    held = choose(available, options.eval_split, eval_names, str(root))
    if held is None:
        raise UserError(f"{root}: nothing held out; make {root / 'test'} or choose --eval-split")
    labels = tuple(d.name for d in _class_folders(root / (train or held)))
    splits = [_split(root / name, name, labels) if name else None for name in (train, held)]
    return Source(options.data, labels, *splits)


def _classes_alone(root: Path, options: DataOptions) -> Source:
    """`root` holds class folders: the held-out part is chosen by content."""
    if options.holdout is None:
        raise UserError(f"{root}: no train/ and test/ inside; add --split 0.1 to hold out a tenth")
    no_named_splits(options)
    labels, files = _labelled_files(root, None)
    parts: dict[bool, list[tuple[Path, int]]] = {False: [], True: []}
    for path, label in files:
        with open(path, "rb") as file:
            content = file.read(HASHED_BYTES) + str(path.stat().st_size).encode()
        parts[held_out(content, options.holdout)].append((path, label))
    for part, what in ((parts[False], "training"), (parts[True], "held out")):
        missing = set(range(len(labels))) - {label for _, label in part}
        if missing:
            name = labels[min(missing)]
            raise UserError(f"{root / name}: no image falls into the {what} part; change --split")
    train, held = (
        _split_of(name, parts[key], labels) for name, key in (("train", False), ("held out", True))
    )
    return Source(options.data, labels, train, held)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_folders(root: Path) -> list[Path]:
    folders = _folders(root)
    if len(folders) < 2:
        count = "one class folder" if folders else "no class folders"
        raise UserError(f"{root}: {count} inside; one folder per class, two at least")
    return folders


def _labelled_files(
    root: Path, labels: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    """Class names and every image below each class folder; labels: the only names allowed."""
    folders = _class_folders(root)
    names = labels or tuple(d.name for d in folders)
    files = []
    for folder in folders:
        if folder.name not in names:
            raise UserError(f"{folder}: class {folder.name!r} is not among {', '.join(names)}")
        paths = sorted(folder.rglob("*"))
        found = [p for p in paths if p.suffix.lower() in EXTENSIONS and p.is_file()]
        if not found:
            raise UserError(f"{folder}: no images ({', '.join(EXTENSIONS)}) of this class")
        files += [(p, names.index(folder.name)) for p in found]
    return names, files


def _split(root: Path, name: str, labels: tuple[str, ...]) -> Split:
    return _split_of(name, _labelled_files(root, labels)[1], labels)


def _split_of(name: str, files: list[tuple[Path, int]], labels: tuple[str, ...]) -> Split:
    paths = [str(path) for path, _ in files]
    tensor = tf.constant(paths)
    return indexed_split(
        name,
        paths,
        [label for _, label in files],
        len(labels),
        lambda i: tf.io.read_file(tf.gather(tensor, i)),
    )
