"""What several test modules share: where the commands are, and a small model."""

import os
import subprocess
import sys
import time
from pathlib import Path

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


def stopped(command, run, step: int, stop: int) -> tuple[int, str]:
    """Starts `tfvit` and sends it a signal once the metrics of a run have that step; exit code, stderr."""
    from tfvit import runs

    victim = subprocess.Popen(
        [BIN / "tfvit", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while max((row["step"] for row in runs.read_metrics(run)), default=0) < step:
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(stop)
    _, errors = victim.communicate(timeout=60)
    assert "Traceback" not in errors
    return victim.returncode, errors


def two_devices() -> None:
    """Gives TensorFlow two virtual CPUs; to be called before anything has run on one."""
    import tensorflow as tf

    cpu, device = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device] * 2)


if __name__ == "__main__":
    from tfvit.cli import main

    two_devices()
    main()
