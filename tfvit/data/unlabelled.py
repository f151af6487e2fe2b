"""A folder of pictures without labels as a Source: whatever folders they are in."""

from __future__ import annotations

from edge_demo.errors import UserError
from edge_demo.images import EXTENSIONS
from tfvit.data import folder
from tfvit.data.source import (
    TRAIN_NAMES,
    UNLABELLED,
    DataOptions,
    Source,
    choose,
    no_named_splits,
)

HOLDOUT = 0.05


def open_pictures(options: DataOptions, eval_names: tuple[str, ...]) -> Source:
    """The Source of all pictures below a folder, those of `labels.csv` and class folders as well.

    With train/ inside, these are what is learned from, and test/ or val/ what is held out. Where there is
    none of them, `options.holdout` of all, or a twentieth, is held out by content.
    Raises UserError if the folder is missing or has too few pictures.
    """
    with folder.opened(options.data) as root:
        available = folder.named_splits(root, options)
        train = choose(available, options.train_split, TRAIN_NAMES, str(root))
        if train is None:
            no_named_splits(options)
        held = train and choose(available, options.eval_split, eval_names, str(root))
        if held and options.holdout is not None:
            raise UserError(f"{root}: has {train}, {held}; --split is for folders without")
        if held:
            parts = {name: _files(root / name) for name in (train, held)}
        else:
            files = _files(root / train if train else root)
            chosen = folder.by_content(files, options.holdout or HOLDOUT)
            parts = {train or "train": chosen[False], "held out": chosen[True]}
        for name, part in parts.items():
            if not part:
                raise UserError(f"{root}: no image falls into the {name} part; change --split")
        splits = (folder.split_of(name, part, 1) for name, part in parts.items())
        return Source(options.data, UNLABELLED["labels"], *splits)


def _files(root) -> folder.Files:
    """All pictures below a folder, with the one label there is."""
    files = [(path, 0) for path in folder.pictures(root)]
    if not files:
        raise UserError(f"{root}: no images ({', '.join(EXTENSIONS)}) inside")
    return files
