"""A checkpoint to an exported folder: fold, fine-tune, write, verify, report."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import tensorflow as tf

from convert import edge_graph, metadata, qat, tflite, verify
from convert.report import page
from convert.schemes import SCHEMES
from edge_demo.errors import UserError
from edge_demo.metadata import LABELS_FILE
from edge_demo.preprocess import PreprocessSpec
from tfvit import checkpoint
from tfvit.architecture import Architecture
from tfvit.data import Source, pipeline
from tfvit.data.augment import Augmentation
from tfvit.evaluate import classification
from tfvit.files import staged_files, write_json
from tfvit.progress import progress

REPORT, PAGE = "report.json", "report.html"
MILD = Augmentation(crop_min_area=0.5, flip=False)  # for a checkpoint that does not tell its own
VERSIONED = ("tensorflow", "tensorflow-model-optimization", "ai-edge-quantizer", "ai-edge-litert")


@dataclasses.dataclass(frozen=True)
class QatOptions:
    """Quantization-aware fine-tuning: calibration images, then `steps` at a peak relative rate."""

    steps: int = 100
    learning_rate: float = 3e-5
    batch_size: int = 32
    calibration_images: int = 256
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Model:
    """A float model at the resolution it is exported at; weights: of the checkpoint, resized."""

    architecture: Architecture
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    weights: edge_graph.Weights
    provenance: dict
    sha256: str

    @property
    def pixel_spec(self) -> PreprocessSpec:
        """The preprocessing of the exported files: their graph takes grey levels as they are."""
        return dataclasses.replace(self.preprocess, **edge_graph.UNIT_SCALE)


def read_model(folder: Path, image_size: tuple[int, int] | None) -> Model:
    """The model of a checkpoint folder, its position embeddings interpolated to `image_size`."""
    config = checkpoint.read_config(folder)
    weights = checkpoint.read_weights(folder, config)
    arch, spec = config["architecture"], config["preprocess"]
    if image_size:
        weights, arch = edge_graph.at_resolution(weights, arch, image_size)
        spec = spec.at(*image_size)
    sha256 = config["weights_sha256"]
    return Model(arch, spec, config["labels"], weights, config["provenance"], sha256)


def export(
    folder: Path,
    out: Path,
    *,
    schemes: Sequence[str] = ("float32",),
    source: Source | None = None,
    image_size: tuple[int, int] | None = None,
    options: QatOptions = QatOptions(),
    say: Callable[[str], None] = click.echo,
) -> dict:
    """Writes `<scheme>.tflite`, labels.txt, report.json and report.html into `out` and returns the report.

    folder: of a checkpoint. source: images to fine-tune and to measure on; may be None for float32.
    Raises UserError for what cannot be exported and GateError for a float file that does not compute
    what Keras does, or any that does not load and run; then `out` is as it was.
    """
    began = time.perf_counter()
    quantized = [name for name in schemes if SCHEMES[name].bits]
    model = read_model(folder, image_size)
    if quantized and (source is None or source.train is None):
        raise UserError(f"{quantized[0]} needs --data: training images to calibrate and to tune on")
    if source:
        classification.match_labels(model.labels, source)
    say(f"{folder}: {model.architecture.name}, {_size(model)} pixels, {len(model.labels)} classes")
    folded = edge_graph.fold(model.weights, model.architecture, model.preprocess)
    graph, training = None, None
    if quantized:
        graph, training = _tune(model, folded, source, options, say)
    with staged_files(out) as staging:
        paths = {}
        for name in dict.fromkeys(("float32", *schemes)):
            if SCHEMES[name].bits:
                ranges = graph.activation_ranges()
                content = tflite.int8_model(graph.folded_weights(), model.architecture, ranges)
            else:
                content = tflite.float_model(folded, model.architecture)
            tuned = training if SCHEMES[name].bits else None
            description = {"scheme": name, "provenance": _origin(model, tuned)}
            content = metadata.add(
                *(content, model.labels, model.pixel_spec, description),
                name=model.architecture.name,
                version=model.sha256[:12],
            )
            paths[name] = staging / f"{name}.tflite"
            paths[name].write_bytes(content)
        (staging / LABELS_FILE).write_text(metadata.labels_text(model.labels), "utf-8")
        simulate = {name: _simulated(graph) for name in quantized}
        examples: verify.Examples = {}
        report = {
            "checkpoint": str(folder),
            "model": model.architecture.to_json(),
            "preprocess": model.pixel_spec.to_json(),
            "labels": list(model.labels),
            "provenance": _origin(model, training),
            "data": source.name if source else None,
            "held_out": source.eval.name if source else None,
            "files": verify.measure(model, paths, source, simulate, examples=examples),
            "machine": verify.machine(),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        }
        report["seconds"] = time.perf_counter() - began
        write_json(staging / REPORT, report)
        (staging / PAGE).write_text(page(report, examples), "utf-8")
    return report


def _tune(
    model: Model,
    folded: edge_graph.Weights,
    source: Source,
    options: QatOptions,
    say: Callable[[str], None],
) -> tuple[qat.QuantizedEdgeGraph, dict]:
    """Calibrates and fine-tunes the edge graph; returns it with what is worth reporting."""
    tf.keras.utils.set_random_seed(options.seed)
    graph = qat.QuantizedEdgeGraph(folded, model.architecture)
    recipe = model.provenance.get("recipe", {})
    augmentation = Augmentation(**recipe["augmentation"]) if recipe else MILD
    batch = min(options.batch_size, source.train.size)

    def pixels(views: Augmentation) -> tf.data.Dataset:
        batches = pipeline.train_batches(
            source.train,
            model.preprocess,
            batch,
            augmentation=views,
            seed=options.seed,
            start_step=0,
            unreadable={},
        )
        return batches.map(lambda b: b["pixels"])

    whole = Augmentation(crop_min_area=1.0, flip=False)  # as the device will see them
    rounds = -(-options.calibration_images // batch)
    with progress(rounds, "calibrating", "batch") as bar:
        qat.calibrate(graph, pixels(whole).take(rounds), bar.update)
    with progress(options.steps, "quantization-aware fine-tuning", "step") as bar:
        losses = qat.finetune(
            graph, pixels(augmentation), options.steps, options.learning_rate, bar.update
        )
    ends = [float(np.mean(part)) for part in (losses[:10], losses[-10:])] if losses else []
    if ends:
        say(f"quantization-aware fine-tuning: divergence {ends[0]:.1e} -> {ends[1]:.1e} nats")
    return graph, {**dataclasses.asdict(options), "divergence": ends}


def _simulated(graph: qat.QuantizedEdgeGraph) -> verify.Run:
    return lambda pixels: graph(tf.constant(pixels, tf.float32)).numpy()


def _origin(model: Model, training: dict | None) -> dict:
    origin = {"weights_sha256": model.sha256, "checkpoint": model.provenance}
    return {**origin, "quantization": training} if training else origin


def _size(model: Model) -> str:
    return "x".join(str(n) for n in model.architecture.image_size)
