"""LiteRT.js and TF.js, as an exported web folder has them, against onnxruntime-web, in one browser run.

Every engine runs in a worker of its own, in one page for each number of threads, and they take turns
(interleaved.py). What counts is the median over the rounds of the other's time over the engine's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import about
import click
import interleaved
import numpy as np
from command import Command
from PIL import Image

from edge_demo.errors import UserError
from edge_demo.files import write_json
from edge_demo.server import web_folder
from edge_demo.tables import table
from tfvit.options import need

HERE = Path(__file__).parent / "web"
PEER = HERE / "node_modules/onnxruntime-web"
PEER_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
MODEL, SIZE = "vit-ti/16", 224
CALIBRATION_IMAGES, CHECK_IMAGES = 64, 32
OPENED = 5  # times that the page is
FIRST_RESULT = "first-result"  # the page's performance mark
AWAITED = """async (name) => {
  const marks = () => performance.getEntriesByName(name);
  while (marks().length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
  return marks()[0].startTime;
}"""
TFLITE = ("float32", "dynamic", "int8")
ONNX = {"float32": "float32", "dynamic int8": "q8"}  # of peers.py -> as its users call it
TFJS, STOCK, Q8 = "TF.js float32", "TF.js stock float32", "onnxruntime-web q8"
BASELINES = (Q8, STOCK, TFJS)
REFERENCE = "reference/00.png"
MODELS = ("models/", "reference/")  # what of a web folder is the model's


@dataclasses.dataclass(frozen=True)
class Contender:
    """engine: of bench/web/bench.js, with the model as it names it. bytes: of the model's files."""

    name: str
    engine: str
    model: str
    bytes: int


class Tab:
    """A contender that runs in a page: an `interleaved.Runner`. threads: that it has; TF.js has one."""

    def __init__(self, contender: Contender, page, threads: int) -> None:
        self.name, self.bytes, self._page = contender.name, contender.bytes, page
        self.threads = self._ask("start", contender.engine, contender.model, threads)

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
    """Latency of one image at 224 pixels in Chromium: ViT-Ti/16 with random weights.

    \b
    Examples:
      python bench/web_latency.py
      python bench/web_latency.py --threads 1 --rounds 100 --json web.json
    """
    need("convert")
    from convert.web import DIST

    for there, remedy in ((PEER, "npm ci --prefix bench/web"), (DIST, "make web")):
        if not there.exists():
            raise UserError(f"{there}: missing; `{remedy}` brings it")
    results = []
    with tempfile.TemporaryDirectory(prefix="bench") as name, _browser() as browser:
        root, contenders, reference = _make(Path(name), DIST)
        with web_folder.serve(root, ("127.0.0.1", 0), _warn) as server:
            opening = _opening(browser, server.url, root)
            click.echo(
                f"first result {opening['seconds']:.2f} s after the page is opened, median of {OPENED}; "
                f"page and engine {opening['bytes'] / 1e6:.2f} MB gzipped"
            )
            for count in threads or (1, 2):
                page = browser.new_page()
                page.goto(f"{server.url}/bench.html")
                page.evaluate("a => bench.load(...a)", [SIZE, CHECK_IMAGES])
                tabs = [Tab(contender, page, count) for contender in contenders]
                rows = interleaved.measure(tabs, reference, rounds, f"{count} threads")
                page.close()
                rows = [{"threads": tab.threads, **row} for tab, row in zip(tabs, rows)]
                results.append({"model": MODEL, "threads": count, "engines": rows})
                click.echo(f"\n{MODEL}, {count} thread{'s' * (count > 1)}\n\n{_table(rows)}")
        versions = {"chromium": browser.version, **_packages(DIST.parent), **_packages(HERE)}
    click.echo(f"\n{about.lines()}\n" + ", ".join(map(" ".join, versions.items())))
    if report:
        facts = about.facts()
        facts["versions"] |= versions
        write_json(report, {**facts, "rounds": rounds, "opening": opening, "results": results})


@contextlib.contextmanager
def _browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        raise UserError("needs Chromium: apt-get install chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=["--no-sandbox"]) as browser,
    ):
        yield browser


def _make(folder: Path, dist: Path) -> tuple[Path, list[Contender], np.ndarray]:
    """A web folder with everybody's files in it, the contenders, and the float model's logits."""
    import random_vit
    import stock_tfjs
    from ours import ours
    from peers import LAYOUTS, onnxruntime_files

    from convert import fold, tfjs, tfjs_graph, web
    from edge_demo.tflite.metadata import LOGITS

    model = random_vit.create(MODEL)
    pixels = random_vit.images(CALIBRATION_IMAGES, seed=2)
    check = random_vit.images(CHECK_IMAGES, seed=3)
    files = {f"LiteRT.js {scheme}": folder / f"{scheme}.tflite" for scheme in TFLITE}
    for path, content in zip(files.values(), ours(model, pixels, TFLITE).values()):
        path.write_bytes(content)
    folded = fold.fold(model.weights, model.architecture, model.preprocess)
    (graph,) = tfjs_graph.graphs([(folded, model.architecture, ())])
    for name, kind, made in (
        (TFJS, "float32", graph),
        (STOCK, "stock", stock_tfjs.graph(MODEL)),
    ):
        files[name] = folder / tfjs.FOLDER / kind
        tfjs.write(files[name], made, "float32", (LOGITS,), {})

    root = _web_folder(folder, dist, model, files, check[0])
    for path in (*HERE.glob("*.html"), *HERE.glob("*.js")):
        shutil.copyfile(path, root / path.name)
    shutil.copytree(PEER / "dist", root / "onnxruntime", ignore=_unused)
    check.tofile(root / "pixels.bin")
    LAYOUTS["nchw"](model, check).tofile(root / "nchw.bin")

    models = json.loads((root / web.MANIFEST).read_text("utf-8"))["models"]
    found = [Contender(name, "tfvit", m["name"], m["bytes"]) for name, m in zip(files, models)]
    for engine in onnxruntime_files(model, pixels, folder):
        kind = engine.name.removeprefix("ONNX Runtime ")
        if kind in ONNX:
            path = Path(shutil.copy(engine.path, root))
            name = f"onnxruntime-web {ONNX[kind]}"
            found.append(Contender(name, "onnx", path.name, path.stat().st_size))
    return root, found, model.logits(check)


def _web_folder(
    folder: Path, dist: Path, model, files: dict[str, Path], pixels: np.ndarray
) -> Path:
    """What `tfvit convert --format web` would make of our files, were the model a checkpoint.

    pixels: [height, width, 3] of its one reference picture.
    """
    from convert import fold, web, written
    from edge_demo.scores import SOFTMAX
    from edge_demo.tflite.metadata import LOGITS

    (folder / REFERENCE).parent.mkdir()
    Image.fromarray(pixels).save(folder / REFERENCE)
    logits = model.logits(pixels[np.newaxis]).tolist()

    def entry(path: Path) -> dict:
        checked = {
            "reference_logits": logits,
            "reference_tolerance": 1,
            "reference_pixels": [REFERENCE],
        }
        inside = {"scheme": path.stem, "file": written.name(path), "outputs": [LOGITS]}
        return {**inside, **checked, "bytes": written.content(path)["bytes"]}

    is_tflite = written.is_tflite
    report = {
        "files": {path.stem: entry(path) for path in files.values() if is_tflite(path)},
        "tfjs": {f"tfjs-{p.stem}": entry(p) for p in files.values() if not is_tflite(p)},
        "model": model.architecture.to_json(),
        "labels": [str(n) for n in range(model.architecture.num_classes)],
        "scores": SOFTMAX,
        "preprocess": dataclasses.replace(model.preprocess, **fold.UNIT_SCALE).to_json(),
        "reference": [REFERENCE],
        "provenance": {},
    }
    web.assemble(folder, report, dist)
    return folder / web.FOLDER


def _unused(folder: str, names: list[str]) -> set[str]:
    """What of onnxruntime-web is for other backends."""
    return set(names) - set(PEER_FILES)


def _opening(browser, url: str, root: Path) -> dict[str, float]:
    """Seconds from opening the page to its first result, and the bytes of what it asks for until then.

    Compressed, and without the model and its pictures; every time in a browser that knows nothing of it.
    """
    seconds = []
    for _ in range(OPENED):
        asked = set()
        with browser.new_context() as context:
            context.on("request", lambda request, asked=asked: asked.add(request.url))
            page = context.new_page()
            page.goto(url)
            seconds.append(page.evaluate(AWAITED, FIRST_RESULT) / 1e3)
            paths = {found[len(url) + 1 :] for found in asked if found.startswith(f"{url}/")}
    own = [root / (path or "index.html") for path in paths if not path.startswith(MODELS)]
    return {
        "seconds": float(np.median(seconds)),
        "bytes": sum(len(gzip.compress(path.read_bytes())) for path in own),
    }


def _packages(folder: Path) -> dict[str, str]:
    """Engines that a lock file pins."""
    locked = json.loads((folder / "package-lock.json").read_text("utf-8"))["packages"]
    names = ("@litertjs/core", "@tensorflow/tfjs-backend-wasm", "onnxruntime-web")
    found = {name: locked.get(f"node_modules/{name}", {}).get("version") for name in names}
    return {name: version for name, version in found.items() if version}


def _table(rows: list[dict]) -> str:
    baselines = [interleaved.named(rows, name) for name in BASELINES]
    cells = []
    for row in rows:
        line = [row["name"], str(row["threads"]), f"{row['bytes'] / 1e6:.1f} MB"]
        line.append(f"{row['milliseconds']:.1f} ms" if "samples" in row else "wrong")
        for baseline in baselines:
            if "samples" in row:
                low, speed, high = interleaved.speed(row, baseline)
                line += [f"{speed:.2f}x", f"{low:.2f}-{high:.2f}"]
            else:
                line += ["-", "-"]
        cells.append([*line, f"{row['cosine']:.4f}", f"{100 * row['agreement']:.0f} %"])
    speeds = [cell for name in BASELINES for cell in (f"to {name}", "quartiles")]
    header = ["engine", "threads", "size", "latency", *speeds]
    return table(cells, [*header, "cosine", "same top-1"])


def _warn(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main()
