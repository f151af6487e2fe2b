"""What several test modules share: where the commands are, and a small model."""

import os
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
# A model small enough to train in seconds, with everything a large one has.
SMALL = ("--model", "vit-ti/8", "--image-size", "32", "--set", "depth=2", "--set", "width=48")
SMALL += ("--set", "heads=3", "--set", "mlp_dim=96")

# For programs of tests in processes of their own, which import what is here.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
}
# The command of `tfvit` on a machine with two devices; its arguments follow.
MIRRORED = (sys.executable, __file__)


def two_devices() -> None:
    """Gives TensorFlow two virtual CPUs; to be called before anything has run on one."""
    import tensorflow as tf

    cpu, device = tf.config.list_physical_devices("CPU")[0], tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [device] * 2)


if __name__ == "__main__":
    from tfvit.cli import main

    two_devices()
    main()
