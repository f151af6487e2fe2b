"""A ViT with random weights whose activations look like a trained model's, and images to match.

What makes trained ViTs hard to quantize is there: LayerNorm gains and biases with outlier channels,
a residual stream with a few massive channels, attention that is peaked, biases that are not zero.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture, preprocess
from tfvit.architecture import Architecture
from tfvit.model import Model, build, named_weights

CLASSES = 1000
HEAD_IMAGES = 32  # that set the head's bias


@dataclasses.dataclass(frozen=True)
class RandomViT:
    """weights: float32 by name, as `tfvit.model.named_weights` has them. keras: the same as a model."""

    architecture: Architecture
    preprocess: PreprocessSpec
    weights: dict[str, np.ndarray]
    keras: Model

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """Grey levels [n, height, width, 3] as the float model's input."""
        return preprocess.normalise(tf.cast(pixels, tf.float32), self.preprocess).numpy()

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits [n, classes] of grey levels, by Keras in float32."""
        parts = [self.normalise(pixels[i : i + 8]) for i in range(0, len(pixels), 8)]
        return np.concatenate([self.keras(part).numpy() for part in parts])


def create(name: str, seed: int = 0, size: int = 224) -> RandomViT:
    """The model "vit-s/16" at `size` pixels with 1000 classes.

    The head's bias takes off the logits' mean over images: what is left tells images apart.
    """
    arch = architecture.named(name, CLASSES, size)
    keras = build(arch)
    rng = np.random.default_rng(seed)
    variables = named_weights(keras)
    massive = rng.choice(arch.width, 3, replace=False)  # of the residual stream, in every block
    for key, variable in variables.items():
        variable.assign(_draw(rng, key, tuple(variable.shape), arch, massive))
    model = RandomViT(arch, keras.preprocess, {}, keras)
    means = model.logits(images(HEAD_IMAGES, seed + 1, size)).mean(axis=0)
    variables["head/bias"].assign(-means)
    weights = {key: variable.numpy() for key, variable in variables.items()}
    return dataclasses.replace(model, weights=weights)


def _draw(
    rng: np.random.Generator, name: str, shape: tuple, arch: Architecture, massive: np.ndarray
) -> np.ndarray:
    """Random values for one weight, by its name."""
    part = name.rpartition("/")[0].rpartition("/")[2]  # of "block_0/attention/query/kernel": query
    if name == "embedding/kernel":  # smooth filters, as training makes them
        rows = _smooth(rng, (shape[-1] * 3, *shape[:2]), sigma=3)
        return rows.reshape(shape[-1], 3, *shape[:2]).transpose(2, 3, 1, 0) * 0.08
    if name == "position/embedding":  # smooth over the grid
        grid = _smooth(rng, (shape[-1], *arch.grid), sigma=2).reshape(shape[-1], -1).T
        return 0.5 * np.concatenate([rng.normal(size=(1, shape[-1])), grid])[np.newaxis]
    if name.endswith("/gamma"):
        gamma = np.exp(rng.normal(0, 0.2, shape))
        gamma[rng.choice(shape[0], 3, replace=False)] *= 4
        return gamma
    if name.endswith("/beta"):
        beta = rng.normal(0, 0.1, shape)
        beta[rng.choice(shape[0], 3, replace=False)] *= 10
        return beta
    if name.endswith("/bias"):
        bias = rng.normal(-0.3 if part == "dense_1" else 0, 0.2, shape)
        if part == "dense_2":
            bias[massive] += (2, -2, 3)
        return bias
    if name.endswith("/kernel"):
        gain = {"query": 1.7, "key": 1.7, "out": 0.7, "dense_2": 1.5}.get(part, 1.0)
        return rng.normal(0, gain / np.sqrt(shape[0]), shape)
    return rng.normal(0, 0.5, shape)  # the class token


def images(count: int, seed: int, size: int = 224) -> np.ndarray:
    """Structured images, uint8 [count, size, size, 3]: colour noise of several scales, 1/f like photos."""
    rng = np.random.default_rng(seed)
    result = np.zeros((count, size, size, 3))
    for cells in (2, 4, 8, 16, 32, 64, 224):
        noise = rng.normal(size=(count, cells, cells, 3)) + rng.normal(
            size=(count, cells, cells, 1)
        )
        result += tf.image.resize(noise, (size, size), "bicubic").numpy() * cells**-0.7
    contrast = rng.uniform(15, 50, (count, 1, 1, 1))
    result = rng.uniform(80, 170, (count, 1, 1, 3)) + contrast * result
    return np.clip(np.round(result), 0, 255).astype(np.uint8)


def _smooth(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> np.ndarray:
    """Noise [n, height, width] of unit variance, smoothed over the last two axes."""
    coarse = rng.normal(size=(*shape, 1))[
        :, : int(shape[1] / sigma) + 1, : int(shape[2] / sigma) + 1
    ]
    fine = tf.image.resize(coarse, shape[1:], "bicubic").numpy()[..., 0]
    return fine / fine.std()
