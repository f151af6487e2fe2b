"""The Vision Transformer as a functional graph, initialised as the paper's reference code does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from tfvit import resnet
from tfvit.architecture import Architecture
from tfvit.layers import (
    HEADS,
    Attention,
    Block,
    Dropout,
    LayerNorm,
    Mlp,
    PatchEmbedding,
    Position2D,
    PositionEmbedding,
    Probe,
    SinCos2D,
    Tokens,
    head,
)


def graph(arch: Architecture, images: tf.Tensor, policy, remat: bool = False) -> tf.Tensor:
    """Logits [b, classes], float32, of normalised images [b, height, width, 3].

    remat: see `Block`.
    Source: google-research/vision_transformer, vit_jax/models_vit.py and google-research/big_vision,
    models/vit.py (structure, initialisers; map pooling); facebookresearch/deit (distillation token).
    """

    def norm(x: tf.Tensor, name: str) -> tf.Tensor:
        return LayerNorm(arch.layer_norm_epsilon, name=name, dtype=policy)(x)

    x = images
    if arch.stem is not None:
        x = resnet.stem(x, arch.stem, policy)  # [b, height / stride, width / stride, c]
    x = PatchEmbedding(arch.width, arch.patch_size, name="embedding", dtype=policy)(x)
    x = _tokens(x, arch, policy)  # [b, n, d]
    x = Dropout(arch.dropout, name="position/dropout", dtype=policy)(x)
    for i in range(arch.depth):
        drop_path = arch.stochastic_depth * i / max(arch.depth - 1, 1)
        x = Block(arch, drop_path, remat, name=f"block_{i}", dtype=policy)(x)
    x = norm(x, "norm")
    if arch.pooling == "gap":
        x = _mean_of_patches(x, arch, "pool", policy)  # [b, d]
    elif arch.pooling == "cls+gap":
        y = [_token(x, 0, "pool_cls", policy), _mean_of_patches(x, arch, "pool_patches", policy)]
        x = keras.layers.Concatenate(name="pool", dtype=policy)(y)  # [b, 2 d]
    elif arch.pooling == "map":
        y = Probe(name="map", dtype=policy)(x)  # [b, 1, d]
        x = Attention(arch.heads, name="map/attention", dtype=policy)([y, x])
        y = norm(x, "map/norm")
        y = Mlp(
            arch.mlp_dim, arch.activation, arch.dropout, "map/mlp", name="map/mlp", dtype=policy
        )(y)
        x = keras.layers.Add(name="map/add", dtype=policy)([x, y])
        x = _token(x, 0, "pool", policy)
    else:
        tokens, x = x, _token(x, 0, "pool", policy)
    if arch.representation_size:
        x = keras.layers.Dense(
            arch.representation_size,
            activation="tanh",
            kernel_initializer="lecun_normal",
            name="pre_logits",
            dtype=policy,
        )(x)
    logits = head(x, arch.num_classes, HEADS[0])
    if arch.distillation_token:
        y = _token(tokens, 1, "pool_distillation", policy)
        y = head(y, arch.num_classes, HEADS[1])
        logits = keras.layers.Average(name="mean", dtype="float32")([logits, y])
    return logits


@dataclasses.dataclass(frozen=True)
class Stages:
    """The way through a built model to its last norm, in steps that share its weights.

    embed: normalised images [b, height, width, 3] -> patches [b, n, d], of which nobody knows where they are.
    place: patches [b, n, d] -> the sequence [b, prefix tokens + n, d], with positions.
    encode: tokens [b, m, d], as many as there are -> [b, m, d]. All take `training` as well.
    weights: all that these steps have, by name.
    """

    embed: Callable[..., tf.Tensor]
    place: Callable[..., tf.Tensor]
    encode: Callable[..., tf.Tensor]
    weights: dict[str, tf.Variable]


def stages(model: keras.Model) -> Stages:
    """The stages of a model that `graph` has built."""
    arch = model.architecture
    names = [layer.name for layer in model.layers]
    start, end = names.index("embedding"), names.index("position/dropout")
    first = keras.Model(model.input, model.layers[start].output)
    x = patches = keras.Input(first.output_shape[1:], dtype=first.output.dtype)
    for layer in model.layers[start + 1 : end + 1]:
        x = layer(x)
    second = keras.Model(patches, x)
    blocks = [model.get_layer(f"block_{i}") for i in range(arch.depth)]
    norm = model.get_layer("norm")

    def embed(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = first(images, training=training)
        return tf.reshape(x, [-1, arch.grid[0] * arch.grid[1], arch.width])

    def place(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return second(tf.reshape(x, [-1, *arch.grid, arch.width]), training=training)

    def encode(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        for block in blocks:
            x = block(x, training=training)
        return norm(x)

    parts = (first, second, *blocks, norm)
    weights = {w.name.removesuffix(":0"): w for part in parts for w in part.weights}
    return Stages(embed, place, encode, weights)


def _tokens(x: tf.Tensor, arch: Architecture, policy) -> tf.Tensor:
    """Embedded patches [b, *grid, d] -> the sequence [b, n, d] with class tokens, positions, registers."""
    if arch.position == "learned_2d":
        x = Position2D(name="position", dtype=policy)(x)
    elif arch.position == "sincos_2d":
        x = SinCos2D(name="position", dtype=policy)(x)
    x = keras.layers.Reshape((-1, arch.width), name="patches", dtype=policy)(x)
    if arch.distillation_token:
        x = Tokens(1, 0, "zeros", name="distillation", dtype=policy)(x)
    if arch.pooling in ("cls", "cls+gap"):
        x = Tokens(1, 0, "zeros", name="cls", dtype=policy)(x)
    if arch.position == "learned":
        x = PositionEmbedding(name="position", dtype=policy)(x)
    if arch.registers:
        normal = keras.initializers.RandomNormal(stddev=0.02)
        x = Tokens(arch.registers, arch.class_tokens, normal, name="registers", dtype=policy)(x)
    return x


def _token(x: tf.Tensor, index: int, name: str, policy) -> tf.Tensor:
    """One token of the sequence: [b, n, d] -> [b, d]."""
    return keras.layers.Lambda(lambda t: t[:, index], name=name, dtype=policy)(x)


def _mean_of_patches(x: tf.Tensor, arch: Architecture, name: str, policy) -> tf.Tensor:
    """The mean over all but class tokens and registers: [b, n, d] -> [b, d]."""
    x = keras.layers.Lambda(lambda t: t[:, arch.prefix_tokens :], name="all", dtype=policy)(x)
    return keras.layers.GlobalAveragePooling1D(name=name, dtype=policy)(x)
