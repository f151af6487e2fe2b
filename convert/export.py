"""A checkpoint to an exported folder: fold, calibrate, fine-tune, write, verify, report."""

from __future__ import annotations

import functools
import importlib.metadata
import shlex
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import click
import tensorflow as tf

from convert import (
    budget,
    metadata,
    prototypes,
    reference,
    sensitivity,
    sites,
    tfjs,
    tfjs_graph,
    tune,
    verify,
    web,
    written,
)
from convert import model as models
from convert.extras import EXTRAS, refusal
from convert.model import Model
from convert.report import page
from convert.schemes import FLOAT, SCHEMES, Scheme
from convert.tune import Quantized
from edge_demo import machine
from edge_demo.errors import UserError
from edge_demo.files import decoding, read_json, write_json
from edge_demo.measure.parity import REPORT
from edge_demo.tflite.metadata import FEATURES, LABELS_FILE, LOGITS, describe
from tfvit import figures
from tfvit.data import Source
from tfvit.evaluate import classification
from tfvit.files import staged_files
from tfvit.progress import progress

PAGE, FAILED = "report.html", "failed.json"
CONTENTS = "contents"  # of the report: names of all that the export wrote into its folder
VERSIONED = ("tensorflow", "tensorflow-model-optimization", "ai-edge-quantizer", "ai-edge-litert")


