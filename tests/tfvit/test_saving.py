"""Checkpoints of a run: written in the background, and the one that a damaged run goes on from."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

import tfvit
from edge_demo.errors import UserError
from tfvit import checkpoint, exit_codes, peers, runs, saving
from tfvit.cluster import Cluster
from tfvit.model import named_weights
from tfvit.preemption import Preemption


@pytest.fixture(scope="module")
def model():
    return tfvit.create_model("vit-mu/8", 3, 16)


def snapshot(model, step):
    """A snapshot whose weights and state tell the step."""
    for variable in model.weights:
        variable.assign(np.full(variable.shape, step, np.float32))
    model.card = dataclasses.replace(model.card, provenance={"step": step})
    return checkpoint.snapshot(model, {"slot": np.full(3, step), "count": np.int64(step)})


def assert_is_of(saved, step):
    assert saved.step == step
    assert all((value == step).all() for value in saved.weights.values())
    assert (saved.state["slot"] == step).all() and saved.state["count"] == step


def test_what_is_written_is_what_was_when_it_was_saved(tmp_path, model):
    with saving.Saver(tmp_path) as saver:
        saver.save(snapshot(model, 1))
        for variable in model.weights:
            variable.assign_add(np.full(variable.shape, 5, np.float32))
    assert_is_of(saving.newest(tmp_path, pytest.fail), 1)


def test_the_one_before_is_kept_and_the_best_is_a_checkpoint(tmp_path, model):
    with saving.Saver(tmp_path) as saver:
        for step in (1, 2, 3):
            saver.save(snapshot(model, step), checkpoint.snapshot(model) if step == 2 else None)
    for name, step in ((runs.LAST, 3), (runs.PREVIOUS, 2), (runs.BEST, 2)):
        loaded = tfvit.load(tmp_path / name)
        assert loaded.provenance["step"] == step
        assert all((w.numpy() == step).all() for w in named_weights(loaded).values())
    assert sorted(os.listdir(tmp_path)) == sorted((runs.LAST, runs.PREVIOUS, runs.BEST))


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, os.remove])
@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.OPTIMIZER, checkpoint.CONFIG])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, model, name, damage):
    if (name, damage) == (checkpoint.CONFIG, flip):
        return  # a flipped digit of a metric is no damage
    with saving.Saver(tmp_path) as saver:
        saver.save(snapshot(model, 1))
        saver.save(snapshot(model, 2))
    damage(tmp_path / runs.LAST / name)
    said = []
    saved = saving.newest(tmp_path, said.append)
    assert_is_of(saved, 1)
    assert len(said) == 1 and "going on from the one before, of step 1" in said[0]
    assert "\n" not in said[0]
    with saving.Saver(
        tmp_path, keep=saved.is_newest
    ) as saver:  # the good one must not be lost for it
        saver.save(snapshot(model, 2))
    assert_is_of(saving.newest(tmp_path, pytest.fail), 2)
    shutil.rmtree(tmp_path / runs.LAST)
    assert_is_of(saving.newest(tmp_path, pytest.fail), 1)


def test_with_none_left_it_says_so(tmp_path, model):
    assert saving.newest(tmp_path, pytest.fail) is None
    with saving.Saver(tmp_path) as saver:
        saver.save(snapshot(model, 1))
    cut(tmp_path / runs.LAST / checkpoint.WEIGHTS)
    with pytest.raises(UserError, match="no good checkpoint is left"):
        saving.newest(tmp_path, pytest.fail)


def test_a_disk_that_refuses_is_told_at_the_next_call(tmp_path, model):
    (tmp_path / runs.LAST).write_text("in the way")
    saver = saving.Saver(tmp_path)
    saver.save(snapshot(model, 1))
    with pytest.raises(UserError, match="last"):
        saver.save(snapshot(model, 2))
    with pytest.raises(UserError, match="last"), saving.Saver(tmp_path) as saver:
        saver.save(snapshot(model, 1))
    assert (tmp_path / runs.LAST).read_text() == "in the way"


def test_only_the_chief_writes(tmp_path, model):
    with saving.Saver(tmp_path, writes=False, every=0) as saver:
        assert not saver.due
        saver.save(snapshot(model, 1))
    assert not list(tmp_path.iterdir())


def test_due_by_the_clock(tmp_path, model):
    assert saving.Saver(tmp_path, every=0).due
    assert not saving.Saver(tmp_path, every=1000).due
    assert not saving.Saver(tmp_path).due


def test_signals_wait_for_the_end_of_a_step():
    import tensorflow as tf

    one = tf.distribute.get_strategy()
    with Preemption() as preemption:
        assert preemption.after(1, one) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.after(2, one) == exit_codes.PREEMPTED
    with Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.after(1, one) == exit_codes.INTERRUPTED
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


PEER = """
import socket, sys, time
from tfvit import peers
from tfvit.cluster import Cluster
peers.EVERY = 0.05
other = socket.create_server(("127.0.0.1", 0))
address = f"127.0.0.1:{other.getsockname()[1]}"
watch = peers.Watch(Cluster(("127.0.0.1:9", address), 0))
time.sleep(0.5)
if sys.argv[1] == "regular":
    watch.stop()
other.close()
time.sleep(1 if sys.argv[1] == "regular" else 30)
"""


MEET = """
import socket, sys
from tfvit import peers
from tfvit.cluster import Cluster
peers.ANNOUNCE = 0
peers.meet(Cluster(tuple(sys.argv[1].split(",")), int(sys.argv[2])))
"""


def test_workers_wait_for_each_other_and_say_for_whom():
    with socket.socket() as one, socket.socket() as two:
        for reserved in (one, two):  # bound and not listening: a worker may, and nobody else
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{s.getsockname()[1]}" for s in (one, two)]
        command = [sys.executable, "-c", MEET, ",".join(addresses)]
        second = subprocess.Popen([*command, "1"], stderr=subprocess.PIPE, text=True)
        assert second.stderr.readline() == f"waiting for worker 0 ({addresses[0]})\n"
        one.listen()
        assert second.wait(60) == 0


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of this worker"):
            peers.meet(Cluster((f"127.0.0.1:{port}", "127.0.0.1:9"), 0))


@pytest.mark.parametrize("end, code", [("lost", exit_codes.LOST_WORKER), ("regular", 0)])
def test_a_peer_that_is_gone_ends_the_process_by_one_line(end, code):
    done = subprocess.run([sys.executable, "-c", PEER, end], capture_output=True, text=True)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert len(lines) == (end == "lost")
    assert all("worker 1 (127.0.0.1:" in line and "--resume" in line for line in lines)
