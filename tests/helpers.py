"""What several test modules share: where the commands are, and a small model."""

import sys
from pathlib import Path

BIN = Path(sys.executable).parent
# A model small enough to train in seconds, with everything a large one has.
SMALL = ("--model", "vit-ti/8", "--image-size", "32", "--set", "depth=2", "--set", "width=48")
SMALL += ("--set", "heads=3", "--set", "mlp_dim=96")
