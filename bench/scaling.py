"""What a second process is worth: training in one process and in two, on as many cores, in turns.

Two processes train the same run (`tfvit launch --workers 2`), each on half of the cores and of the batch,
and add up their gradients over loopback. Against them: one process on half of the cores, and one on all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import about
import click
import numpy as np
from command import Command

from edge_demo.tables import table
from tfvit import runs
from tfvit.launch import THREADS
from tfvit.progress import progress

TRAIN = "train --data digits --model {model} --image-size {size} --batch-size {batch} --no-flip"
TRAIN += " --steps 100 --eval-every 100"  # the last row of metrics is of steps 51 to 100
WAYS = ("one process, half of the cores", "one process, all cores", "two processes, half each")


@click.command(cls=Command)
@click.option("--model", default="vit-ti/16", show_default=True)
@click.option("--image-size", "size", default=96, show_default=True)
@click.option("--batch-size", "batch", default=32, show_default=True)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1))
def main(model: str, size: int, batch: int, rounds: int) -> None:
    """Images per second of training, and what they are of one process on half of the cores.

    \b
    Example:
      python bench/scaling.py --rounds 1
    """
    command = TRAIN.format(model=model, size=size, batch=batch).split()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    order = np.random.default_rng(0)
    with progress(rounds * len(WAYS), "training", "run") as bar:
        for _ in range(rounds):
            for way in order.permutation(WAYS).tolist():
                rates[way].append(_rate(way, command))
                bar.update()
    base = rates[WAYS[0]]
    rows = [
        [way, f"{np.median(rate):.0f}", f"{np.median(np.divide(rate, base)):.2f}x"]
        for way, rate in rates.items()
    ]
    click.echo(f"\n{model} at {size} pixels, batches of {batch}\n")
    click.echo(table(rows, ["training in", "images/s", "of half the cores"]))
    click.echo("\n" + about.lines())


def _rate(way: str, command: list[str]) -> float:
    """Images per second of one run."""
    cores = os.cpu_count() or 1
    threads = cores if way == WAYS[1] else max(1, cores // 2)
    launched = ["launch", "--workers", "2", "--"] if way == WAYS[2] else []
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tfvit", *launched, *command, "--out", folder],
            env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise click.ClickException(f"{way}: {done.stderr.strip()}")
        rows = [row for row in runs.read_metrics(Path(folder)) if row["phase"] == "train"]
    return rows[-1]["images_per_second"]


if __name__ == "__main__":
    main()
