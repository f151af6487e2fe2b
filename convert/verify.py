"""What the written files do: parity and accuracy; of a .tflite speed, memory and delegation, too."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tf_keras as keras

from convert import answers, extra_parity, written
from convert.schemes import SCHEMES
from convert.written import Run
from edge_demo.errors import GateError, UserError
from edge_demo.measure import runner
from tfvit import checkpoint, figures
from tfvit.data import Source, Split, pipeline
from tfvit.evaluate import classification
from tfvit.evaluate.classification import Predictions
from tfvit.model import build
from tfvit.preprocess import normalise
from tfvit.progress import progress

if TYPE_CHECKING:
    from convert.model import Model

Examples = dict[tuple[str, str], np.ndarray]  # (file stem, name of a photo) -> uint8 [h, w, 3]

PARITY_IMAGES = 64
TOLERANCE = 1e-4  # of the float file against Keras, in logits, relative to the largest above 1
LATENCY_SECONDS = 4.0  # of measuring per number of threads, over all files
ROUNDS = (10, 300)  # fewest and most
WORST = 12  # disagreements that are reported one by one


def measure(
    model: Model,
    paths: dict[str, Path],
    source: Source | None,
    simulate: dict[str, Run],
    *,
    examples: Examples | None = None,
) -> dict[str, dict]:
    """What each file does: the `files` entries of report.json, by file stem.

    model: the float model at the files' resolution. paths: file stem -> what was written (`written`), all
    of one resolution, float32.tflite first: the others are compared with it.
    source: its held-out split is measured on; without it there is no accuracy.
    simulate: file stem -> the logits that quantization-aware training simulates.
    examples: filled with the photos of the disagreements, as the model saw them.
    Raises GateError, naming the file, if one does not load or run or gives logits that are not finite, or
    if one in float32 does not compute what Keras does.
    """
    pixels = sample(model, source)
    reference = next(iter(paths))
    keras_model = _keras(model)
    keras_logits = _keras_logits(keras_model, pixels)
    extras = written.description(paths[reference])["outputs"][1:]
    keras_extras = extra_parity.of_keras(keras_model, extras, pixels)
    entries, float_predictions = {}, None
    for stem, path in paths.items():
        entries[stem] = entry = _describe(model, path, reference)
        exact = entry["scheme"] == SCHEMES["float32"].name
        if written.is_tflite(path):
            entry["delegation"] = runner.delegation(path)
            entry["memory_mib"] = runner.memory(path)
        with written.running(path, os.cpu_count()) as run:
            found = run(pixels)
            if not np.isfinite(found).all():
                raise GateError(f"{entry['file']}: logits are not finite")
            entry["parity_with_keras"] = answers.difference(found, keras_logits, model.scores)
            if exact and not within_tolerance(entry["parity_with_keras"]):
                worst = entry["parity_with_keras"]["max_difference"]
                raise GateError(
                    f"{entry['file']}: logits differ by {worst:.1e} from the Keras model"
                )
            if extras:
                entry["extras"] = extra_parity.compare(path, keras_extras, pixels)
            for name, parity in entry.get("extras", {}).items():
                if exact and not within_tolerance(parity):
                    worst = parity["max_difference"]
                    raise GateError(
                        f"{entry['file']}: {name} off by {worst:.1e} from the Keras model"
                    )
            if stem in simulate:
                simulated = simulate[stem](pixels)
                entry["parity_with_simulation"] = answers.difference(found, simulated, model.scores)
            if source is None:
                continue
            differing = []
            if float_predictions is not None:
                run = _watched(run, float_predictions, model.labels, differing)
            predictions = _predict(run, model, source, stem)
        scores = classification.score(predictions, model.labels)
        entry["accuracy"] = {"images": scores.images, **scores.headline()}
        entry["unreadable"] = sorted(predictions.unreadable)
        if float_predictions is None:
            float_predictions = predictions
            continue
        both = predictions.logits, float_predictions.logits
        entry["unchanged"] = answers.agreement(*both, model.scores)
        places = [place for _, place, _ in differing]
        entry["disagreements"] = _disagreements(
            places, float_predictions, predictions, model.labels
        )
        if examples is not None:
            for _, place, image in differing:
                examples[stem, predictions.names[place]] = image
    timed = {stem: path for stem, path in paths.items() if written.is_tflite(path)}
    for stem, speed in zip(timed, latency(list(timed.values()))):
        entries[stem] |= speed
    return entries


def logits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Logits [n, classes] of what was written for resized pictures, uint8 [n, height, width, 3]."""
    with written.running(path) as run:
        return run(pixels)


def within_tolerance(parity: dict[str, float]) -> bool:
    """Whether a float file computes what Keras does."""
    return parity["max_difference"] <= TOLERANCE * max(1.0, parity["largest"])


