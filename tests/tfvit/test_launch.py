"""`tfvit launch` with real processes on loopback."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import BIN, SMALL, until

from tfvit import checkpoint, runs

COMMAND = ("train", "--data", "digits", *SMALL, "--set", "depth=1", "--crop-min-area", "0.5")
COMMAND += ("--eval-every", "4", "--steps")


def workers(launcher):
    """The processes that a launcher has started, in this order."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return list(map(int, children.split()))


def last(folder):
    return checkpoint.read_weights(folder / "last", checkpoint.read_config(folder / "last"))


@pytest.mark.parametrize(
    "steps, killed_at", [(12, 4), pytest.param(50, 20, marks=pytest.mark.long)]
)
def test_two_workers_one_of_them_killed_end_as_one_process(tmp_path, tfvit_cli, steps, killed_at):
    one, two = tmp_path / "one", tmp_path / "two"
    launcher = subprocess.Popen(
        [BIN / "tfvit", "launch", "--workers", "2", "--", *COMMAND, str(steps), "--out", two],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def reached():
        assert launcher.poll() is None
        return any(row["step"] >= killed_at for row in runs.read_metrics(two))

    until(reached, 300)
    os.kill(workers(launcher)[1], signal.SIGKILL)
    assert tfvit_cli(*COMMAND, steps, "--out", one, "--strategy", "one").code == 0
    out, err = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, err
    assert "worker 1 ended by SIGKILL; starting all again" in err
    assert "error: worker 1 (127.0.0.1:" in err and "Traceback" not in err
    assert "resuming after step" in out or f"step {steps:>6}" in out
    rows, others = runs.read_metrics(one), runs.read_metrics(two)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others):
        assert row["loss"] == pytest.approx(other["loss"], abs=1e-4)
    weights, also = last(one), last(two)
    far = {name: float(np.abs(weights[name] - also[name]).max()) for name in weights}
    far = {
        n: d for n, d in far.items() if not n.endswith("key/bias")
    }  # its gradient is rounding alone
    assert max(far.values()) < 1e-3, far
    assert "held out" in (two / runs.WORKERS / "1.log").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("train", "--data", "digits"), "train needs --out"),
        (("eval", "runs/photos"), "launch runs train or pretrain, not eval"),
        (("train", "--strategy", "one", "--out", "{}"), "--strategy one is for one process"),
    ],
)
def test_bad_input_is_passed_through_and_not_tried_again(tmp_path, process, arguments, message):
    arguments = [argument.format(tmp_path / "run") for argument in arguments]
    done = process("tfvit", "launch", "--workers", "2", "--", *arguments)
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1
