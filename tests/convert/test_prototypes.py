"""Prototypes of the trained classes: what an export stores, and of which pictures."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from convert import model as models
from convert import prototypes
from edge_demo import Classifier, images
from edge_demo.preprocess import to_pixels
from edge_demo.tflite.metadata import read
from tfvit.data import DataOptions, open_source


@pytest.fixture(scope="module")
def source():
    return open_source(DataOptions("digits"))


def test_files_hold_the_mean_direction_of_each_class_and_their_own_head_decides(
    telling, exported, source
):
    report = json.loads((telling / "report.json").read_text())
    classifier = Classifier(telling / "float32.tflite")
    sums = {label: [] for label in classifier.labels}
    for example in source.train.in_order().as_numpy_iterator():
        label = source.labels[example["label"]]
        picture = images.decode(example["data"])
        classifier.logits(to_pixels(picture, classifier.preprocess))
        sums[label].append(classifier.extras["features"])
    for path in telling.glob("*.tflite"):
        inside, stored = read(path), read(path).prototypes
        assert stored.labels == inside.labels == inside.classes and not stored.decide
        assert stored.counts == (prototypes.PER_CLASS,) * 10
        for label, mean in zip(stored.labels, stored.means):
            everything = normalize(np.array(sums[label])).mean(axis=0)
            cosine = mean @ everything / np.linalg.norm(mean) / np.linalg.norm(everything)
            assert cosine > 0.995 and np.linalg.norm(mean) < 1
        measured = report["files"][path.stem]["prototypes"]
        assert measured["images"] == 1000 and measured["scale"] == stored.scale
        float32 = report["files"]["float32"]["accuracy"]["top1"]
        assert measured["top1"] > float32 - 0.1
    assert read(exported / "int8.tflite").prototypes is None


def test_a_stream_of_unknown_labels_gives_the_first_of_each_class(
    telling, digits_run, source, monkeypatch
):
    monkeypatch.setattr(prototypes, "PER_CLASS", 12)
    model = models.read(digits_run / "best")
    path = telling / "float32.tflite"
    stream = dataclasses.replace(source.train, at=None, labels=None)
    streamed, measured = prototypes.measure(model, path, dataclasses.replace(source, train=stream))
    known, _ = prototypes.measure(model, path, source)
    assert streamed.counts == known.counts == (12,) * 10 and measured["images"] == 120
    cosines = normalize(streamed.means) @ normalize(known.means).T
    assert list(cosines.argmax(axis=1)) == list(range(10)) and np.diag(cosines).mean() > 0.85
