"""Source and Split: where labelled images come from, whatever `--data` says."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError

# An example: index int64 (its number in the stream), name, data (encoded image), and label: int64, or
# float32 [classes] of zeros and ones where there may be any number of them.
Stream = tf.data.Dataset


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a labelled data set.

    name: "train", "test", "train[:90%]".
    size: number of examples.
    counts: examples of each class, in the order of the source's labels; None where it is not known.
    in_order: () -> one pass over the examples as they lie.
    shuffled: (seed, start) -> an endless stream, each pass in an order of its own, from example
        number `start` on: the order is a function of the seed alone.
    at: (index, place) -> the example at that place, with that index, as TensorFlow ops; None where
        examples can only be read one after the other.
    labels: the class of each place, where there is one and it is known without reading.
    """

    name: str
    size: int
    counts: tuple[int, ...] | None
    in_order: Callable[[], Stream]
    shuffled: Callable[[int, int], Stream]
    at: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]] | None = None
    labels: Sequence[int] | None = None


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """Which data a command uses: the options every command shares.

    data: a folder, "tfds:NAME[:CONFIG]", "vtab:TASK" or "digits".
    holdout: part of a folder without train/ and test/ that is held out, 0-1.
    train_split, eval_split: names of folders or TFDS split expressions; None chooses.
    fraction: part of the training split that is used, 0-1; None is all of it. See `share`.
    """

    data: str
    holdout: float | None = None
    train_split: str | None = None
    eval_split: str | None = None
    fraction: float | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A labelled data set: its class names and the two splits that the options chose.

    multi_label: a picture may have any number of labels.
    classes: numbers of the labels that it has pictures of, where it is made to be answered by these alone.
    """

    name: str
    labels: tuple[str, ...]
    train: Split | None
    eval: Split
    multi_label: bool = False
    classes: tuple[int, ...] | None = None


NAMED = ("tfds:", "vtab:")  # what `--data` begins with where it is no folder
UNLABELLED = {"labels": ("0",), "multi_label": False}  # as a backbone is imported
TRAIN_NAMES = ("train",)
VALIDATION_NAMES = ("val", "validation", "valid")
TEST_NAMES = ("test",)
NEVER_0 = 0x9E3779B9  # xor a seed: TensorFlow's permutations by a first word of 0 leave neighbours together


def open_source(options: DataOptions, *, prefer: str = "test", labelled: bool = True) -> Source:
    """The data set that `options` names, with its training and held-out split.

    prefer: which held-out split to take where there are both: "test", or "val" while training.
    labelled: False takes a folder's pictures wherever they are in it, and any other set's without their
        labels, if it has any; all have the one label of a model without classes.
    Raises UserError if it does not exist, has an empty class, or a split is missing.
    """
    from tfvit.data import (
        digits,
        folder,
        tfds_source,
        unlabelled,
        vtab,
    )  # users of this module, too

    names = TEST_NAMES + VALIDATION_NAMES if prefer == "test" else VALIDATION_NAMES + TEST_NAMES
    fraction = options.fraction
    if options.data.startswith("tfds:"):
        source = tfds_source.open_tfds(options, names, labelled=labelled)
        fraction = None  # which it takes itself
    elif options.data.startswith("vtab:"):
        source = vtab.open_vtab(options, prefer)
    elif _is_digits(options.data):
        source = digits.open_digits(options)
    elif labelled:
        source = folder.open_folder(options, names)
    else:
        source = unlabelled.open_pictures(options, names)
    if not labelled:
        source = dataclasses.replace(source, **UNLABELLED)
    if fraction is None or source.train is None:
        return source
    return dataclasses.replace(source, train=share(source.train, fraction))


def in_one_part(options: DataOptions) -> bool:
    """Whether the data is a folder without splits inside, of which a share is held out.

    Raises UserError if there is no such folder.
    """
    from tfvit.data import folder

    if options.data.startswith(NAMED) or _is_digits(options.data):
        return False
    with folder.opened(options.data) as root:
        return not folder.named_splits(root, options)


def _is_digits(data: str) -> bool:
    return data == "digits" and not Path(data).is_dir()


def choose(
    available: Sequence[str], asked: str | None, names: Sequence[str], where: str
) -> str | None:
    """The split asked for, or the first of `names` there is; None if there is none of them."""
    if asked is None:
        return next((name for name in names if name in available), None)
    if asked not in available:
        raise UserError(f"{where}: no split {asked!r}; there are {', '.join(available) or 'none'}")
    return asked


def no_named_splits(options: DataOptions) -> None:
    """UserError if a split is asked for by name where the data has none."""
    for asked in (options.train_split, options.eval_split):
        if asked is not None:
            raise UserError(f"{options.data}: has no splits to choose {asked!r} from; use --split")


def held_out(data: bytes, fraction: float) -> bool:
    """Whether a file with this content belongs to the held-out part: stable, whatever else there is.

    Copies of a picture fall on the same side.
    """
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def indexed_split(
    name: str,
    names: Sequence[str],
    labels: Sequence[int] | Sequence[Sequence[int]],
    num_classes: int,
    read: Callable[[tf.Tensor], tf.Tensor],
) -> Split:
    """A split whose examples can be read in any order.

    names, labels: one per example, or a sequence of labels for each; read: index int64 -> encoded
    image, as TensorFlow ops.
    """
    size = len(names)
    all_names = tf.constant(list(names))
    label_at, flat = _lookup(labels, num_classes)

    def example(index: tf.Tensor, at: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "index": index,
            "name": tf.gather(all_names, at),
            "data": read(at),
            "label": label_at(at),
        }

    counts = tuple(int(n) for n in np.bincount(flat, minlength=num_classes))
    one_each = labels if np.ndim(labels[0]) == 0 else None
    return random_access(name, size, example, counts, one_each)


def random_access(
    name: str,
    size: int,
    example: Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]],
    counts: tuple[int, ...] | None = None,
    labels: Sequence[int] | None = None,
) -> Split:
    """A split of which any example can be read at once: see `Split.at`, which `example` is."""

    def in_order() -> Stream:
        return tf.data.Dataset.range(size).map(lambda i: example(i, i))

    def shuffled(seed: int, start: int) -> Stream:
        def numbered(i: tf.Tensor) -> dict[str, tf.Tensor]:
            return example(i, shuffled_place(i[tf.newaxis], seed, size)[0])

        return tf.data.Dataset.range(start, np.iinfo(np.int64).max).map(numbered)

    return Split(name, size, counts, in_order, shuffled, example, labels)


def part(split: Split, places: np.ndarray) -> Split:
    """The examples at these places, int64 [n], of a split that has `at`, in their order."""
    labels = counts = None
    if split.labels is not None:
        labels = np.asarray(split.labels)[places]
        counts = tuple(map(int, np.bincount(labels, minlength=len(split.counts))))
    where = tf.constant(places)

    def example(index: tf.Tensor, at: tf.Tensor) -> dict[str, tf.Tensor]:
        return split.at(index, tf.gather(where, at))

    return random_access(split.name, len(places), example, counts, labels)


def share(split: Split, fraction: float) -> Split:
    """That part of the examples of a split that has `at`, in their order.

    The same part of each class, one picture at least; where pictures have not one class each, of all.
    Always the same ones; what is in a smaller part is in every larger one.
    """
    of_class = np.zeros(split.size, int) if split.labels is None else np.asarray(split.labels)
    generator, chosen = np.random.default_rng(0), []
    for number in np.unique(of_class):
        places = generator.permutation(np.flatnonzero(of_class == number))
        chosen.append(places[: max(1, round(fraction * len(places)))])
    return part(split, np.sort(np.concatenate(chosen)))


def in_memory(split: Split, num_classes: int) -> Split:
    """The same examples, one label each, read once; their files are kept, and come in any order."""
    (examples,) = split.in_order().batch(split.size).as_numpy_iterator()
    names, labels, data = examples["name"], examples["label"], tf.constant(examples["data"])
    return indexed_split(split.name, names, labels, num_classes, lambda at: tf.gather(data, at))


def evenly_spaced(split: Split, count: int) -> Split:
    """So many examples of a split, spread evenly over it, in their order; always the same ones."""
    places = np.arange(count) * split.size // count
    if split.at is not None:
        return part(split, places)

    def some() -> Stream:
        wanted = tf.constant(np.isin(np.arange(split.size), places))
        examples = split.in_order().filter(lambda example: tf.gather(wanted, example["index"]))
        return examples.enumerate().map(lambda index, example: {**example, "index": index})

    return dataclasses.replace(split, size=count, counts=None, in_order=some, labels=None)


def multi_hot(numbers: tf.Tensor, num_classes: int) -> tf.Tensor:
    """Class numbers int64 [n], each as often as it likes -> float32 [num_classes] of zeros and ones."""
    nothing = tf.zeros([num_classes])
    return tf.tensor_scatter_nd_max(
        nothing, numbers[:, tf.newaxis], tf.ones_like(numbers, tf.float32)
    )


def _lookup(
    labels: Sequence[int] | Sequence[Sequence[int]], num_classes: int
) -> tuple[Callable[[tf.Tensor], tf.Tensor], np.ndarray]:
    """The label of an example by its place, as TensorFlow ops, and all class numbers in a row."""
    if np.ndim(labels[0]) == 0:
        flat = np.asarray(labels, np.int64)
        one = tf.constant(flat)
        return lambda at: tf.gather(one, at), flat
    flat = np.array([number for of_one in labels for number in of_one], np.int64)
    several, ends = tf.constant(flat), tf.constant(np.cumsum([0, *map(len, labels)]))
    return lambda at: multi_hot(several[ends[at] : ends[at + 1]], num_classes), flat


def shuffled_place(number: tf.Tensor, seed: int, size: int) -> tf.Tensor:
    """Where the examples with these numbers in an endless stream lie: int64 [n] -> [n].

    Every `size` numbers from a multiple of it on are one pass over all, in an order of its own.
    """
    return permuted(number % size, seed, number // size, size)


def permuted(index: tf.Tensor, seed: int, order: tf.Tensor, size: tf.Tensor | int) -> tf.Tensor:
    """Where each index goes in a random order of `size` things: int64 [n] -> [n].

    order: the number of the order, int64 [n]; size may be one for each index as well.
    """
    first = tf.constant(seed ^ NEVER_0, tf.int64)
    both = tf.stack([tf.fill(tf.shape(order), first), order], axis=1)
    return tf.raw_ops.RandomIndexShuffle(  # the public one takes one key for all
        index=index, seed=tf.pad(both, [[0, 0], [0, 1]]), max_index=tf.cast(size, tf.int64) - 1
    )
