"""An image folder as a Source: `train/` and `test/` or `val/`, or neither.

Each has a folder per class, or a `labels.csv` (`tfvit.data.label_file`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from edge_demo.images import EXTENSIONS
from tfvit.data import label_file, storage
from tfvit.data.label_file import LABEL_FILE
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
from tfvit.data.storage import Place

HASHED_BYTES = 65_536  # of each file, with its length: enough to tell photos apart
Files = (
    list[tuple[Place, int]] | list[tuple[Place, list[int]]]
)  # with a label, or any number of them


def open_folder(options: DataOptions, eval_names: tuple[str, ...]) -> Source:
    """The Source of an image folder, here or where TensorFlow reaches it: gs://bucket/photos.

    Raises UserError if the folder is missing, a class is empty or its name cannot be printed, a held-out
    class is not among the training classes, a labels.csv is not one, or there is nothing held out and
    `options.holdout` is not given.
    """
    with opened(options.data) as root:
        return _open(root, options, eval_names)


@contextlib.contextmanager
def opened(data: str) -> Iterator[Place]:
    """The folder that `--data` names; UserError if there is none or it cannot be reached."""
    root = storage.place(data)
    with storage.reachable(root):
        if not root.is_dir():
            reason = "not a folder" if root.exists() else "no such folder"
            raise UserError(f"{root}: {reason} (--data takes a folder, tfds:NAME or digits)")
        yield root


def named_splits(root: Place, options: DataOptions) -> list[str]:
    """The folders inside that are splits by their name, or are asked for."""
    known = (*TRAIN_NAMES, *VALIDATION_NAMES, *TEST_NAMES)
    asked = (options.train_split, options.eval_split)
    return [d.name for d in _folders(root) if d.name in known or d.name in asked]


def pictures(folder: Place) -> list[Place]:
    """All pictures below a folder, in order."""
    return [p for p in storage.files(folder) if p.suffix.lower() in EXTENSIONS]


def _open(root: Place, options: DataOptions, eval_names: tuple[str, ...]) -> Source:
    available = named_splits(root, options)
    if not available:
        return _one_part(root, options)
    if options.holdout is not None:
        raise UserError(f"{root}: has {', '.join(available)}; --split is for folders without")
    train = choose(available, options.train_split, TRAIN_NAMES, str(root))
    held = choose(available, options.eval_split, eval_names, str(root))
    if held is None:
        raise UserError(f"{root}: nothing held out; make {root / 'test'} or choose --eval-split")
    chosen = [name for name in (train, held) if name]
    several = [name for name in chosen if (root / name / LABEL_FILE).is_file()]
    if several != chosen and (several or (root / LABEL_FILE).is_file()):
        lacking = next(name for name in chosen if name not in several)
        needed = ", ".join(chosen)
        raise UserError(f"{root / lacking}: no {LABEL_FILE} inside; each of {needed} needs its own")
    labels, splits = None, []
    for name in chosen:
        labels, files = _labelled_files(root / name, labels)
        splits.append(split_of(name, files, len(labels)))
    return Source(options.data, labels, splits[0] if train else None, splits[-1], bool(several))


def _one_part(root: Place, options: DataOptions) -> Source:
    """`root` holds class folders or labels.csv itself: the held-out part is chosen by content."""
    if options.holdout is None:
        raise UserError(f"{root}: no train/ and test/ inside; add --split 0.1 to hold out a tenth")
    no_named_splits(options)
    labels, files = _labelled_files(root, None)
    several = (root / LABEL_FILE).is_file()
    parts = by_content(files, options.holdout)
    for part, what in ((parts[False], "training"), (parts[True], "held out")):
        if several and part is parts[True] and part:  # a rare label may be missing there
            continue
        missing = set(range(len(labels))) - {n for _, label in part for n in np.ravel(label)}
        if missing:
            name = labels[min(missing)]
            raise UserError(f"{root / name}: no image falls into the {what} part; change --split")
    train, held = (
        split_of(name, parts[key], len(labels))
        for name, key in (("train", False), ("held out", True))
    )
    return Source(options.data, labels, train, held, several)


def by_content(files: Files, share: float) -> dict[bool, Files]:
    """The files in two parts, held out or not."""
    parts: dict[bool, Files] = {False: [], True: []}
    for path, label in files:
        content = storage.read(path, HASHED_BYTES) + str(storage.size(path)).encode()
        parts[held_out(content, share)].append((path, label))
    return parts


def _folders(root: Place) -> list[Place]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _class_folders(root: Place) -> list[Place]:
    folders = _folders(root)
    if len(folders) < 2:
        count = "one class folder" if folders else "no class folders"
        raise UserError(f"{root}: {count} inside; one folder per class, two at least")
    return folders


def _labelled_files(root: Place, labels: tuple[str, ...] | None) -> tuple[tuple[str, ...], Files]:
    """Class names and every image of labels.csv or below each class folder.

    labels: the only names allowed.
    """
    if (root / LABEL_FILE).is_file():
        names, files = label_file.read(root, labels)
        _check_printable(root / LABEL_FILE, names)
        return names, files
    folders = _class_folders(root)
    _check_printable(root, [d.name for d in folders])
    names = labels or tuple(d.name for d in folders)
    files = []
    for folder in folders:
        if folder.name not in names:
            raise UserError(f"{folder}: class {folder.name!r} is not among {', '.join(names)}")
        found = pictures(folder)
        if not found:
            raise UserError(f"{folder}: no images ({', '.join(EXTENSIONS)}) of this class")
        files += [(p, names.index(folder.name)) for p in found]
    return names, files


def _check_printable(where: Place, names: Sequence[str]) -> None:
    """Raises UserError for a name that labels.txt, with a label a line, could not hold."""
    for name in names:
        if not name.isprintable():
            raise UserError(
                f"{where}: class {name!r} has a character that cannot be printed; rename it"
            )


def split_of(name: str, files: Files, num_classes: int) -> Split:
    """The split of some files."""
    paths = [str(path) for path, _ in files]
    tensor = tf.constant(paths)
    return indexed_split(
        name,
        paths,
        [label for _, label in files],
        num_classes,
        lambda i: tf.io.read_file(tf.gather(tensor, i)),
    )
