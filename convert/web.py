"""The web folder: page, engines, models and what they are checked by, for any static host.

The page and the engines are built from `edge_demo/web` beforehand; this adds what is of one export.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path

import edge_demo
from convert.reference import FOLDER as REFERENCE
from convert.schemes import INTEGER, SCHEMES
from edge_demo.errors import UserError
from edge_demo.files import sha256

DIST = Path(edge_demo.__file__).with_name("web") / "dist"
FOLDER, MODELS, MANIFEST, BUILD = "web", "models", "classifier.json", "build.js"
FORMAT = 1  # of the manifest
PACKED = ".gz"  # of an engine as it lies in DIST, to keep an installation small
OPENS_WITH = ("int8", "dynamic", "int4-dynamic", "float16", "float32")  # the fastest first


def check(dist: Path) -> None:
    """Raises UserError if the page is not built."""
    if not (dist / "index.html").is_file():
        raise UserError(f"{dist}: the page is not built; `make web` builds it")


def left_out(schemes: list[str]) -> list[str]:
    """Those that LiteRT.js cannot run: it has float input and output only."""
    return [name for name in schemes if SCHEMES[name].activations == INTEGER]


def assemble(folder: Path, report: dict, dist: Path) -> None:
    """Writes the web folder into a folder of exported files of one resolution.

    report: of them, as `export` returns it. dist: the built page.
    """
    web = folder / FOLDER
    _unpack(dist, web)
    pictures, models = report["reference"], []
    for stem, entry in report["files"].items():
        if not left_out([entry["scheme"]]):
            file = f"{MODELS}/{entry['file']}"
            models.append(_model(web, stem, "litert", file, entry))
            _copy(folder / entry["file"], web / file)
    for stem, entry in report["tfjs"].items():
        source = folder / entry["file"]
        file = f"{MODELS}/{stem}/{source.name}"
        models.append(_model(web, stem, "tfjs", file, entry))
        for path in source.parent.iterdir():
            _copy(path, (web / file).with_name(path.name))
    pixels = next(iter(report["files"].values()))["reference_pixels"]
    for name in (*pictures, *pixels):
        _copy(folder / name, web / name)
    manifest = {
        "format": FORMAT,
        "name": report["model"]["name"],
        "labels": report["labels"],
        "scores": report["scores"],
        "preprocess": report["preprocess"],
        "models": models,
        "default": next(n for n in OPENS_WITH if n in {model["name"] for model in models}),
        "reference": [{"picture": a, "pixels": b} for a, b in zip(pictures, pixels)],
        "provenance": report["provenance"],
    }
    _write(web / MANIFEST, manifest)
    (web / BUILD).write_text(f"self.BUILD = {json.dumps(_build(web))};\n", "utf-8")


def _model(web: Path, name: str, engine: str, file: str, entry: dict) -> dict:
    """A model in the manifest; what it is checked by is written."""
    reference = f"{REFERENCE}/{name}.json"
    logits, tolerance = entry["reference_logits"], entry["reference_tolerance"]
    _write(web / reference, {"logits": logits, "tolerance": tolerance})
    return {
        "name": name,
        "engine": engine,
        "file": file,
        "bytes": entry["bytes"],
        "outputs": entry["outputs"],
        "reference": reference,
    }


def _unpack(dist: Path, web: Path) -> None:
    """Copies the built page, its engines unpacked: a static host compresses by itself.

    What begins with a dot is the build's own.
    """
    for path in sorted(dist.rglob("*")):
        target = web / path.relative_to(dist)
        if path.is_dir() or path.name.startswith("."):
            continue
        if path.suffix == PACKED:
            target.parent.mkdir(parents=True, exist_ok=True)
            with gzip.open(path) as packed, open(target.with_suffix(""), "wb") as file:
                shutil.copyfileobj(packed, file)
        else:
            _copy(path, target)


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _write(path: Path, value: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")), "utf-8")


def _build(web: Path) -> dict:
    """All files with their sizes, and a name for just this content: what the service worker keeps."""
    paths = sorted(path for path in web.rglob("*") if path.is_file())
    names = [path.relative_to(web).as_posix() for path in paths]
    digest = hashlib.sha256()
    for name, path in zip(names, paths):
        digest.update(f"{name} {sha256(path)}\n".encode())
    sizes = [path.stat().st_size for path in paths]
    return {"id": digest.hexdigest()[:16], "files": [list(pair) for pair in zip(names, sizes)]}
