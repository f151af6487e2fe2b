"""A checkpoint to an exported folder: fold, calibrate, fine-tune, write, verify, report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import tensorflow as tf

from convert import metadata, sensitivity, tune, verify
from convert import model as models
from convert.model import Model
from convert.report import page
from convert.schemes import SCHEMES, Scheme
from convert.tune import Quantized
from edge_demo.errors import GateError, UserError
from edge_demo.metadata import LABELS_FILE
from tfvit.data import Source
from tfvit.evaluate import classification
from tfvit.files import staged_files, write_json

REPORT, PAGE, FAILED = "report.json", "report.html", "failed.json"
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
    say: Callable[[str], None] = click.echo,
) -> dict:
    """Writes a .tflite for each scheme and size, labels.txt, report.json and report.html into `out`.

    folder: of a checkpoint. schemes: beside float32, which is always written.
    source: images to tune and to measure on; may be None where no scheme needs data.
    image_sizes: (height, width) in pixels; None is the checkpoint's own.
    max_drop: points of top-1 that a file may lose against float32; the layers that cost most are kept
        in float until it holds.
    Returns the report. Raises UserError for what cannot be exported, and GateError for a file that does
    not load and run, does not compute what Keras does, or loses more than max_drop; then the files in
    `out` are as they were, and `failed.json` says which layers cost what.
    """
    began = time.perf_counter()
    hungry = [scheme.name for scheme in schemes if scheme.needs_data]
    if hungry and (source is None or source.train is None):
        raise UserError(f"{hungry[0]} needs --data: training images to calibrate and to tune on")
    if max_drop is not None and source is None:
        raise UserError("--max-drop needs --data: held-out images to measure on")
    chosen = list(dict.fromkeys((SCHEMES["float32"], *schemes)))
    readings = [models.read(folder, size) for size in image_sizes]
    if source:
        classification.match_labels(readings[0].labels, source)
    report: dict = {"checkpoint": str(folder), "files": {}}
    examples: verify.Examples = {}
    with staged_files(out) as staging:
        for model in readings:
            say(
                f"{folder}: {model.architecture.name}, {model.size} pixels, {len(model.labels)} classes"
            )
            all_quantized = tune.quantize(model, chosen, source, options, strategy, say)
            paths, simulate = {}, {}
            for quantized in all_quantized:
                stem = quantized.scheme.name + (f"-{model.size}" if len(readings) > 1 else "")
                costs = {}
                if with_sensitivity and quantized.ranges:
                    costs = _sensitivity(model, quantized, source, options.seed)
                    report.setdefault("sensitivity", {})[stem] = costs
                path = staging / f"{stem}.tflite"
                if max_drop is not None and stem != next(iter(paths), stem):
                    float_file = next(iter(paths.values()))
                    quantized = _within(
                        *(
                            model,
                            quantized,
                            costs,
                            path,
                            float_file,
                            source,
                            max_drop,
                            options.seed,
                        ),
                        failed=out / FAILED,
                        say=say,
                    )
                _write(model, quantized, path)
                paths[stem] = path
                if quantized.training:
                    simulate[stem] = quantized.simulate(model)
            entries = verify.measure(model, paths, source, simulate, examples=examples)
            for (stem, path), quantized in zip(paths.items(), all_quantized):
                if "accuracy" in entries[stem]:
                    metadata.describe(path, accuracy=entries[stem]["accuracy"])
                entries[stem] |= {**verify.content(path), "quantization": _record(quantized)}
            report["files"] |= entries
        first = readings[0]
        (staging / LABELS_FILE).write_text(metadata.labels_text(first.labels), "utf-8")
        report |= {
            "model": first.architecture.to_json(),
            "preprocess": first.pixel_spec.to_json(),
            "labels": list(first.labels),
            "provenance": _origin(first),
            "data": source.name if source else None,
            "held_out": source.eval.name if source else None,
            "machine": verify.machine(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        }
        report["seconds"] = time.perf_counter() - began
        write_json(staging / REPORT, report)
        (staging / PAGE).write_text(page(report, examples), "utf-8")
    (out / FAILED).unlink(missing_ok=True)
    return report


def _write(model: Model, quantized: Quantized, path: Path) -> None:
    """The .tflite with its metadata."""
    origin, record = _origin(model), _record(quantized)
    if record:
        origin["quantization"] = record
    description = {"scheme": quantized.scheme.name, "provenance": origin}
    content = metadata.add(
        *(quantized.write(model), model.labels, model.pixel_spec, description),
        name=model.architecture.name,
        version=model.sha256[:12],
    )
    path.write_bytes(content)


def _record(quantized: Quantized) -> dict:
    """How a file was calibrated and trained, and what of it is in float after all."""
    kept = {"in_float": list(quantized.in_float)} if quantized.in_float else {}
    return {**quantized.training, **kept}


def _sensitivity(model: Model, quantized: Quantized, source: Source, seed: int) -> dict:
    pixels = tune.sample(model, source, sensitivity.IMAGES, seed)
    return sensitivity.measure(model, quantized, pixels)


def _within(
    model: Model,
    quantized: Quantized,
    costs: dict,
    path: Path,
    float_file: Path,
    source: Source,
    max_drop: float,
    seed: int,
    *,
    failed: Path,
    say: Callable[[str], None],
) -> Quantized:
    """With as many layers returned to float as its file needs to lose at most `max_drop` points."""
    name = quantized.scheme.name
    reference = verify.top1(model, float_file, source)

    def drop(in_float: tuple[str, ...]) -> float:
        _write(model, dataclasses.replace(quantized, in_float=in_float), path)
        return 100 * (reference - verify.top1(model, path, source))

    lost = drop(())
    if lost <= max_drop:
        return quantized
    say(f"{name}: loses {lost:.2f} points of top-1, more than {max_drop:g}; looking for the layers")
    costs = costs or _sensitivity(model, quantized, source, seed)
    tried: dict[int, float] = {}

    def within(in_float: tuple[str, ...]) -> bool:
        tried[len(in_float)] = drop(in_float)
        say(f"{name}: loses {tried[len(in_float)]:.2f} points with {len(in_float)} layers in float")
        return tried[len(in_float)] <= max_drop

    in_float = sensitivity.mix(quantized, costs, within)
    if in_float is None:
        write_json(failed, {"file": path.name, "drop": lost, "tried": tried, "sensitivity": costs})
        best = min([lost, *tried.values()])
        worst = ", ".join(list(costs)[:3])
        raise GateError(
            f"{path.name}: loses {best:.2f} points of top-1 against float32, more than --max-drop "
            f"{max_drop:g}; most costly are {worst} (all in {failed}); raise --qat-steps or --max-drop"
        )
    return dataclasses.replace(quantized, in_float=in_float)


def _origin(model: Model) -> dict:
    return {"weights_sha256": model.sha256, "checkpoint": model.provenance}
