"""A TensorFlow Datasets set as a Source: `tfds:NAME[:CONFIG]`, split expressions included.

Its label is a ClassLabel; or a Sequence of them, or one of each object in the picture: then a picture
has any number of labels. A set without any is for pre-training.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import logging
import operator
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit.data import imagenet
from tfvit.data.source import (
    TRAIN_NAMES,
    UNLABELLED,
    DataOptions,
    Source,
    Split,
    Stream,
    choose,
    multi_hot,
    random_access,
)

FILE_NAME = "file_name"  # the feature of sets that keep what their files were called
SHUFFLE_BUFFER = 16_384  # encoded examples


@dataclasses.dataclass(frozen=True)
class Fields:
    """What of an example of a set is its picture and its label.

    image: the feature that is the picture. names: of the classes.
    number: the features of an example -> its class number, or numbers, as TensorFlow ops.
    several: whether there may be any number of them.
    recoded: what is done to the encoded picture, as TensorFlow ops.
    """

    image: str
    names: tuple[str, ...]
    number: Callable[[dict], tf.Tensor]
    several: bool = False
    recoded: Callable[[tf.Tensor], tf.Tensor] = tf.identity

    def numbers(self, values: dict) -> tf.Tensor:
        """The class number of an example, or numbers, int64."""
        return tf.cast(self.number(values), tf.int64)

    def label(self, numbers: tf.Tensor) -> tf.Tensor:
        """Class numbers int64, [] or [n], as a Source has them."""
        return multi_hot(numbers, len(self.names)) if self.several else numbers


def open_tfds(
    options: DataOptions, eval_names: tuple[str, ...], *, labelled: bool = True
) -> Source:
    """The Source of a TFDS set, downloaded and prepared by TFDS on first use.

    labelled: False takes the pictures alone.
    Raises UserError if the name or a split does not exist, the set has no single image and label or
    labels, or it cannot be downloaded.
    """
    if options.holdout is not None:
        raise UserError("--split is for image folders; for TFDS use --train-split 'train[:90%]'")
    name, _, config = options.data.removeprefix("tfds:").partition(":")
    builder = prepared(f"{name}/{config}" if config else name, options.data)
    info = builder.info
    fields = _fields(info, options.data) if labelled else _pictures(info, options.data)

    def split(asked: str | None, names: tuple[str, ...]) -> Split | None:
        chosen = asked or choose(list(info.splits), None, names, options.data)
        return read_split(builder, options.data, chosen, chosen, fields) if chosen else None

    held = split(options.eval_split, eval_names)
    if held is None:
        raise UserError(
            f"{options.data}: nothing held out (splits: {', '.join(info.splits)}); for example "
            "--train-split 'train[:90%]' --eval-split 'train[90%:]'"
        )
    train = split(options.train_split, TRAIN_NAMES)
    if train and options.fraction is not None:
        some = _share(builder, train.name, options.fraction)
        train = read_split(builder, options.data, some, some, fields)
    classes = imagenet.SUBSETS.get(builder.name)
    return Source(options.data, fields.names, train, held, fields.several, classes)


def prepared(name: str, data: str):
    """The builder of a set, "NAME" or "NAME/CONFIG", downloaded and prepared by TFDS on first use.

    data: what the user calls it. Raises UserError if there is none or it cannot be downloaded.
    """
    builder = _builder(name, data)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each retry of a download
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever the download met: the network, a disk, a manual step
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{data}: cannot be downloaded or prepared ({reason})") from None
    return builder


def _builder(name: str, data: str):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name)
    except tfds.core.registered.DatasetNotFoundError:
        close = difflib.get_close_matches(name.partition("/")[0], tfds.list_builders(), n=1)
        hint = f"did you mean tfds:{close[0]}?" if close else "tfds.list_builders() lists them"
        raise UserError(f"{data}: no such TFDS set; {hint}") from None
    except Exception as error:  # an unknown config, an invalid name, a missing import of the set
        raise UserError(f"{data}: {' '.join(str(error).split())[:300]}") from None


def _of(kind: str, features: dict) -> list[str]:
    """The features that are just of a kind of TFDS's."""
    import tensorflow_datasets as tfds

    wanted = getattr(tfds.features, kind)
    return [key for key, feature in features.items() if type(feature) is wanted]


def _pictures(info, data: str) -> Fields:
    """The image of an example, all with the one label there is."""
    images = _of("Image", info.features)
    chosen = {key for key in info.supervised_keys or () if key in images} or set(images)
    if len(chosen) != 1:
        raise UserError(f"{data}: not a set of one image each")
    return Fields(*chosen, UNLABELLED["labels"], lambda _: tf.zeros([], tf.int64))