def latency(paths: list[Path]) -> list[dict[str, dict[str, float]]]:
    """Inference times at one thread and at all, the files interleaved in one child process.

    Returns for each file, by number of threads: `latency_ms`, the median; `speedup`, the median over
    the rounds of the first file's time divided by this one's.
    """
    results: list[dict[str, dict]] = [{"latency_ms": {}, "speedup": {}} for _ in paths]
    for threads in sorted({1, os.cpu_count() or 1}):
        with runner.stopwatch(paths, threads) as run:
            rounds = int(np.clip(1e3 * LATENCY_SECONDS / sum(run(1)[0]), *ROUNDS))
            samples = []
            with progress(rounds, f"latency with {threads} threads", "run") as bar:
                while len(samples) < rounds:
                    samples += run(min(max(1, rounds // 20), rounds - len(samples)))
                    bar.update(len(samples) - bar.n)
        times = np.array(samples)  # [rounds, files]
        medians, ratios = np.median(times, axis=0), np.median(times[:, :1] / times, axis=0)
        for result, milliseconds, ratio in zip(results, medians, ratios):
            result["latency_ms"][str(threads)] = float(milliseconds)
            result["speedup"][str(threads)] = float(ratio)
    return results


def _describe(model: Model, path: Path, reference: str) -> dict:
    inside = written.description(path)
    return {
        "file": written.name(path),
        "scheme": inside["scheme"],
        "outputs": inside["outputs"],
        "image_size": list(model.architecture.image_size),
        "reference": reference,
        **written.content(path),
    }


def accuracy(model: Model, path: Path, source: Source) -> float:
    """What a .tflite scores on the held-out images, in the figure that models are compared by."""
    with runner.runner(path, os.cpu_count()) as run:
        predictions = _predict(run, model, source, path.stem)
    headline = classification.score(predictions, model.labels).headline()
    return headline[figures.best_by(headline)]


def _predict(run: Run, model: Model, source: Source, stem: str) -> Predictions:
    return classification.predict_pixels(
        *(run, model.labels, model.preprocess, source),
        scores=model.scores,
        label=f"checking {stem}",
    )


def _watched(
    run: Run, reference: Predictions, labels: tuple[str, ...], differing: list[tuple]
) -> Run:
    """`run`, which also keeps the images to which it gives other labels than the reference.

    differing: (-score of the reference's answer, place in the split, image), the WORST lowest.
    """
    scores = reference.scores
    place = 0

    def watched(pixels: np.ndarray) -> np.ndarray:
        nonlocal place
        found = run(pixels)
        for image, logits in zip(pixels, found):
            expected = reference.logits[place]
            if not answers.agreement(logits, expected, scores):
                sure = answers.answer(expected, logits, labels, scores)["score"]
                differing.append((-sure, place, image.copy()))
                differing.sort(key=lambda item: item[:2])
                del differing[WORST:]
            place += 1
        return found

    return watched


def _disagreements(
    places: list[int], reference: Predictions, found: Predictions, labels: tuple[str, ...]
) -> list[dict]:
    """Photos that the reference is surest of and the file calls by another name."""

    def disagreement(place: int) -> dict:
        logits, others = reference.logits[place], found.logits[place]
        truth = reference.labels[place]
        several = truth.ndim > 0
        return {
            "name": reference.names[place],
            "label": answers.in_words(truth, labels) if several else labels[truth],
            "reference": answers.answer(logits, others, labels, reference.scores),
            "found": answers.answer(others, logits, labels, reference.scores),
        }

    return [disagreement(place) for place in places]


def sample(model: Model, source: Source | None) -> np.ndarray:
    """Pictures to compare on, uint8 [n, h, w, 3]: held-out ones spread over the classes, or noise.

    Raises UserError if none of them can be read.
    """
    count, spec = PARITY_IMAGES, model.preprocess
    if source is None:
        shape = (count, spec.height, spec.width, 3)
        return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    batches = pipeline.eval_batches(spread(source.eval, count), spec, count, unreadable={})
    batch = next(batches.as_numpy_iterator())
    pixels = batch["pixels"][batch["mask"] > 0]
    if not len(pixels):
        raise UserError(f"{source.name}: no readable held-out image")
    return pixels


def spread(split: Split, count: int) -> Split:
    """So many examples of a split, at even distances and so of all its classes."""
    stride = max(1, split.size // count)
    return dataclasses.replace(
        split, size=count, in_order=lambda: split.in_order().shard(stride, 0).take(count)
    )


def _keras(model: Model) -> keras.Model:
    """The float model itself."""
    found = build(model.architecture, labels=model.labels, preprocess=model.preprocess)
    checkpoint.assign(found, dict(model.weights), "checkpoint")
    return found


def _keras_logits(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    """What the float model itself says, in batches of a few."""
    found = []
    with progress(len(pixels), "asking Keras", "img") as bar:
        for i in range(0, len(pixels), 8):
            part = pixels[i : i + 8]
            found.append(model(normalise(part, model.preprocess)).numpy())
            bar.update(len(part))
    return np.concatenate(found)
