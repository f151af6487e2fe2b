"""The 19 tasks of VTAB-1k (arXiv 1910.04867), as github.com/google-research/task_adaptation has them.

A task is a set of TFDS, what its label is, and where its splits lie. `--data vtab:TASK` opens one.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable

import tensorflow as tf

from edge_demo.errors import UserError
from tfvit.data import tfds_source
from tfvit.data.source import DataOptions, Source, Split, choose, in_memory
from tfvit.data.tfds_source import Fields

TRAIN, VALIDATION, BOTH, TEST = "train800", "val200", "train800val200", "test"
GROUPS = ("natural", "specialised", "structured")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where a task's splits begin: a split of TFDS, and after what share of it, in percent.

    The 200 images of validation are the first from there on, those of the test all. Training has
    the first 800 of TFDS's "train".
    """

    validation: tuple[str, int]
    test: tuple[str, int] = ("test", 0)

    def expressions(self, splits) -> dict[str, str]:
        """Name of a split -> what it is in TFDS; splits: those of the set's DatasetInfo."""

        def first(split: str, percent: int) -> int:
            return percent * splits[split].num_examples // 100

        begin, train = first(*self.validation), "train[:800]"
        validation = f"{self.validation[0]}[{begin}:{begin + 200}]"
        test = f"{self.test[0]}[{first(*self.test)}:]"
        return {
            TRAIN: train,
            VALIDATION: validation,
            BOTH: f"{train}+{validation}",
            TEST: test,
        }


OWN = Parts(("validation", 0))  # TFDS has train, validation and test
LAST_10, LAST_20 = Parts(("train", 90)), Parts(("train", 80))
ALL_OF_TRAIN = Parts(("train", 60), ("train", 80))  # TFDS has nothing else

# Features of a set -> names of the classes, and the class number of an example, as TensorFlow ops.
Label = Callable[[dict], tuple[tuple[str, ...], Callable[[dict], tf.Tensor]]]


def _class(key: str) -> Label:
    """A ClassLabel."""
    return lambda features: (tuple(features[key].names), lambda values: values[key])


def _grouped(key: str, classes: int) -> Label:
    """A ClassLabel of ordered values, neighbours taken together."""

    def label(features: dict) -> tuple:
        values_in_all = features[key].num_classes
        names = tuple(map(str, range(classes)))
        return names, lambda values: values[key] * classes // values_in_all

    return label


def _count(features: dict) -> tuple:
    """The number of objects, 3 to 10."""
    names = tuple(f"{count} objects" for count in range(3, 11))
    return names, lambda values: tf.size(values["objects"]["size"]) - 3


def _between(edges: tuple[float, ...], names: tuple[str, ...], distance: Callable) -> Label:
    """How many of the edges a distance is beyond."""

    def number(values: dict) -> tf.Tensor:
        beyond = distance(values) > tf.constant(edges, tf.float32)
        return tf.reduce_sum(tf.cast(beyond, tf.int64))

    return lambda features: (names, number)


def _nearest_object(values: dict) -> tf.Tensor:
    """Depth of CLEVR's nearest object, in its own unit."""
    return tf.reduce_min(values["objects"]["pixel_coords"][:, 2])


def _nearest_vehicle(values: dict) -> tf.Tensor:
    """Metres to KITTI's nearest car, van or truck; infinite where there is none."""
    metres = tf.convert_to_tensor(values["objects"]["location"])[:, 2]
    is_vehicle = tf.convert_to_tensor(values["objects"]["type"]) < 3
    return tf.reduce_min(tf.where(is_vehicle, metres, tf.float32.max))


ITS_LABEL = _class("label")
CLEVR_DISTANCE = _between(
    (8.0, 8.5, 9.0, 9.5, 10.0),
    ("to 8", "8 to 8.5", "8.5 to 9", "9 to 9.5", "9.5 to 10", "beyond 10"),
    _nearest_object,
)
KITTI_DISTANCE = _between(
    (8.0, 20.0, 999.0), ("to 8 m", "8 to 20 m", "beyond 20 m", "no vehicle"), _nearest_vehicle
)


