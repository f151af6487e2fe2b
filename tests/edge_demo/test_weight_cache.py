"""--weight-cache: the same answers as without it, whatever lies in the folder and whoever else uses it."""

import csv
import io
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path

import ai_edge_litert
import numpy as np
import pytest
from helpers import BIN, ENVIRONMENT
from test_edge_cli import check_one_line
from test_foreign import LABELS, LAYOUTS, by_eights, converted

from edge_demo import Classifier, Foreign, UserError, machine
from edge_demo.prototypes import none
from edge_demo.tflite import metadata
from edge_demo.tflite.weight_cache import KEPT, STALE

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


def line_of(cache):
    return cache.with_name(f"{cache.name}.crc32")


def is_mapped(cache) -> bool:
    return str(cache) in Path("/proc/self/maps").read_text()


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


def test_schemes_and_outputs_answer_the_same_to_the_last_bit(exported, telling, folder):
    files = [*exported.glob("*.tflite"), telling / "float32.tflite", telling / "int8.tflite"]
    for path in files:
        check_same_answers(path, folder)
    assert len(list(folder.glob(CACHE))) == len(files) == 4
    outputs = {name for path in files for name in metadata.read(path).outputs}
    assert outputs == {"logits", "features", "attention"}


def test_a_model_that_a_cache_would_make_wrong_does_without(telling, folder):
    """All its norms share one constant at several scales, which XNNPACK's cache takes for the same."""
    said, path = [], telling / "int8-full.tflite"
    classifier, alone = Classifier(path, weight_cache=folder, say=said.append), Classifier(path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(classifier.logits(pixels), alone.logits(pixels))
    reason = "with XNNPACK's cache the model's answers are others"
    assert said == [f"weight cache {folder}: {reason}; running without it"]
    assert not list(folder.iterdir())


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
    assert not is_mapped(cache)
    second = Classifier(int8, weight_cache=folder)
    assert is_mapped(cache)
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
    shutil.copy(line_of(other), line_of(cache))


DAMAGES = {
    "one bit": flip,
    "the end is cut off": cut,
    "empty": lambda cache, _: cache.write_bytes(b""),
    "not there": lambda cache, _: cache.unlink(),
    "another model's": of_another,
    "another model's with its checksum": of_another_with_its_checksum,
    "no checksum": lambda cache, _: line_of(cache).unlink(),
    "no text as checksum": lambda cache, _: line_of(cache).write_bytes(b"\xff" * 99),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_is_made_anew(name, int8, folder, tmp_path):
    check_same_answers(int8, folder)
    cache, other = cache_in(folder), tmp_path / "other.xnnpack"
    content, line = cache.read_bytes(), line_of(cache).read_text()
    middle = len(content) // 3, len(content) // 2
    changed = content[: middle[0]] + bytes(middle[1] - middle[0]) + content[middle[1] :]
    other.write_bytes(changed)  # as of another training: XNNPACK takes it
    changed_line = f"{zlib.crc32(changed):08x}{line[8:].replace('.xnnpack', '.0.xnnpack')}"
    line_of(other).write_text(changed_line)
    DAMAGES[name](cache, other)
    check_same_answers(int8, folder)
    assert cache.read_bytes() == content
    assert line_of(cache).read_text() == line
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("share", [0, 0.5, 0.9999])
def test_where_the_disk_is_full_the_model_runs_without(share, int8, picture, folder, tmp_path):
    """A file that may grow no longer is what a full disk does."""
    Classifier(int8, weight_cache=tmp_path / "room")
    most = int(share * cache_in(tmp_path / "room").stat().st_size)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    done = run(int8, picture, folder, preexec_fn=limit)
    assert done.stdout == run(int8, picture).stdout
    reason = "it cannot be written; is the disk full?"
    assert done.stderr == f"weight cache {folder}: {reason}; running without it\n"
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_to_is_one_line(int8, picture):
    folder = picture / "weights"
    done = run(int8, picture, folder)
    assert done.stderr == f"weight cache {folder}: Not a directory; running without it\n"
    assert done.stdout == run(int8, picture).stdout


# --- around the cache


def command(model, picture, folder=None) -> list:
    options = ("--weight-cache", folder) if folder else ()
    return [BIN / "edge-demo", model, "--source", picture, "--csv", *options]


def run(model, picture, folder=None, **kwargs):
    """Its output without the times, which are never the same."""
    done = subprocess.run(
        command(model, picture, folder), capture_output=True, text=True, check=True, **kwargs
    )
    done.stdout = timeless(done.stdout)
    return done


def timeless(text: str) -> list[tuple]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return [(row["label"], row["score"]) for row in rows]


def test_the_command_writes_nothing_but_its_results(int8, picture, folder):
    expected = run(int8, picture)
    assert expected.stdout and expected.stderr == ""
    for _ in ("made", "found"):
        done = run(int8, picture, folder)
        assert (done.stdout, done.stderr) == (expected.stdout, "")
    assert cache_in(folder)


ENDS = """
import atexit, sys
atexit.register(lambda: print("the end", file=sys.stderr))
from edge_demo import Classifier
kept = Classifier(sys.argv[1], weight_cache=sys.argv[2])
kept.warm_up()
def short():
    Classifier(sys.argv[1], weight_cache=sys.argv[2]).warm_up()
short()
print("between", file=sys.stderr)
Classifier(sys.argv[1], weight_cache=sys.argv[2])
"""


def test_a_program_hears_all_that_python_says_and_nothing_else(int8, folder):
    ends = [sys.executable, "-c", ENDS, int8, folder]
    done = subprocess.run(ends, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert (done.stdout, done.stderr) == ("", "between\nthe end\n")


def test_processes_that_start_at_once_do_no_harm(int8, picture, folder):
    expected = run(int8, picture).stdout
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command(int8, picture, folder), **pipes) for _ in range(3)]
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, timeless(out), err) == (0, expected, "")
    cache = cache_in(folder)
    assert {path.name for path in folder.iterdir()} == {cache.name, line_of(cache).name}
    before = cache.stat().st_ino
    check_same_answers(int8, folder)
    assert cache.stat().st_ino == before