def _fields(info, data: str) -> Fields:
    """The one image of an example, and its label or labels."""
    import tensorflow_datasets as tfds

    kinds = tfds.features
    images, single = _of("Image", info.features), _of("ClassLabel", info.features)
    keys = info.supervised_keys or (images[:1] + single[:1] if len(images + single) == 2 else ())
    if len(keys) == 2 and keys[0] in images and keys[1] in single:
        return Fields(keys[0], tuple(info.features[keys[1]].names), operator.itemgetter(keys[1]))
    own, of_objects = [], []
    for key in _of("Sequence", info.features):
        inner = info.features[key].feature
        if isinstance(inner, kinds.ClassLabel):
            own.append((inner.names, operator.itemgetter(key)))
        elif isinstance(inner, kinds.FeaturesDict):
            names = _of("ClassLabel", inner)
            label = "label" if "label" in names else names[0] if len(names) == 1 else None
            if label:
                of_objects.append((inner[label].names, lambda x, a=key, b=label: x[a][b]))
    if len(images) != 1 or single or not own + of_objects:
        alone = "; tfvit pretrain takes its pictures" if len(images) == 1 else ""
        raise UserError(f"{data}: not a set of images with one label or several each{alone}")
    names, number = (own + of_objects)[0]
    return Fields(images[0], tuple(names), number, several=True)


def read_split(builder, data: str, name: str, expression: str, fields: Fields) -> Split:
    """A split of a prepared set by the expression that TFDS has for it, and the name that it gets here.

    Raises UserError if TFDS does not know it or it is empty.
    """
    import tensorflow_datasets as tfds

    try:
        size = builder.info.splits[expression].num_examples
    except Exception as error:  # TFDS has several for an invalid expression
        known = ", ".join(builder.info.splits)
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{data}: no split {name!r} ({reason}); there are {known}") from None
    if not size:
        raise UserError(f"{data}: split {name!r} is empty")

    as_it_is = {fields.image: tfds.decode.SkipDecoding()}

    has_names = FILE_NAME in builder.info.features

    def called(place: tf.Tensor, file_name: tf.Tensor | None) -> tf.Tensor:
        if has_names:
            return tf.strings.join([f"{data}/{name}", file_name], "/")
        return tf.strings.join([f"{data}/{name}", tf.strings.as_string(place)], "#")

    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        records = builder.as_data_source(split=expression, decoders=as_it_is)
        return random_access(name, size, _record(records, fields, called))

    def named(place: tf.Tensor, values: dict) -> dict[str, tf.Tensor]:
        return {
            "name": called(place, values.get(FILE_NAME)),
            "data": fields.recoded(values[fields.image]),
            "label": fields.label(fields.numbers(values)),
        }

    def numbered(index: tf.Tensor, values: dict) -> dict[str, tf.Tensor]:
        return {"index": index, **values}

    def stored() -> Stream:
        dataset = builder.as_dataset(split=expression, shuffle_files=False, decoders=as_it_is)
        return dataset.enumerate().map(named)

    def in_order() -> Stream:
        return stored().enumerate().map(numbered)

    def shuffled(seed: int, start: int) -> Stream:
        def passes():
            for number in itertools.count(start // size):
                order = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
                one_pass = stored().shuffle(min(size, SHUFFLE_BUFFER), order)
                done = start % size if number == start // size else 0
                yield from one_pass.skip(done).as_numpy_iterator()

        stream = tf.data.Dataset.from_generator(passes, output_signature=stored().element_spec)
        return stream.enumerate(start).map(numbered)

    return Split(name, size, None, in_order, shuffled)


def _share(builder, name: str, fraction: float) -> str:
    """The expression for the first part of a split, or of each of the splits that it adds up.

    TFDS writes most sets in a random order, so that the classes are in it about as they are in all.
    """
    import tensorflow_datasets as tfds

    splits, parts = builder.info.splits, []
    for each in tfds.core.ReadInstruction.from_spec(name).to_absolute(splits):
        first, end = each.from_ or 0, each.to or splits[each.splitname].num_examples
        count = max(1, round(fraction * (end - first)))
        parts.append(f"{each.splitname}[{first}:{first + count}]")
    return "+".join(parts)


def _record(
    records: Sequence[dict],
    fields: Fields,
    called: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """`Split.at` of ArrayRecord files, which give any record without those before it."""

    def read(place: np.int64) -> tuple[bytes, np.ndarray, bytes]:
        values = records[int(place)]
        numbers = np.asarray(fields.numbers(values))
        return values[fields.image], numbers, values.get(FILE_NAME, b"")

    def at(index: tf.Tensor, place: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = [tf.string, tf.int64, tf.string]
        encoded, numbers, file_name = tf.numpy_function(read, [place], outputs, stateful=False)
        numbers = tf.ensure_shape(numbers, [None] if fields.several else [])
        return {
            "index": index,
            "name": tf.ensure_shape(called(place, file_name), []),
            "data": fields.recoded(tf.ensure_shape(encoded, [])),
            "label": fields.label(numbers),
        }

    return at
