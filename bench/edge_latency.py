"""`make bench`: our .tflite files against other engines, same model, same threads, interleaved in one run.

Every engine is a process of its own (engine.py), and they take turns (interleaved.py). What counts is the
median over the rounds of float32's time over the engine's, float32 being ours.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import about
import click
import interleaved
import numpy as np
from command import Command

from edge_demo.errors import UserError
from edge_demo.files import write_json
from edge_demo.tables import table
from tfvit.options import need
from tfvit.progress import progress

MODELS = ("vit-ti/16", "vit-s/16", "vit-b/16")
CALIBRATION_IMAGES, CHECK_IMAGES = 64, 32
OURS, BASELINE = "tfvit", "tfvit float32"


@click.command(cls=Command, context_settings={"max_content_width": 100})
@click.option("--model", "models", multiple=True, help=f"[default: {', '.join(MODELS)}]")
@click.option("--threads", multiple=True, type=click.IntRange(1), help="[default: 1 and 2]")
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1))
@click.option(
    "--only", "makers", multiple=True, help="Of the peers, those of this maker: OpenVINO."
)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all figures there.")
def main(models: tuple, threads: tuple, rounds: int, makers: tuple, report: Path | None) -> None:
    """Latency of one image at 224 pixels: our files, TensorFlow's converter, ONNX Runtime, OpenVINO.

    The models have random weights with the statistics of trained ones.

    \b
    Examples:
      python bench/edge_latency.py --model vit-s/16 --threads 1 --only OpenVINO --only NNCF
      python bench/edge_latency.py --only tfvit --rounds 100 --json ours.json
    """
    need("convert")
    from peers import SUPPLIERS, missing

    unknown = set(makers) - set(SUPPLIERS)
    if unknown:
        raise UserError(f"no maker {', '.join(unknown)}; known are {', '.join(SUPPLIERS)}")
    suppliers = []
    for name, (modules, make) in SUPPLIERS.items():
        if makers and name not in (OURS, *makers):
            continue
        if missing(modules):
            click.echo(f"{name}: left out, needs {', '.join(missing(modules))}", err=True)
        else:
            suppliers.append(make)
    results = []
    for name in models or MODELS:
        with tempfile.TemporaryDirectory(prefix="bench") as folder:
            engines = _make(name, suppliers, Path(folder))
            for count in threads or (1, 2):
                rows = _measure(engines, Path(folder), count, rounds)
                results.append({"model": name, "threads": count, "engines": rows})
                click.echo(f"\n{name}, {count} thread{'s' * (count > 1)}\n")
                click.echo(_table(rows))
    click.echo("\n" + about.lines())
    if report:
        write_json(report, {**about.facts(), "rounds": rounds, "results": results})


def _make(name: str, suppliers: list[Callable], folder: Path) -> list:
    """The engines for a model, their files in `folder` with the images to check them on."""
    import random_vit
    from peers import LAYOUTS

    model = random_vit.create(name)
    pixels = random_vit.images(CALIBRATION_IMAGES, seed=2)
    check = random_vit.images(CHECK_IMAGES, seed=3)
    np.save(folder / "reference.npy", model.logits(check))
    for layout, convert in LAYOUTS.items():
        np.save(folder / f"{layout}.npy", convert(model, check))
    engines = []
    with progress(len(suppliers), f"{name}: making files", "maker") as bar:
        for make in suppliers:
            engines += make(model, pixels, folder)
            bar.update()
    return engines


class Process:
    """An engine that waits for requests (see engine.py): an `interleaved.Runner`.

    folder: where the images to check it on are, and its logits will be.
    """

    def __init__(self, engine, threads: int, folder: Path, errors) -> None:
        program = Path(__file__).with_name("engine.py")
        command = [sys.executable, program, engine.runtime, engine.path, str(threads)]
        self.name, self.bytes = engine.name, sum(p.stat().st_size for p in _parts(engine.path))
        self._input, self._output = folder / f"{engine.layout}.npy", folder / "found.npy"
        self._process = subprocess.Popen(
            [*command, json.dumps(engine.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        self._answer()

    def logits(self) -> np.ndarray:
        self._ask("load", str(self._input))
        self._ask("logits", str(self._output))
        return np.load(self._output)

    def time(self, uncounted: int, counted: int) -> dict:
        return self._ask("time", uncounted, counted)

    def _ask(self, *request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self):
        line = self._process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: its process ended with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@contextlib.contextmanager
def _running(engines: list, threads: int, folder: Path) -> Iterator[list[Process]]:
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(open(folder / "errors.txt", "w"))
        yield [
            stack.enter_context(contextlib.closing(Process(engine, threads, folder, errors)))
            for engine in engines
        ]


def _measure(engines: list, folder: Path, threads: int, rounds: int) -> list[dict]:
    """One dictionary per engine, as `interleaved.measure` has them."""
    reference = np.load(folder / "reference.npy")
    with _running(engines, threads, folder) as processes:
        return interleaved.measure(processes, reference, rounds, f"{threads} threads")


def _parts(path: Path) -> list[Path]:
    """A model's files: OpenVINO keeps weights beside the graph."""
    return [p for p in (path, path.with_suffix(".bin")) if p.exists()]


def _table(rows: list[dict]) -> str:
    baseline, cells = interleaved.named(rows, BASELINE), []
    for row in rows:
        line = [row["name"], f"{row['bytes'] / 1e6:.1f} MB"]
        if "samples" in row:
            low, speed, high = interleaved.speed(row, baseline)
            line += [f"{row['milliseconds']:.2f} ms", f"{speed:.2f}x"]
            line += [f"{low:.2f}-{high:.2f}", f"{row['cores']:.2f}"]
        else:
            line += ["wrong", "-", "-", "-"]
        cells.append([*line, f"{row['cosine']:.4f}", f"{100 * row['agreement']:.0f} %"])
    header = ["engine", "size", "latency", "speed", "quartiles", "cores", "cosine", "same top-1"]
    return table(cells, header)


if __name__ == "__main__":
    main()