def test_a_delegate_and_a_cache_are_one_line(edge_cli, int8, picture, folder):
    done = edge_cli(
        *(int8, "--source", picture, "--weight-cache", folder, "--delegate", "libchip.so")
    )
    check_one_line(done, "--weight-cache and --delegate exclude each other")
    assert not folder.exists()


def test_what_is_no_folder_is_one_line(edge_cli, int8, picture):
    check_one_line(edge_cli(int8, "--source", picture, "--weight-cache", picture), picture)


def test_a_model_for_a_batch_alone_is_refused_as_ever(folder, tmp_path):
    path = tmp_path / "eights.tflite"
    path.write_bytes(converted(by_eights, (8, 96, 96, 3)))
    foreign, said = Foreign(LABELS, mean=(127.5,), std=(127.5,)), []
    with pytest.raises(UserError, match="a batch of 8, not of 1"):
        Classifier(path, foreign=foreign, weight_cache=folder, say=said.append)
    assert len(said) == 1


# --- what is taken out of the folder, and what is not


def test_a_new_version_replaces_the_cache_of_the_one_before_on_this_processor(int8, folder):
    Classifier(int8, weight_cache=folder)
    cache = cache_in(folder)
    model, processor, version = re.fullmatch(r"(.*-.*)-(.*)-(.*)\.xnnpack", cache.name).groups()
    assert version == ai_edge_litert.__version__
    former = f"{model}-{processor}-0.0.1.xnnpack"
    elsewhere = f"{model}-{'0' * 8}-{version}.xnnpack"
    for name in (former, elsewhere):
        shutil.copy(cache, folder / name)
        shutil.copy(line_of(cache), line_of(folder / name))
    cache.unlink()
    check_same_answers(int8, folder)
    assert {path.name for path in folder.glob(CACHE)} == {cache.name, elsewhere}
    assert len(list(folder.iterdir())) == 4


def test_the_oldest_go_and_files_of_others_stay(int8, folder):
    folder.mkdir(parents=True)
    others = {"notes.txt", "model.xnnpack", "0-0-0-1.xnnpack", ".hidden.partial", "int8.tflite"}
    for name in others:
        (folder / name).write_text("mine")
        os.utime(folder / name, (1, 1))
    now = time.time()
    caches = [f"{i:08x}-100-{'ab' * 4}-2.3.0.xnnpack" for i in range(KEPT + 3)]
    for age, name in enumerate(caches):
        for path in (folder / name, line_of(folder / name)):
            path.write_text("ours")
            os.utime(path, (now - 100 * age, now - 100 * age))
    left, going_on = f".{caches[0]}.0123abcd.partial", f".{caches[1]}.0123abcd.partial"
    for name, age in ((left, STALE + 5), (going_on, STALE - 30)):
        (folder / name).write_text("half")
        os.utime(folder / name, (now - age, now - age))
    Classifier(int8, weight_cache=folder)
    found = {path.name for path in folder.iterdir()}
    (new,) = {n for n in found if n.endswith(".xnnpack")} - set(caches) - others
    kept = {new, *caches[: KEPT - 1]}
    assert found == {*others, going_on, *kept, *(f"{name}.crc32" for name in kept)}


def test_a_processor_is_told_by_what_it_can_do(monkeypatch):
    """Of two boards, and of one at another time and speed."""
    arm = "processor : {}\nBogoMIPS : {}\nFeatures : fp asimd {}\nCPU part : 0xd08\n\n"

    def board(core, speed, features):
        text = "".join(arm.format(i, speed, features) for i in range(core))
        monkeypatch.setattr(machine, "_read", lambda path: text)
        return machine.instructions()

    assert board(4, 38.4, "crc32") == board(2, 108.0, "crc32")
    assert board(4, 38.4, "crc32") != board(4, 38.4, "crc32 asimddp")
