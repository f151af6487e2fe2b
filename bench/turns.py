"""What a process of `train_step.py` does: steps, when told to, and how long they took. No imports of ours."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

WARM_UP = 3


def serve(step: Callable[[], float], versions: dict[str, str]) -> None:
    """Reads numbers of steps from standard input and answers each with a line of JSON.

    step: one training step; returns its loss, hence waits for it.
    """
    for _ in range(WARM_UP):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            step()
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "versions": versions}), flush=True)
