"""A real TFDS set on disk, written by TFDS itself: what mocked data cannot show."""

import json

import numpy as np
import pytest
from helpers import SMALL
from PIL import Image
from small_models import labelled

import tfvit
from edge_demo.preprocess import PreprocessSpec, to_pixels
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.data.augment import Augmentation

TINY = (*SMALL, "--set", "depth=1")


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def stored(request, photos):
    """The photos as a TFDS set; returns its name, and the images and labels of test in TFDS's order."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    labels = ["china", "flower"]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=labels),
        }
    )

    def dataset(split):
        def examples():
            for number, label in enumerate(labels):
                for path in sorted((photos / split / label).iterdir()):
                    yield {"image": np.asarray(Image.open(path)), "label": number}

        signature = {
            "image": tf.TensorSpec([None, None, 3], tf.uint8),
            "label": tf.TensorSpec([], tf.int64),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    tfds.dataset_builders.store_as_tfds_dataset(
        name=f"two_photos_{request.param}",
        version="1.0.0",
        features=features,
        split_datasets={split: dataset(split) for split in ("train", "test")},
        data_dir=tfds.core.constants.DATA_DIR,
        file_format=request.param,
    )
    builder = tfds.builder(f"two_photos_{request.param}")
    if request.param == "array_record":
        return f"tfds:{builder.name}", builder.as_data_source(split="test")
    return f"tfds:{builder.name}", tfds.as_numpy(builder.as_dataset(split="test"))


def test_pixels_and_labels_are_those_that_were_stored(stored):
    name, examples = stored
    source = open_source(DataOptions(name))
    assert (source.labels, source.train.size, source.eval.size) == (("china", "flower"), 48, 16)
    spec = PreprocessSpec(24, 32)
    (batch,) = pipeline.eval_batches(source.eval, spec, 16, unreadable={}).as_numpy_iterator()
    for pixels, label, expected in zip(batch["pixels"], batch["label"], examples):
        assert label == expected["label"]
        assert np.array_equal(pixels, to_pixels(Image.fromarray(expected["image"]), spec))


def test_a_split_expression_and_resuming_in_the_middle(stored):
    options = DataOptions(stored[0], train_split="train[:75%]", eval_split="train[75%:]")
    source = open_source(options)
    assert (source.train.size, source.eval.size) == (36, 12)

    def batches(start, count):
        stream = pipeline.train_batches(
            *(source.train, PreprocessSpec(16, 16), 8),
            augmentation=Augmentation(),
            seed=5,
            start_step=start,
            unreadable={},
        )
        return list(stream.take(count).as_numpy_iterator())

    whole, resumed = batches(0, 12), batches(7, 5)  # two epochs and a half, from within the second
    for batch, other in zip(whole[7:], resumed):
        assert all(np.array_equal(batch[key], other[key]) for key in batch)
    assert not np.array_equal(whole[0]["label"], whole[1]["label"]) or not np.array_equal(
        whole[0]["pixels"], whole[1]["pixels"]
    )


def test_training_from_tfds(stored, tmp_path, tfvit_cli):
    done = tfvit_cli(
        *("train", "--data", stored[0], *TINY, "--epochs", "2", "--batch-size", "8"),
        *("--out", tmp_path / "run"),
    )
    assert done.code == 0, done.err
    assert "48 training, 16 held out, 2 classes" in done.out


def test_few_shots_of_labels_that_are_known_only_by_reading(stored, photos, tmp_path, tfvit_cli):
    tfvit.save(labelled(("any",)), tmp_path / "model")
    out, accuracies = tmp_path / "figures.json", []
    command = ("fewshot", tmp_path / "model", "--json", out, "--seeds", "1", "--data")
    for data in (stored[0], photos):  # the same pictures, all of which are drawn
        done = tfvit_cli(*command, data, "--shots", "24")
        assert done.code == 0, done.err
        (found,) = json.loads(out.read_text())["models"].values()
        accuracies += found["fixed"][0]["accuracies"]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1.1 / 16)
    done = tfvit_cli(*command, stored[0], "--shots", "25")
    assert done.code == 2 and "too few of china (24), flower (24)" in done.err


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def unlabelled(request, photos):
    """The photos as a TFDS set of pictures alone; its name."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def dataset(split):
        def examples():
            for path in sorted((photos / split).rglob("*.jpg")):
                yield {"picture": np.asarray(Image.open(path)), "id": path.stem}

        signature = {
            "picture": tf.TensorSpec([None, None, 3], tf.uint8),
            "id": tf.TensorSpec([], tf.string),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    features = {"picture": tfds.features.Image(encoding_format="png"), "id": tfds.features.Text()}
    tfds.dataset_builders.store_as_tfds_dataset(
        name=f"only_photos_{request.param}",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={split: dataset(split) for split in ("train", "test")},
        data_dir=tfds.core.constants.DATA_DIR,
        file_format=request.param,
    )
    return f"tfds:only_photos_{request.param}"


def test_a_set_without_labels_is_for_pretraining_alone(unlabelled, photos, tmp_path, tfvit_cli):
    source = open_source(DataOptions(unlabelled), labelled=False)
    assert (source.labels, source.train.size, source.eval.size) == (("0",), 48, 16)
    spec = PreprocessSpec(24, 32)
    (batch,) = pipeline.eval_batches(source.eval, spec, 16, unreadable={}).as_numpy_iterator()
    expected = [
        to_pixels(Image.open(path).convert("RGB"), spec)
        for path in (photos / "test").rglob("*.jpg")
    ]
    assert sorted(x.tobytes() for x in batch["pixels"]) == sorted(x.tobytes() for x in expected)
    assert not batch["label"].any()

    options = (*TINY, "--steps", "2", "--batch-size", "8", "--out", tmp_path / "run")
    done = tfvit_cli("pretrain", "--data", unlabelled, *options)
    assert done.code == 0, done.err
    assert "48 training, 16 held out" in done.out
    for command in (("train", *options[:-1], tmp_path / "new"), ("eval", tmp_path / "run")):
        done = tfvit_cli(*command, "--data", unlabelled)
        reason = (
            "not a set of images with one label or several each; tfvit pretrain takes its pictures"
        )
        assert (done.code, done.err) == (2, f"error: {unlabelled}: {reason}\n")
    assert not (tmp_path / "new").exists()


def test_a_set_that_cannot_be_downloaded_is_one_line(monkeypatch, tmp_path, tfvit_cli):
    import requests

    def refuse(*args, **kwargs):
        raise requests.ConnectionError("the network is unreachable")

    monkeypatch.setattr(requests.Session, "get", refuse)
    done = tfvit_cli("train", "--data", "tfds:beans", *SMALL, "--out", tmp_path / "run")
    assert done.code == 2
    line = "error: tfds:beans: cannot be downloaded or prepared (the network is unreachable)"
    assert line in done.err.splitlines()
    assert not (tmp_path / "run").exists()
