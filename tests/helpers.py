"""What several test modules share: where the commands are, and a small model."""

import sys
from pathlib import Path

BIN = Path(sys.executable).parent
# A model small enough to train in seconds, with everything a large one has.
SMALL = ("--model", "vit-ti/8", "--image-size", "32", "--set", "depth=2", "--set", "width=48")
SMALL += ("--set", "heads=3", "--set", "mlp_dim=96")

# A program: `tfvit` on a machine with two devices. Its arguments are those of `tfvit`.
MIRRORED = """
import sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from tfvit.cli import main
main(sys.argv[1:], standalone_mode=False)
"""
