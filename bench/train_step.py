"""How many images a second a training step does, against PyTorch and `transformers`, on this machine.

A step is forward and backward pass, clipping and AdamW. Every contestant runs in a process of its own
and does a few steps when it is told to; they take turns, each time in another order, so that what else
the machine does meets all alike. PyTorch's model is the same one written plainly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import about
import click
import numpy as np
from command import Command

from edge_demo.tables import table
from tfvit.progress import progress

DTYPES = ("bfloat16", "float32")
OURS = ("tfvit", "tfvit --xla")
THEIRS = ("torch eager", "torch compiled", "transformers")
HERE = Path(__file__).parent


@click.command(cls=Command)
@click.option("--case", "cases", multiple=True, default=("vit-ti/16:32", "vit-s/16:16"))
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), default=DTYPES)
@click.option("--only", multiple=True, type=click.Choice(OURS + THEIRS), help="These alone.")
@click.option("--rounds", default=8, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=2, show_default=True, type=click.IntRange(1), help="Per turn.")
@click.option(
    "--torch-python",
    envvar="TORCH_PYTHON",
    default=".venv-torch/bin/python",
    show_default=True,
    help="A Python with torch and transformers (TORCH_PYTHON).",
)
def main(cases, dtypes, only, rounds: int, steps: int, torch_python: str) -> None:
    """Images per second of a training step, and what they are of PyTorch's best.

    \b
    Example:
      python bench/train_step.py --case vit-ti/16:32 --dtype bfloat16 --rounds 4
    """
    names = only or OURS + THEIRS
    rows, versions = [], {}
    for case in cases:
        for dtype in dtypes:
            rates, used = _measure(case, dtype, names, rounds, steps, torch_python)
            versions |= used
            best = np.max([rates[n] for n in names if n.startswith("torch")] or [[np.nan]], axis=0)
            for name, rate in rates.items():
                low, ratio, high = np.percentile(np.divide(rate, best), [25, 50, 75])
                found = [f"{np.median(rate):.1f}", f"{ratio:.2f}x", f"{low:.2f}-{high:.2f}"]
                rows.append([case, dtype, name, *found])
    headers = ["model:batch", "dtype", "step", "images/s", "of torch's best", "quartiles"]
    click.echo("\n" + table(rows, headers))
    click.echo("\n" + about.lines())
    click.echo(", ".join(map(" ".join, versions.items())))


def _measure(case: str, dtype: str, names, rounds: int, steps: int, torch_python: str):
    """name -> images per second, one a round; and the versions of what was measured."""
    model, _, batch = case.partition(":")
    workers = {}
    try:
        for name in names:
            is_ours = name in OURS
            python, script = (
                (sys.executable, "step_tfvit.py") if is_ours else (torch_python, "step_torch.py")
            )
            workers[name] = subprocess.Popen(
                [python, HERE / script, name, model, batch, dtype],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            )
            ready = workers[name].stdout.readline()  # compiled and warm, before the next one starts
            if not ready:
                raise click.ClickException(f"{name} did not start; its own words are above")
        rates: dict[str, list[float]] = {name: [] for name in names}
        versions = {}
        order = np.random.default_rng(0)
        with progress(rounds, f"{case} {dtype}", "round") as bar:
            for _ in range(rounds):
                for name in order.permutation(list(names)).tolist():
                    workers[name].stdin.write(f"{steps}\n")
                    workers[name].stdin.flush()
                    answer = json.loads(workers[name].stdout.readline())
                    rates[name].append(steps * int(batch) / answer["seconds"])
                    versions |= answer["versions"]
                bar.update()
        return rates, versions
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.terminate()
            worker.wait()


if __name__ == "__main__":
    main()
