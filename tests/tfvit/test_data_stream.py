from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from edge_demo.preprocess import PreprocessSpec
from tfvit import UserError
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.data.augment import Augmentation
from tfvit.data.cache import cached
from tfvit.data.source import shuffled_place

CLASSES = {"many": 18, "some": 6, "one": 2}
SIZE = sum(CLASSES.values())
BATCH = 8
SPEC = PreprocessSpec(6, 10)
VARIED = Augmentation(policy="randaugment")
PLAIN = Augmentation(crop_min_area=1, flip=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures of one level each, 9 x their number, in three classes of unlike size."""
    root = tmp_path_factory.mktemp("levels")
    numbers = itertools.count()
    for (label, count), split in itertools.product(CLASSES.items(), ("train", "test")):
        (root / split / label).mkdir(parents=True)
        for _ in range(count if split == "train" else 1):
            n = next(numbers) % 28
            Image.new("RGB", (20, 12), (9 * n,) * 3).save(root / split / label / f"{n}.png")
    return root


@pytest.fixture(scope="module")
def split(root):
    return open_source(DataOptions(str(root))).train


def stream(split, count, how=VARIED, batch_size=BATCH, bad=None, start_step=0, **options):
    dataset = pipeline.train_batches(
        *(split, SPEC, batch_size),
        augmentation=how,
        seed=3,
        start_step=start_step,
        unreadable={} if bad is None else bad,
        **options,
    )
    return list(dataset.take(count).as_numpy_iterator())


def same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for key in batch:
            np.testing.assert_array_equal(batch[key], other[key])


def levels(batches):
    return np.concatenate([batch["pixels"][:, 0, 0, 0] for batch in batches]).tolist()


@pytest.mark.parametrize("size", [345, 1032, 3443])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_batches_of_pictures_that_lie_by_class_are_as_mixed_as_by_chance(seed, size):
    classes, batch, passes = 5, 64, 40
    labels, each = np.arange(size) * classes // size, size // batch * batch
    chi = []
    for number in range(passes):
        numbers = tf.range(number * size, number * size + each, dtype=tf.int64)
        drawn = labels[shuffled_place(numbers, seed, size).numpy()].reshape(-1, batch)
        expected = batch * np.bincount(labels)[:, None] / size
        counts = np.stack([(drawn == k).sum(axis=1) for k in range(classes)])
        chi.append(((counts - expected) ** 2 / expected).sum(axis=0).mean())
    by_chance = (classes - 1) * (size - batch) / (size - 1)  # drawn without putting back
    assert np.mean(chi) == pytest.approx(by_chance, rel=0.15)


@pytest.mark.parametrize("repeats, balance", [(1, 0.0), (2, 0.5)])
def test_the_pieces_of_all_workers_are_what_one_process_yields(split, repeats, balance):
    how = {"repeats": repeats, "balance": balance}
    whole = stream(split, 5, **how)
    pieces = [stream(split, 10, replicas=4, shard=(i, 2), **how) for i in range(2)]
    joined = [
        {
            key: np.concatenate([p[key] for p in pieces[0][k : k + 2] + pieces[1][k : k + 2]])
            for key in whole[0]
        }
        for k in range(0, 10, 2)
    ]
    same(joined, whole)
    same(stream(split, 2, start_step=3, **how), whole[3:])


def test_a_worker_reads_none_of_the_others_files(root, tmp_path):
    for label in CLASSES:
        (tmp_path / "train" / label).mkdir(parents=True)
        for path in (root / "train" / label).iterdir():
            (tmp_path / "train" / label / path.name).write_bytes(path.read_bytes())
    split = open_source(DataOptions(str(tmp_path), eval_split="train")).train
    first = stream(split, 3, PLAIN, shard=(0, 2), replicas=2)
    seen = {level // 9 for level in levels(first)}
    for path in tmp_path.rglob("*.png"):
        if int(path.stem) not in seen:
            path.unlink()  # whoever reads it fails
    same(stream(split, 3, PLAIN, shard=(0, 2), replicas=2), first)


def test_repeated_augmentation_shows_views_of_the_same_pictures_side_by_side(split):
    for batch in stream(split, 6, PLAIN, repeats=4):
        places = np.reshape(levels([batch]), (4, 2))
        assert (places == places[0]).all() and places[0, 0] != places[0, 1]
    for batch in stream(split, 6, PLAIN, repeats=3):  # 8 rows are two of three views and one of two
        assert sorted(Counter(levels([batch])).values()) == [2, 3, 3]
    seen = levels(stream(split, SIZE // 2, PLAIN, repeats=4))
    assert all(seen.count(level) == 4 for level in seen)  # each picture once in an epoch
    varied = stream(split, 1, repeats=8)[0]["pixels"]
    assert len(np.unique(varied.reshape(8, -1), axis=0)) > 1


@pytest.mark.parametrize(
    "balance, shares",
    [(0.0, [18, 6, 2]), (1.0, [26 / 3] * 3), (0.5, 26 * np.sqrt([18, 6, 2]) / 8.1065)],
)
def test_balance_gives_classes_their_share_of_every_pass(split, balance, shares):
    batches = stream(split, 3, PLAIN, batch_size=SIZE, balance=balance)
    names = list(np.unique(sorted(CLASSES)))  # labels are in the order of the names
    for batch in batches:
        counts = np.bincount(batch["label"], minlength=3)
        assert all(abs(counts[names.index(n)] - s) <= 1 for n, s in zip(CLASSES, shares))
    for label in range(3):  # evenly within a class
        chosen = [p[0, 0, 0] for b in batches for p in b["pixels"][b["label"] == label]]
        times = np.unique(chosen, return_counts=True)[1]
        assert np.ptp(times) <= 1 or len(times) < CLASSES[names[label]]
    assert levels(batches[:1]) != levels(batches[1:2])


def test_pictures_from_the_cache_are_those_decoded(split, tmp_path):
    expected = stream(split, 8)
    for cache in ("memory", str(tmp_path / "cache")):
        same(stream(split, 8, cache=cache), expected)
        same(stream(split, 5, cache=cache, start_step=3), expected[3:])
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == SIZE
    kept[0].write_bytes(kept[0].read_bytes()[:50])  # cut off: decoded again
    same(stream(split, 8, cache=str(tmp_path / "cache")), expected)


def test_a_cache_that_cannot_be_written_is_one_line(split, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=r"--cache .*taken"):
        stream(split, 1, cache=str(tmp_path / "taken"))


def test_threads_that_cache_the_same_picture_do_not_meet(tmp_path):
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    wait = threading.Barrier(8)

    def decode():
        wait.wait()  # all have found the cache empty
        return picture

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(cached, str(tmp_path), b"x", (1, 1), decode) for _ in range(8)]
        assert all(np.array_equal(job.result(), picture) for job in jobs)
    assert np.array_equal(cached(str(tmp_path), b"x", (1, 1), lambda: None), picture)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_parts_of_an_evaluation_are_the_whole(root, replicas):
    held = open_source(DataOptions(str(root), eval_split="train")).eval
    for batch_size in (8, 12, 24):  # the last batch leaves much, little and nothing to the second
        whole = list(
            pipeline.eval_batches(held, SPEC, batch_size, unreadable={}).as_numpy_iterator()
        )
        parts = []
        for i in range(2):
            options = {"unreadable": {}, "replicas": replicas, "shard": (i, 2)}
            part = pipeline.eval_batches(held, SPEC, batch_size, **options).batch(replicas // 2)
            parts.append(list(part.as_numpy_iterator()))
        joined = [{k: np.concatenate([*a[k], *b[k]]) for k in a} for a, b in zip(*parts)]
        assert len(parts[0]) == len(parts[1])
        same(joined, whole)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"repeats": 0}, "repeats 0 must be more than 0"),
        ({"replicas": 3}, "8 does not divide by 3 devices"),
        ({"shard": (0, 3)}, "8 does not divide over 3 processes"),
        ({"shard": (0, 2), "replicas": 1}, "1 devices do not divide over 2 processes"),
        ({"balance": 1.5}, "balance 1.5"),
        ({"services": ["10.0.0.7"]}, "'10.0.0.7' is not grpc://HOST:PORT"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(split, options, message):
    with pytest.raises(UserError, match=message):
        stream(split, 1, **options)


def test_data_services_yield_what_the_trainer_would_itself(split, root):
    servers, addresses = [], []
    try:
        for _ in range(2):
            code = "from tfvit.commands.data_service import data_service; data_service()"
            command = [sys.executable, "-c", code, "--port", "0"]
            servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for server in servers:
            line = server.stdout.readline()
            assert line.startswith("serving at grpc://127.0.0.1:")
            addresses.append(line.split()[-1])
        bad = root / "train" / "many" / "text.jpg"
        bad.write_text("no picture")
        split, found = open_source(DataOptions(str(root))).train, [{}, {}]
        expected = stream(split, 9, start_step=2, bad=found[0])
        same(stream(split, 9, start_step=2, bad=found[1], services=addresses), expected)
        assert set(found[1]) == {str(bad)}
        assert found[1] == found[0]
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
    for server in servers:
        assert server.wait(60) == 0
        assert server.stdout.read() == "stopped\n"
