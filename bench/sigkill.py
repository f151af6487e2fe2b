"""Kills a training run at random moments, resumes it each time, and compares its end with an unbroken one.

    python bench/sigkill.py                    # one process, 20 times: weights equal to the last bit
    python bench/sigkill.py --workers 2        # a worker of `tfvit launch`, which restarts by itself

Digits and a small model, some minutes. Ends with exit code 1 if the two runs differ.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tfvit import checkpoint, runs

SMALL = "--data digits --model vit-ti/8 --image-size 32 --set depth=2 --set width=48 --set heads=3"
SMALL += " --set mlp_dim=96 --dropout 0.1 --ema 0.9 --seed 3 --eval-every 5"
WITHIN = 0.5  # seconds after the step that was drawn, so that writing a checkpoint is hit, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    moments = sorted(rng.randrange(1, asked.steps - 10) for _ in range(asked.kills))
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        start(asked, whole).wait()
        process, before = start(asked, broken), set()
        for number, step in enumerate(moments, 1):
            while last_step(broken) < step or not victims(process, asked.workers) - before:
                if process.poll() is not None:
                    sys.exit(f"ended by itself with {process.returncode} before step {step}")
                time.sleep(0.01)
            time.sleep(rng.uniform(0, WITHIN))
            before = victims(process, asked.workers)
            reached, victim = last_step(broken), rng.choice(sorted(before) or [process.pid])
            os.kill(victim, signal.SIGKILL)
            print(f"kill {number:2} of {asked.kills} at step {reached}", flush=True)
            if asked.workers == 1:
                process.wait()
                process = start(asked, broken)
                before = set()
        if process.wait():
            sys.exit(f"ended with {process.returncode}")
        difference = largest_difference(whole, broken)
        print(f"largest difference of a weight at the end: {difference:g}")
        sys.exit(int(difference > (0 if asked.workers == 1 else 1e-4)))


def start(asked: argparse.Namespace, run: Path) -> subprocess.Popen:
    """The run, or the rest of it, in processes of its own; silent."""
    command = [sys.executable, "-m", "tfvit"]
    if asked.workers > 1:
        command += ["launch", "--workers", str(asked.workers), "--retries", str(asked.kills), "--"]
    command += ["train", *SMALL.split(), "--steps", str(asked.steps), "--out", str(run), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def victims(process: subprocess.Popen, workers: int) -> set[int]:
    """The processes that train."""
    if workers == 1:
        return {process.pid}
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return {int(child) for child in children}


def last_step(run: Path) -> int:
    """The last step that is logged."""
    return max((row["step"] for row in runs.read_metrics(run)), default=0)


def largest_difference(first: Path, second: Path) -> float:
    """Between the weights of two runs' last checkpoints."""
    weights = [
        checkpoint.read_weights(run / runs.LAST, checkpoint.read_config(run / runs.LAST))
        for run in (first, second)
    ]
    return max(float(np.abs(weights[0][name] - weights[1][name]).max()) for name in weights[0])


if __name__ == "__main__":
    main()
