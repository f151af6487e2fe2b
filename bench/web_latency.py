"""LiteRT.js and TF.js, as an exported web folder has them, against onnxruntime-web: one model, one browser run.

Every engine runs in a worker of its own, in one page for each number of threads, and they take turns
(interleaved.py). What counts is the median over the rounds of the other's time over the engine's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import about
import click
import interleaved
import numpy as np

from edge_demo import web_server
from edge_demo.cli import Command
from edge_demo.errors import UserError
from edge_demo.files import write_json
from edge_demo.tables import table
from tfvit.options import need

HERE = Path(__file__).parent / "web"
PEER = HERE / "node_modules/onnxruntime-web"
PEER_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
DIST = Path(__file__).parents[1] / "edge_demo/web/dist"
MODEL, SIZE = "vit-ti/16", 224
CALIBRATION_IMAGES, CHECK_IMAGES = 64, 32
SCHEMES = ("float32", "dynamic", "int8")  # of the .tflite files
TFJS = "TF.js wasm float32"
ONNX = {"float32": "onnxruntime-web float32", "dynamic": "onnxruntime-web q8"}
BASELINES = (ONNX["dynamic"], TFJS)
GOALS = {ONNX["dynamic"]: 2.0, TFJS: 5.0}  # how many times as fast LiteRT.js is to be


@dataclasses.dataclass(frozen=True)
class Contender:
    """engine: of bench/web/bench.js, with a model as it names it. paths: of the model's files."""

    name: str
    engine: str
    model: str
    paths: tuple[Path, ...]


class Tab:
    """A contender that runs in a page: an `interleaved.Runner`."""

    def __init__(self, contender: Contender, page, threads: int) -> None:
        self.name, self._page = contender.name, page
        self.bytes = sum(path.stat().st_size for path in contender.paths)
        got = self._ask("start", contender.engine, contender.model, threads)
        if got != threads:
            raise UserError(f"{self.name}: runs with {got} threads here, not {threads}")

    def logits(self) -> np.ndarray:
        return np.array(self._ask("logits"))

    def time(self, uncounted: int, counted: int) -> dict:
        return self._ask("time", uncounted, counted)

    def _ask(self, function: str, *arguments):
        return self._page.evaluate(f"a => bench.{function}(...a)", [self.name, *arguments])


@click.command(cls=Command, context_settings={"max_content_width": 100})
@click.option("--threads", multiple=True, type=click.IntRange(1), help="[default: 1 and 2]")
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1))
@click.option("--json", "report", type=click.Path(path_type=Path), help="Write all figures there.")
def main(threads: tuple, rounds: int, report: Path | None) -> None:
    """Latency of one image at 224 pixels in the browser, ViT-Ti/16 with random weights.

    \b
    Examples:
      python bench/web_latency.py
      python bench/web_latency.py --threads 1 --rounds 100 --json web.json
    """
    need("convert")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        raise UserError("needs Chromium: apt-get install chromium")
    for there, command in ((PEER, "npm ci --prefix bench/web"), (DIST, "make web")):
        if not there.exists():
            raise UserError(f"{there}: missing; run `{command}`")
    results = []
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        contenders = _make(folder)
        with (
            web_server.serve(folder, ("127.0.0.1", 0), _warn) as server,
            _browser(chromium) as browser,
        ):
            for count in threads or (1, 2):
                rows = _measure(browser, server.url, contenders, folder, count, rounds)
                results.append({"model": MODEL, "threads": count, "engines": rows})
                click.echo(f"\n{MODEL}, {count} thread{'s' * (count > 1)}\n\n{_table(rows)}")
            version = browser.version
    versions = {"chromium": version, "onnxruntime-web": _version(PEER), **_engines()}
    click.echo("\n" + about.lines() + "\n" + ", ".join(map(" ".join, versions.items())))
    if report:
        facts = about.facts()
        facts["versions"] |= versions
        write_json(report, {**facts, "rounds": rounds, "results": results})