def export(
    folder: Path,
    out: Path,
    *,
    schemes: Sequence[Scheme] = (),
    source: Source | None = None,
    image_sizes: Sequence[tuple[int, int] | None] = (None,),
    options: tune.Options = tune.Options(),
    strategy: tf.distribute.Strategy | None = None,
    with_sensitivity: bool = False,
    max_drop: float | None = None,
    extras: Collection[str] = (),
    tfjs_weights: Sequence[str] = (),
    page_for_web: Path | None = None,
    say: Callable[[str], None] = click.echo,
) -> dict:
    """Writes a .tflite for each scheme and size, labels.txt, a report and reference pictures into `out`.

    folder: of a checkpoint. schemes: beside float32, which is always written.
    source: images to tune and to measure on; may be None where no scheme needs data.
    image_sizes: (height, width) in pixels; None is the checkpoint's own.
    max_drop: points of top-1, or of mAP, that a file may lose against float32; the layers that cost
        most are kept in float until it holds.
    extras: names of `convert.extras.EXTRAS`, which the files tell beside their logits.
    tfjs_weights: names of `convert.tfjs_weights.WEIGHTS`, a TF.js model for each.
    page_for_web: the built page (`convert.web`), to write a web folder with it.
    Returns the report. Raises UserError for what cannot be exported, and GateError for a file that does
    not load and run, does not compute what Keras does, or loses more than max_drop; then the files in
    `out` are as they were, and `failed.json` says which layers cost what. Else what an earlier export
    wrote into `out` is replaced or gone, but for its models; what is somebody else's stays.
    """
    began = time.perf_counter()
    hungry = [scheme.name for scheme in schemes if scheme.needs_data]
    if hungry and (source is None or source.train is None):
        raise UserError(f"{hungry[0]} needs --data: training images to calibrate and to tune on")
    for flag, wanted in (("--max-drop", max_drop is not None), ("--sensitivity", with_sensitivity)):
        if wanted and (source is None or source.train is None):
            raise UserError(f"{flag} needs --data: images to measure on")
    if page_for_web:
        web.check(page_for_web)
        if len(image_sizes) > 1:
            raise UserError("a web folder has one resolution; --image-size names several")
        for name in web.left_out([scheme.name for scheme in schemes]):
            say(f"{name} is left out of the web folder: LiteRT.js takes and gives floats only")
    chosen = list(dict.fromkeys((SCHEMES["float32"], *schemes)))
    readings = [models.read(folder, size) for size in image_sizes]
    for scheme in schemes:
        reason = sites.refusal(scheme, readings[0].architecture)
        if reason:
            raise UserError(f"{folder}: scheme {scheme.name} cannot work: {reason}")
    reason = refusal(extras, readings[0].architecture)
    if reason:
        raise UserError(f"{folder}: {reason}")
    told = tuple(name for name in EXTRAS if name in extras)
    folders = [reference.FOLDER]
    folders += [tfjs.FOLDER] if tfjs_weights else []
    folders += [web.FOLDER] if page_for_web else []
    earlier = _earlier(out, folders)
    if source:
        classification.match_labels(readings[0].labels, source, readings[0].scores)
    report: dict = {"checkpoint": str(folder), "files": {}, "tfjs": {}}
    examples: verify.Examples = {}
    stale = [name for name in earlier if not name.endswith(".tflite")]  # which may have taken long
    with staged_files(out, stale=[*stale, FAILED]) as staging:
        report["reference"] = reference.write_pictures(staging, source)
        for model in readings:
            say(
                f"{folder}: {model.architecture.name}, {model.size} pixels, {len(model.labels)} classes"
            )
            files: dict[str, Quantized] = {}
            paths: dict[str, Path] = {}
            suffix = f"-{model.size}" if len(readings) > 1 else ""
            base = 0.0  # accuracy of the float file, once it is asked for
            for quantized in tune.quantize(model, chosen, source, options, strategy, say, told):
                stem = quantized.scheme.name + suffix
                path = staging / f"{stem}.tflite"
                costs = functools.cache(functools.partial(_costs, model, quantized, source))
                if with_sensitivity and quantized.scheme.activations != FLOAT:
                    report.setdefault("sensitivity", {})[stem] = costs()
                if max_drop is None or not files:
                    _write(model, quantized, path)
                else:
                    base = base or verify.accuracy(model, next(iter(paths.values())), source)
                    quantized = _within(
                        *(model, quantized, source, max_drop, base, path, costs),
                        failed=out / FAILED,
                        say=say,
                    )
                files[stem], paths[stem] = quantized, path
            rounded = {s: q for s, q in files.items() if q.scheme.activations != FLOAT}
            simulate = {stem: quantized.simulate(model) for stem, quantized in rounded.items()}
            scripts = _write_tfjs(model, files["float32" + suffix], tfjs_weights, staging, suffix)
            entries = verify.measure(model, paths | scripts, source, simulate, examples=examples)
            known, measured = None, {}
            if FEATURES in told and prototypes.possible(model, source):
                first = next(iter(paths.values()))
                known, measured["prototypes"] = prototypes.measure(model, first, source)
            names, pixels = reference.write_pixels(staging, report["reference"], model)
            for stem, path in (paths | scripts).items():
                entries[stem] |= {
                    "reference_pixels": names,
                    **reference.logits(path, pixels, stem in rounded),
                }
            for stem, path in paths.items():
                describe(path, prototypes=known, accuracy=entries[stem].get("accuracy"))
                entries[stem] |= {
                    **measured,
                    **written.content(path),
                    "quantization": _record(files[stem]),
                }
                report["files"][stem] = entries[stem]
            report["tfjs"] |= {stem: entries[stem] for stem in scripts}
        first = readings[0]
        (staging / LABELS_FILE).write_text(metadata.labels_text(first.labels), "utf-8")
        report |= {
            "model": first.architecture.to_json(),
            "preprocess": first.pixel_spec.to_json(),
            "labels": list(first.labels),
            "scores": first.scores,
            "provenance": _origin(first),
            "data": source.name if source else None,
            "held_out": source.eval.name if source else None,
            "machine": machine.describe(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        }
        report["seconds"] = time.perf_counter() - began
        if page_for_web:
            web.assemble(staging, report, page_for_web)
        (staging / PAGE).write_text(page(report, examples), "utf-8")
        report[CONTENTS] = sorted([REPORT, *(path.name for path in staging.iterdir())])
        write_json(staging / REPORT, report)
    return report


def _earlier(out: Path, folders: Sequence[str]) -> list[str]:
    """The names of what an earlier export wrote into `out`, by its report.

    folders: to be written. Raises UserError if one is there already and is somebody else's.
    """
    path, found = out / REPORT, []
    if path.exists():
        report = read_json(path, "exported folder")
        with decoding(path):
            found = [str(name) for name in report.get(CONTENTS, [])]
    there = [name for name in folders if (out / name).exists()]
    there += [FAILED] if (out / FAILED).is_dir() else []
    for name in there:
        if name not in found:
            raise UserError(
                f"{out / name}: not known to be of an earlier export; move it away or choose another --out"
            )
    return found


def _write(model: Model, quantized: Quantized, path: Path) -> None:
    """The .tflite with its metadata."""
    origin, record = _origin(model), _record(quantized)
    if record:
        origin["quantization"] = record
    description = {"scheme": quantized.scheme.name, "provenance": origin}
    content = metadata.add(
        *(quantized.write(model), model.labels, model.pixel_spec, description),
        scores=model.scores,
        outputs=(LOGITS, *quantized.extras),
        name=model.architecture.name,
        version=model.sha256[:12],
    )
    path.write_bytes(content)


def _write_tfjs(
    model: Model, quantized: Quantized, weights: Sequence[str], staging: Path, suffix: str
) -> dict[str, Path]:
    """A TF.js model for each type of weights; returns their folders by stem.

    quantized: the float32 scheme's. suffix: of the folders, to tell resolutions apart.
    """
    if not weights:
        return {}
    paths = {}
    with progress(1 + len(weights), "writing TF.js", "step") as bar:
        asked = (quantized.weights, model.architecture, quantized.extras)
        (graph,) = tfjs_graph.graphs([asked])
        bar.update()
        outputs = (LOGITS, *quantized.extras)
        for name in weights:
            path = staging / tfjs.FOLDER / (name + suffix)
            inside = metadata.inside(
                {"scheme": name, "provenance": _origin(model)},
                *(model.pixel_spec, model.scores, outputs),
            )
            tfjs.write(path, graph, name, outputs, {"labels": list(model.labels), **inside})
            paths[f"{tfjs.FOLDER}-{path.name}"] = path
            bar.update()
    return paths


def _record(quantized: Quantized) -> dict:
    """How a file was calibrated and trained, and what of it is in float after all."""
    kept = {"in_float": list(quantized.in_float)} if quantized.in_float else {}
    return {**quantized.training, **kept}


def _costs(model: Model, quantized: Quantized, source: Source) -> dict:
    """What rounding each layer alone costs, on held-out photos."""
    return sensitivity.measure(model, quantized, verify.sample(model, source))


def _within(
    model: Model,
    quantized: Quantized,
    source: Source,
    max_drop: float,
    base: float,
    path: Path,
    costs: Callable[[], dict],
    *,
    failed: Path,
    say: Callable[[str], None],
) -> Quantized:
    """Writes the file with as many layers in float as it needs to lose at most `max_drop` points."""

    def drop(candidate: Quantized) -> float:
        _write(model, candidate, path)
        return 100 * (base - verify.accuracy(model, path, source))

    figure = figures.NAMES["map" if source.multi_label else "top1"]
    return budget.keep(quantized, max_drop, drop, costs, failed, say, figure)


def _origin(model: Model) -> dict:
    return {"weights_sha256": model.sha256, "checkpoint": model.provenance}
