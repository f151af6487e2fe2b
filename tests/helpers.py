"""What several test modules share: where the commands are, and a small model."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

BIN = Path(sys.executable).parent
# A model small enough to train in seconds, with everything a large one has.
SMALL = ("--model", "vit-ti/8", "--image-size", "32", "--set", "depth=2", "--set", "width=48")
SMALL += ("--set", "heads=3", "--set", "mlp_dim=96")

# For programs of tests in processes of their own, which import what is here. The packages come first:
# the folders of their tests have the same names.
TESTS = Path(__file__).parent
PATHS = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)}
# The command of `tfvit` on a machine with two devices, in ENVIRONMENT; its arguments follow.
MIRRORED = (sys.executable, __file__)


Found = TypeVar("Found")


def until(condition: Callable[[], Found], seconds: float = 60) -> Found:
    """Waits for a condition to hold, and gives what it gave; only what is broken takes long."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)
    return found


def stopped(command, run, step: int, stop: int) -> tuple[int, str]:
    """Starts `tfvit` and sends it a signal once the metrics of a run have that step; exit code, stderr."""
    from tfvit import runs

    victim = subprocess.Popen(
        [BIN / "tfvit", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def reached() -> bool:
        assert victim.poll() is None
        return any(row["step"] >= step for row in runs.read_metrics(run))

    until(reached, 300)
    victim.send_signal(stop)
    _, errors = victim.communicate(timeout=60)
    assert "Traceback" not in errors
    return victim.returncode, errors


def terminated_at(stop: int) -> Callable:
    """In place of `tfvit.train.make_train_step`: this process gets SIGTERM in that step."""
    from tfvit.step import make_train_step

    def make(*args):
        step = make_train_step(*args)

        def stopping(batch, number):
            if int(number) == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return step(batch, number)

        return stopping

    return make


def two_devices() -> None:
    """Gives TensorFlow two virtual CPUs; to be called before anything has run on one."""
    import tensorflow as tf

    cpu, device = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device] * 2)


if __name__ == "__main__":
    from tfvit.cli import main

    two_devices()
    main()
