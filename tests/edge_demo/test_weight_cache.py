"""--weight-cache: the same answers as without it, whatever lies in the folder and whoever else uses it."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import BIN, ENVIRONMENT
from test_edge_cli import check_one_line
from test_foreign import LABELS, LAYOUTS, by_eights, converted, network

from edge_demo import Classifier, Foreign, metadata
from edge_demo.prototypes import none

CACHE = "*.xnnpack"


@pytest.fixture()
def folder(tmp_path):
    return tmp_path / "packed" / "weights"


@pytest.fixture()
def picture(digits, tmp_path):
    path = tmp_path / "digit.png"
    digits[0][7].save(path)
    return path


def cache_in(folder):
    (path,) = folder.glob(CACHE)
    return path


def answers(path, pictures, **options) -> list[list[np.ndarray]]:
    """Of each picture the logits and what else the model tells."""
    classifier = Classifier(path, say=pytest.fail, **options)
    rng = np.random.default_rng(0)
    spec, found = classifier.preprocess, []
    for _ in range(pictures):
        pixels = rng.integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        found.append([classifier.logits(pixels), *classifier.extras.values()])
    return found


def check_same_answers(path, folder, **options):
    """To the last bit, where the cache is made and where it is found."""
    expected = answers(path, 3, **options)
    for _ in ("made", "found"):
        for found, wanted in zip(answers(path, 3, weight_cache=folder, **options), expected):
            assert len(found) == len(wanted)
            for one, other in zip(found, wanted):
                np.testing.assert_array_equal(one, other)
    assert not np.array_equal(expected[0][0], expected[1][0])


def test_all_schemes_and_outputs_answer_the_same_to_the_last_bit(exported, telling, folder):
    files = [*exported.glob("*.tflite"), *telling.glob("*.tflite")]
    for path in files:
        check_same_answers(path, folder)
    assert len(list(folder.glob(CACHE))) == len(files)
    outputs = {name for path in files for name in metadata.read(path).outputs}
    assert outputs == {"logits", "features", "attention"}


INTEGER = {"uint8": np.uint8, "int8": np.int8}


@pytest.mark.parametrize("name", [*LAYOUTS, *INTEGER])
def test_models_from_elsewhere_answer_the_same_to_the_last_bit(name, folder, tmp_path):
    import tensorflow as tf

    function, shape, _ = LAYOUTS.get(name, LAYOUTS["plain"])
    settings, rng = {}, np.random.default_rng(0)
    if name in INTEGER:
        ends = tf.as_dtype(INTEGER[name])
        examples = rng.uniform(-1, 1, (4, *shape)).astype(np.float32)
        settings = {"representative_dataset": lambda: ([each] for each in examples)}
        settings |= {"inference_input_type": ends, "inference_output_type": ends}
        settings["optimizations"] = [tf.lite.Optimize.DEFAULT]
    path = tmp_path / "model.tflite"
    path.write_bytes(converted(function, shape, **settings))
    told = Foreign(LABELS, mean=(127.5,), std=(127.5,), scores="softmax")
    check_same_answers(path, folder, foreign=told)
    assert cache_in(folder).stat().st_size


def test_a_cache_is_used_and_not_written_again(int8, folder):
    first = Classifier(int8, weight_cache=folder)
    cache = cache_in(folder)
    before = cache.stat()
    del first
    assert str(cache) not in open("/proc/self/maps").read()
    second = Classifier(int8, weight_cache=folder)
    assert str(cache) in open("/proc/self/maps").read()
    second.warm_up()
    after = cache.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_model_with_enrolled_classes_shares_the_cache_of_its_graph(telling, folder, tmp_path):
    path, enrolled = telling / "int8.tflite", tmp_path / "enrolled.tflite"
    features = answers(path, 3)[0][1]
    known = none(len(features)).enrolled("mug", features[np.newaxis])
    metadata.describe(path, enrolled, prototypes=known.enrolled("cup", -features[np.newaxis]))
    check_same_answers(path, folder)
    check_same_answers(enrolled, folder)
    assert cache_in(folder)


# --- what is wrong with a cache


def flip(cache, _):
    data = bytearray(cache.read_bytes())
    data[len(data) // 2] ^= 0x40
    cache.write_bytes(data)


def cut(cache, _):
    os.truncate(cache, cache.stat().st_size * 2 // 3)


def of_another(cache, other):
    shutil.copy(other, cache)


def of_another_with_its_checksum(cache, other):
    of_another(cache, other)
    shutil.copy(f"{other}.crc32", f"{cache}.crc32")


DAMAGES = {
    "one bit": flip,
    "the end is cut off": cut,
    "empty": lambda cache, _: cache.write_bytes(b""),
    "not there": lambda cache, _: cache.unlink(),
    "another model's": of_another,
    "another model's with its checksum": of_another_with_its_checksum,
    "no checksum": lambda cache, _: os.unlink(f"{cache}.crc32"),
    "no text as checksum": lambda cache, _: open(f"{cache}.crc32", "wb").write(b"\xff" * 99),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_is_made_anew(name, exported, int8, folder, tmp_path, join_model):
    right = answers(int8, 2)
    check_same_answers(int8, folder)
    cache = cache_in(folder)
    content = cache.read_bytes()
    # the same graph with one weight of another value: a cache of this model would fit
    other = tmp_path / "other.xnnpack"
    changed = bytearray(content)
    changed[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    other.write_bytes(changed)
    line = open(f"{cache}.crc32").read()
    (tmp_path / "other.xnnpack.crc32").write_text(line.replace("xnnpack", "other"))
    DAMAGES[name](cache, other)
    for found, wanted in zip(answers(int8, 2, weight_cache=folder), right):
        np.testing.assert_array_equal(found[0], wanted[0])
    assert cache.read_bytes() == content
    assert len(list(folder.iterdir())) == 2
