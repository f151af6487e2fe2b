"""A TensorFlow Datasets set as a Source: `tfds:NAME[:CONFIG]`, split expressions included."""

from __future__ import annotations

import difflib
import itertools
import logging

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit.data.source import TRAIN_NAMES, DataOptions, Source, Split, Stream, choose

SHUFFLE_BUFFER = 16_384  # encoded examples


def open_tfds(options: DataOptions, eval_names: tuple[str, ...]) -> Source:
    """The Source of a TFDS set, downloaded and prepared by TFDS on first use.

    Raises UserError if the name or a split does not exist, the set has no single image and label, or
    it cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    if options.holdout is not None:
        raise UserError("--split is for image folders; for TFDS use --train-split 'train[:90%]'")
    builder = _builder(tfds, options.data)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # a line for each retry of a download
    try:
        builder.download_and_prepare()
    except Exception as error:  # whatever the download met: the network, a disk, a manual step
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{options.data}: cannot be downloaded or prepared ({reason})") from None
    info = builder.info
    image, label = _keys(tfds, info, options.data)

    def split(asked: str | None, names: tuple[str, ...]) -> Split | None:
        chosen = asked or choose(list(info.splits), None, names, options.data)
        return _split(tfds, builder, options.data, chosen, image, label) if chosen else None

    held = split(options.eval_split, eval_names)
    if held is None:
        raise UserError(
            f"{options.data}: nothing held out (splits: {', '.join(info.splits)}); for example "
            "--train-split 'train[:90%]' --eval-split 'train[90%:]'"
        )
    labels = tuple(info.features[label].names)
    return Source(options.data, labels, split(options.train_split, TRAIN_NAMES), held)


def _builder(tfds, data: str):
    name, _, config = data.removeprefix("tfds:").partition(":")
    try:
        return tfds.builder(f"{name}/{config}" if config else name)
    except tfds.core.registered.DatasetNotFoundError:
        close = difflib.get_close_matches(name, tfds.list_builders(), n=1)
        hint = f"did you mean tfds:{close[0]}?" if close else "tfds.list_builders() lists them"
        raise UserError(f"{data}: no such TFDS set; {hint}") from None
    except Exception as error:  # an unknown config, an invalid name, a missing import of the set
        raise UserError(f"{data}: {' '.join(str(error).split())[:300]}") from None


def _keys(tfds, info, data: str) -> tuple[str, str]:
    """Names of the one image and the one label of an example."""

    def of(kind: type) -> list[str]:
        return [key for key, feature in info.features.items() if type(feature) is kind]

    images, labels = of(tfds.features.Image), of(tfds.features.ClassLabel)
    keys = info.supervised_keys or (images[:1] + labels[:1] if len(images + labels) == 2 else ())
    if len(keys) != 2 or keys[0] not in images or keys[1] not in labels:
        raise UserError(f"{data}: not a set of images with one label each")
    return keys[0], keys[1]


def _split(tfds, builder, data: str, name: str, image: str, label: str) -> Split:
    try:
        size = builder.info.splits[name].num_examples
    except Exception as error:  # TFDS has several for an invalid expression
        known = ", ".join(builder.info.splits)
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{data}: no split {name!r} ({reason}); there are {known}") from None
    if not size:
        raise UserError(f"{data}: split {name!r} is empty")

    def named(place: tf.Tensor, values: dict) -> dict[str, tf.Tensor]:
        return {
            "name": tf.strings.join([f"{data}/{name}", tf.strings.as_string(place)], "#"),
            "data": values[image],
            "label": tf.cast(values[label], tf.int64),
        }

    def numbered(index: tf.Tensor, values: dict) -> dict[str, tf.Tensor]:
        return {"index": index, **values}

    def stored() -> Stream:
        dataset = builder.as_dataset(
            split=name, shuffle_files=False, decoders={image: tfds.decode.SkipDecoding()}
        )
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
