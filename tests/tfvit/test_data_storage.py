"""Pictures that lie on another file system: TensorFlow's in memory, which it reaches as it does gs://."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit.data import DataOptions, open_source, pipeline

SPEC = PreprocessSpec(16, 16)


def copied(folder: Path, name: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            target = f"ram://{name}/{path.relative_to(folder).as_posix()}"
            tf.io.gfile.makedirs(target.rpartition("/")[0])
            tf.io.gfile.copy(str(path), target, overwrite=True)
    return f"ram://{name}"


def held_out(data, **options):
    source = open_source(DataOptions(str(data), **options))
    batches = pipeline.eval_batches(source.eval, SPEC, 8, unreadable={})
    return source, list(batches.as_numpy_iterator())


@pytest.mark.parametrize("kind", ["train and test", "classes alone", "several labels"])
def test_pictures_elsewhere_are_those_here(kind, photos, labelled_photos):
    folder = {"classes alone": photos / "train", "several labels": labelled_photos}.get(
        kind, photos
    )
    options = {"holdout": 0.3} if kind == "classes alone" else {}
    here, batches = held_out(folder, **options)
    there, others = held_out(copied(folder, kind.replace(" ", "-")), **options)
    assert (there.labels, there.train.size, there.eval.size, there.multi_label) == (
        *(here.labels, here.train.size),
        *(here.eval.size, here.multi_label),
    )
    for batch, other in zip(batches, others, strict=True):
        assert all(np.array_equal(batch[name], other[name]) for name in batch)


@pytest.mark.parametrize(
    "data, message",
    [
        ("ram://nowhere", "ram://nowhere: no such folder"),
        ("nofs://bucket/photos", "nofs://bucket/photos: "),
    ],
)
def test_what_is_not_there_is_one_line(data, message):
    with pytest.raises(UserError) as error:
        open_source(DataOptions(data))
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
