"""`make bench`: our .tflite files against other engines, same model, same threads, interleaved in one run.

Every engine is a process of its own (engine.py). Its logits are checked first; then, round by round and
each time in another order, each one runs a few times while the others wait. What counts is the median
over the rounds of float32's time over the engine's, float32 being ours.
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
import numpy as np

from edge_demo.cli import Command
from edge_demo.errors import UserError
from edge_demo.files import write_json
from edge_demo.tables import table
from tfvit.options import need
from tfvit.progress import progress

MODELS = ("vit-ti/16", "vit-s/16", "vit-b/16")
CALIBRATION_IMAGES, CHECK_IMAGES = 64, 32
MIN_COSINE = 0.9  # of the logits with the float model's: below this an engine is not timed
UNCOUNTED, COUNTED = 1, 3  # calls of an engine when its turn comes: caches warm, then timed
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
    """An engine that waits for requests (see engine.py)."""

    def __init__(self, engine, threads: int, errors) -> None:
        program = Path(__file__).with_name("engine.py")
        command = [sys.executable, program, engine.runtime, engine.path, str(threads)]
        self.name = engine.name
        self._process = subprocess.Popen(
            [*command, json.dumps(engine.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        self._answer()

    def ask(self, *request):
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
            stack.enter_context(contextlib.closing(Process(engine, threads, errors)))
            for engine in engines
        ]


def _measure(engines: list, folder: Path, threads: int, rounds: int) -> list[dict]:
    """One dictionary per engine: parity with the float model, then latency."""
    reference = np.load(folder / "reference.npy")
    with _running(engines, threads, folder) as processes:
        rows = []
        for engine, process in zip(engines, processes):
            process.ask("load", str(folder / f"{engine.layout}.npy"))
            process.ask("logits", str(folder / "found.npy"))
            rows.append(
                {
                    "name": engine.name,
                    "bytes": sum(p.stat().st_size for p in _parts(engine.path)),
                    **_parity(np.load(folder / "found.npy"), reference),
                }
            )
        right = [i for i, row in enumerate(rows) if row["cosine"] >= MIN_COSINE]
        samples = {i: [] for i in right}
        order = np.random.default_rng(0)  # so that none is always in the wake of the same other
        with progress(rounds, f"{threads} threads", "round") as bar:
            for _ in range(rounds):
                for i in order.permutation(right).tolist():
                    samples[i].append(processes[i].ask("time", UNCOUNTED, COUNTED))
                bar.update()
    times = {i: np.array([np.median(s["milliseconds"]) for s in samples[i]]) for i in right}
    baseline = times[next(i for i in right if rows[i]["name"] == BASELINE)]
    for i in right:
        low, speed, high = np.percentile(baseline / times[i], (25, 50, 75)).tolist()
        rows[i] |= {
            "milliseconds": float(np.median(times[i])),
            "speed": speed,
            "speed_quartiles": [low, high],
            "cores": float(np.median([s["cores"] for s in samples[i]])),
            "idle_cpu_milliseconds": float(np.median([s["idle"] for s in samples[i]])),
            "samples": times[i].tolist(),
        }
    return rows


def _parity(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Mean cosine of logits [n, classes] with the reference's, and the share of equal top-1."""
    dot = (found * reference).sum(-1)
    cosine = dot / (np.linalg.norm(found, axis=-1) * np.linalg.norm(reference, axis=-1))
    agreement = found.argmax(-1) == reference.argmax(-1)
    return {"cosine": float(cosine.mean()), "agreement": float(agreement.mean())}


def _parts(path: Path) -> list[Path]:
    """A model's files: OpenVINO keeps weights beside the graph."""
    return [p for p in (path, path.with_suffix(".bin")) if p.exists()]


def _table(rows: list[dict]) -> str:
    cells = []
    for row in rows:
        line = [row["name"], f"{row['bytes'] / 1e6:.1f} MB"]
        if "speed" in row:
            low, high = row["speed_quartiles"]
            line += [f"{row['milliseconds']:.2f} ms", f"{row['speed']:.2f}x"]
            line += [f"{low:.2f}-{high:.2f}", f"{row['cores']:.2f}"]
        else:
            line += ["wrong", "-", "-", "-"]
        cells.append([*line, f"{row['cosine']:.4f}", f"{100 * row['agreement']:.0f} %"])
    header = ["engine", "size", "latency", "speed", "quartiles", "cores", "cosine", "same top-1"]
    return table(cells, header)


if __name__ == "__main__":
    main()