def _black_and_white(encoded: tf.Tensor) -> tf.Tensor:
    """A PNG of the levels 0 and 1 as one of 0 and 255."""
    return tf.io.encode_png(tf.io.decode_png(encoded, channels=1) * 255)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of VTAB; what it measures is top-1, as in all of them.

    group: of GROUPS. tfds: "NAME" or "NAME/CONFIG"; of the version that the installed TFDS prefers.
    parts: its splits. label: what it asks. recoded: see `Fields`.
    flip, crop: whether the label survives these views (arXiv 1912.11370, supplement F).
    """

    group: str
    tfds: str
    parts: Parts
    label: Label = ITS_LABEL
    flip: bool = True
    crop: bool = True
    recoded: Callable[[tf.Tensor], tf.Tensor] = tf.identity


NATURAL, SPECIALISED, STRUCTURED = GROUPS
CLEVR = Parts(("train", 90), ("validation", 0))  # TFDS's test has no objects
DSPRITES = Parts(("train", 80), ("train", 90))
SMALLNORB = Parts(("test", 0), ("test", 50))

# name: task. TFDS 4.9.10 has the versions of these sets that task_adaptation asks for, or later minor
# ones, but for oxford_iiit_pet: 4 for 3, whose corrupt images were mended. resisc45 and
# diabetic_retinopathy_detection have to be downloaded by hand.
TASKS: dict[str, Task] = {
    "caltech101": Task(NATURAL, "caltech101", LAST_10),
    "cifar100": Task(NATURAL, "cifar100", LAST_10),
    "dtd": Task(NATURAL, "dtd", OWN),
    "flowers102": Task(NATURAL, "oxford_flowers102", OWN),
    "pets": Task(NATURAL, "oxford_iiit_pet", LAST_20),
    "sun397": Task(NATURAL, "sun397/tfds", OWN),
    "svhn": Task(NATURAL, "svhn_cropped", LAST_10),
    "patch_camelyon": Task(SPECIALISED, "patch_camelyon", OWN),
    "eurosat": Task(SPECIALISED, "eurosat/rgb", ALL_OF_TRAIN),
    "resisc45": Task(SPECIALISED, "resisc45", ALL_OF_TRAIN),
    "diabetic_retinopathy": Task(SPECIALISED, "diabetic_retinopathy_detection/btgraham-300", OWN),
    "clevr_count": Task(STRUCTURED, "clevr", CLEVR, _count, crop=False),
    "clevr_distance": Task(STRUCTURED, "clevr", CLEVR, CLEVR_DISTANCE, crop=False),
    "dmlab": Task(STRUCTURED, "dmlab", OWN, crop=False),
    "dsprites_location": Task(
        STRUCTURED,
        "dsprites",
        DSPRITES,
        _grouped("label_x_position", 16),
        flip=False,
        crop=False,
        recoded=_black_and_white,
    ),
    "dsprites_orientation": Task(
        STRUCTURED,
        "dsprites",
        DSPRITES,
        _grouped("label_orientation", 16),
        flip=False,
        recoded=_black_and_white,
    ),
    "kitti_distance": Task(STRUCTURED, "kitti", OWN, KITTI_DISTANCE, crop=False),
    "smallnorb_azimuth": Task(
        STRUCTURED, "smallnorb", SMALLNORB, _class("label_azimuth"), flip=False
    ),
    "smallnorb_elevation": Task(STRUCTURED, "smallnorb", SMALLNORB, _class("label_elevation")),
}


def named(names: str) -> tuple[str, ...]:
    """The tasks that are meant by names of tasks and groups, separated by commas; in the table's order.

    Raises UserError for an unknown one, with the nearest.
    """
    asked = [name.strip() for name in names.split(",")]
    known = (*GROUPS, *TASKS)
    for name in asked:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            guess = f"did you mean {close[0]}? " if close else ""
            raise UserError(f"VTAB has no {name!r}: {guess}there are {', '.join(known)}")
    return tuple(name for name, task in TASKS.items() if name in asked or task.group in asked)


def open_vtab(options: DataOptions, prefer: str) -> Source:
    """The Source of "vtab:TASK", downloaded and prepared by TFDS on first use.

    prefer: "test" is for training on all 1,000 examples, "val" on the 800 that are not validation's.
    Raises UserError for an unknown task or split, or if its set cannot be downloaded.
    """
    if options.holdout is not None:
        raise UserError(f"{options.data}: has its own splits; --split is for image folders")
    name = options.data.removeprefix("vtab:")
    if name not in TASKS:
        raise UserError(f"{options.data}: no such task; there are {', '.join(TASKS)}")
    task = TASKS[name]
    builder = tfds_source.prepared(task.tfds, options.data)
    classes, number = task.label(builder.info.features)
    fields = Fields("image", classes, number, recoded=task.recoded)
    expressions = task.parts.expressions(builder.info.splits)

    def split(asked: str | None, default: str) -> Split:
        chosen = choose(list(expressions), asked, (default,), options.data)
        return tfds_source.read_split(builder, options.data, chosen, expressions[chosen], fields)

    held = split(options.eval_split, TEST if prefer == "test" else VALIDATION)
    train = split(options.train_split, TRAIN if held.name == VALIDATION else BOTH)
    return Source(options.data, classes, in_memory(train, len(classes)), held)
