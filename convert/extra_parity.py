"""What files tell beside their logits, held to the Keras model, which computes it in another way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from convert import written
from edge_demo.tflite.metadata import ATTENTION, FEATURES
from tfvit.evaluate import features
from tfvit.inspect.attention import heat_maps
from tfvit.model import Model
from tfvit.preprocess import normalise
from tfvit.progress import progress

IMAGES = 8  # all heads of all blocks are kept of each


def of_keras(model: Model, extras: Sequence[str], pixels: np.ndarray) -> dict:
    """The extras by name, of the first IMAGES of uint8 [n, height, width, 3]: float32 [n, ...] each.

    features: the input of the head; of both heads, one behind the other. attention: rollout, its sum 1.
    """
    body = features.body(model)
    found: dict[str, list] = {name: [] for name in extras}
    with progress(IMAGES, "asking Keras for extras", "img") as bar:
        for image in pixels[:IMAGES] if extras else ():
            x = normalise(tf.constant(image[np.newaxis]), model.preprocess)
            if FEATURES in extras:
                found[FEATURES].append(body(x).numpy()[0])
            if ATTENTION in extras:
                heat = heat_maps(model, x)["rollout"][0]
                found[ATTENTION].append(heat / heat.sum())
            bar.update()
    return {name: np.array(values, np.float32) for name, values in found.items()}


def compare(path: Path, expected: dict[str, np.ndarray], pixels: np.ndarray) -> dict[str, dict]:
    """How far a file's extras are from others, by name.

    max_difference; largest: of the others; cosine: the mean over the images of the cosine between both.
    """
    entries = {}
    for name, theirs in expected.items():
        with written.running(path, output=name) as run:
            found = run(pixels[: len(theirs)])
        mine, others = (x.reshape(len(x), -1).astype(np.float64) for x in (found, theirs))
        lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(others, axis=1)
        entries[name] = {
            "images": len(theirs),
            "max_difference": float(np.abs(mine - others).max()),
            "largest": float(np.abs(others).max()),
            "cosine": float(((mine * others).sum(axis=1) / np.maximum(lengths, 1e-30)).mean()),
        }
    return entries
