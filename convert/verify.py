"""What the written files do, in the runtime that devices use: parity, accuracy, latency."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from edge_demo.classifier import Classifier
from tfvit.progress import progress

PARITY_IMAGES = 64
TOLERANCE = 1e-4  # of the float file against Keras, in logits, relative to the largest above 1
LATENCY_SECONDS = 4.0  # of measuring per number of threads, over all files
ROUNDS = (10, 300)  # fewest and most


def logits(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Logits [n, classes] of a .tflite for resized pictures, uint8 [n, height, width, 3]."""
    classifier = Classifier(path)
    return np.array([classifier.logits(image) for image in pixels])


def difference(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """How far logits [n, classes] are from others.

    max_difference; largest: of the reference; snr_db: power of the reference, each image's mean taken
    off, over the power of the error; agreement: share of images with the same top-1.
    """
    error = np.square(found - reference, dtype=np.float64).mean()
    centred = reference - reference.mean(axis=-1, keepdims=True)
    signal = np.square(centred, dtype=np.float64).mean()
    return {
        "images": len(found),
        "max_difference": float(np.abs(found - reference).max()),
        "largest": float(np.abs(reference).max()),
        "snr_db": float(10 * np.log10(max(signal, 1e-30) / max(error, 1e-30))),
        "agreement": float((found.argmax(-1) == reference.argmax(-1)).mean()),
    }


def within_tolerance(parity: dict[str, float]) -> bool:
    """Whether a float file computes what Keras does."""
    return parity["max_difference"] <= TOLERANCE * max(1.0, parity["largest"])


def latency(paths: list[Path]) -> list[dict[str, float]]:
    """Median inference milliseconds of each file, at one thread and at all, interleaved in one run."""
    results: list[dict[str, float]] = [{} for _ in paths]
    for threads in sorted({1, os.cpu_count() or 1}):
        classifiers = [Classifier(path, threads) for path in paths]
        spec = classifiers[0].preprocess
        shape = (spec.height, spec.width, 3)
        image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        for classifier in classifiers:  # the first run prepares the kernels
            classifier.logits(image)
        one_round = sum(_milliseconds(classifier, image) for classifier in classifiers)
        rounds = int(np.clip(1e3 * LATENCY_SECONDS / one_round, *ROUNDS))
        samples = []
        with progress(rounds, f"latency with {threads} threads", "run") as bar:
            for _ in range(rounds):
                samples.append([_milliseconds(classifier, image) for classifier in classifiers])
                bar.update()
        for result, median in zip(results, np.median(samples, axis=0)):
            result[str(threads)] = float(median)
    return results


def _milliseconds(classifier: Classifier, image: np.ndarray) -> float:
    start = time.perf_counter()
    classifier.logits(image)
    return 1e3 * (time.perf_counter() - start)
