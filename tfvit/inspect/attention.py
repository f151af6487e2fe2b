"""Where a Vision Transformer looks: attention of its blocks, and attention rollout."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.errors import UserError
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.model import Model


def attentions(model: Model, images: tf.Tensor) -> Iterator[np.ndarray]:
    """The attention of each block, first to last: float32 [b, heads, n, n], each row a sum of 1.

    images: normalised float32 [b, height, width, 3].
    """
    *inputs, _ = streams(model, images)
    for i, x in enumerate(inputs):
        block = model.get_layer(f"block_{i}")
        _, y = block.norm_1(x)
        yield block.attention.probabilities(y, y).numpy()


def streams(model: Model, images: tf.Tensor) -> list[tf.Tensor]:
    """What enters each block, first to last, and what leaves the last: [b, n, d] each."""
    names = [f"block_{i}" for i in range(model.architecture.depth)] + ["norm"]
    return keras.Model(model.input, [model.get_layer(name).input for name in names])(images)


def rollout(maps: Iterable[np.ndarray]) -> np.ndarray:
    """How much of each input token is in each output token of the blocks: float32 [b, n, n].

    maps: attention of the blocks, first to last, [b, heads, n, n]. Heads are averaged, and half of every
    token passes by on the residual path. Source: attention rollout, arXiv 2005.00928, section 3.
    """
    total = None
    for attention in maps:
        mean = attention.mean(axis=1)
        through = 0.5 * mean + 0.5 * np.eye(mean.shape[-1], dtype=np.float32)
        total = through if total is None else through @ total
    return total


def mean_distance(maps: np.ndarray, arch: Architecture) -> np.ndarray:
    """How far the heads look, in pixels: float64 [b, heads].

    maps: attention of a block, [b, heads, n, n]. The distance from a patch to every patch, weighted by its
    attention to it, and the mean of that over the patches. Class tokens and registers are left out on both
    sides, and what is left of a row is not made a sum of 1 again. Source: arXiv 2010.11929, figure 7, as
    its authors computed it (google-research/vision_transformer, issue 162).
    """
    patches = maps[..., arch.prefix_tokens :, arch.prefix_tokens :]
    return np.einsum("bhmn,mn->bh", patches, distances(arch)) / patches.shape[-1]


def distances(arch: Architecture) -> np.ndarray:
    """Pixels from each patch to each: float64 [patches, patches]."""
    places = arch.stride * np.indices(arch.grid).reshape(2, -1)
    return np.hypot(*(places[:, :, np.newaxis] - places[:, np.newaxis]))


@dataclasses.dataclass(frozen=True)
class Look:
    """Where a model looks in some pictures.

    rollout: how much of each patch is in what the head reads, float32 [b, down, across]; see `rollout`.
    heads: attention of each head of each block to the patches, float32 [b, depth, heads, down, across].
    distance: `mean_distance` of each head of each block, float64 [b, depth, heads].
    """

    rollout: np.ndarray
    heads: np.ndarray
    distance: np.ndarray


def look(model: Model, images: tf.Tensor, query: tuple[int, int] | None = None) -> Look:
    """Where a model looks in normalised images, float32 [b, height, width, 3].

    query: (row, column) of the patch whose attention `heads` is; None is what the head reads: the class
        tokens (of `cls+gap` these alone), the mean of the patches, or what attention pooling weights.
    Raises UserError for a model without attention, and for a patch that is not there.
    """
    arch = model.architecture
    must_attend(arch)
    reader = _reader(model, images)  # [b, 1, n]
    asked = reader if query is None else _patch(arch, query)
    heads, far = [], []

    def noted() -> Iterator[np.ndarray]:
        for maps in attentions(model, images):
            heads.append((asked[:, np.newaxis] @ maps)[:, :, 0])  # [b, heads, n]
            far.append(mean_distance(maps, arch))
            yield maps

    mixed = (reader @ rollout(noted()))[:, 0]  # [b, n]
    return Look(
        _on_grid(mixed, arch), _on_grid(np.stack(heads, axis=1), arch), np.stack(far, axis=1)
    )


def must_attend(arch: Architecture | ResNetArchitecture) -> None:
    """UserError for a model without attention."""
    if isinstance(arch, ResNetArchitecture):
        raise UserError(f"{arch.name} is a ResNet, which has no attention")


def heat_maps(model: Model, images: tf.Tensor) -> dict[str, np.ndarray]:
    """How much the head sees of each patch, by name of the method: float32 [b, down, across].

    images: normalised float32 [b, height, width, 3]. "last block": attention of the last block, mean of
    its heads; "rollout": of all blocks. Both as seen by what the head reads; see `look`.
    """
    seen = look(model, images)
    return {"last block": seen.heads[:, -1].mean(axis=1), "rollout": seen.rollout}


def _on_grid(values: np.ndarray, arch: Architecture) -> np.ndarray:
    """Values of the tokens, [..., n], as those of the patches: [..., down, across]."""
    patches = values[..., arch.prefix_tokens :]
    return patches.reshape(*patches.shape[:-1], *arch.grid)


def _patch(arch: Architecture, place: tuple[int, int]) -> np.ndarray:
    """A patch as the share that is asked for of each token: float32 [1, 1, n]."""
    (row, column), (down, across) = place, arch.grid
    if not (0 <= row < down and 0 <= column < across):
        raise UserError(f"no such patch: {arch.name} has {down} rows and {across} columns of them")
    share = np.zeros([1, 1, arch.tokens], np.float32)
    share[..., arch.prefix_tokens + row * across + column] = 1
    return share


def _reader(model: Model, images: tf.Tensor) -> np.ndarray:
    """The share of each token in what the head reads: float32 [b, 1, n]."""
    arch = model.architecture
    if arch.pooling == "map":
        inputs = [model.get_layer(name).output for name in ("map", "norm")]
        probe, x = keras.Model(model.input, inputs)(images)
        return model.get_layer("map/attention").probabilities(probe, x).numpy().mean(axis=1)
    share = np.zeros(arch.tokens, np.float32)
    read = slice(arch.prefix_tokens, None) if arch.pooling == "gap" else slice(arch.class_tokens)
    share[read] = 1 / len(share[read])
    return np.broadcast_to(share, (len(images), 1, arch.tokens))
