"""The Vision Transformer as a functional graph, initialised as the paper's reference code does it."""

from __future__ import annotations

import functools

import tensorflow as tf
import tf_keras as keras

from tfvit import resnet
from tfvit.architecture import Architecture
from tfvit.layers import (
    Attention,
    Dropout,
    LayerScale,
    Position2D,
    PositionEmbedding,
    Probe,
    SinCos2D,
    StochasticDepth,
    Tokens,
    head,
)


def graph(arch: Architecture, images: tf.Tensor, policy) -> tf.Tensor:
    """Logits [b, classes], float32, of normalised images [b, height, width, 3].

    Source: google-research/vision_transformer, vit_jax/models_vit.py and google-research/big_vision,
    models/vit.py (structure, initialisers; map pooling); facebookresearch/deit (distillation token).
    """

    def norm(name: str):
        return keras.layers.LayerNormalization(
            epsilon=arch.layer_norm_epsilon, name=name, dtype=policy
        )

    def dropout(name: str):
        return Dropout(arch.dropout, name=name, dtype=policy)

    def layer_scale(x: tf.Tensor, name: str) -> tf.Tensor:
        if arch.layer_scale is None:
            return x
        return LayerScale(arch.layer_scale, name=name, dtype=policy)(x)

    def mlp(x: tf.Tensor, name: str) -> tf.Tensor:
        y = _mlp_dense(arch.mlp_dim, f"{name}/dense_1", policy)(x)
        y = keras.layers.Activation(gelu, name=f"{name}/gelu", dtype=policy)(y)
        y = dropout(f"{name}/dropout_1")(y)
        y = _mlp_dense(arch.width, f"{name}/dense_2", policy)(y)
        return dropout(f"{name}/dropout_2")(y)

    gelu = functools.partial(tf.nn.gelu, approximate=arch.activation == "gelu_tanh")
    x = images
    if arch.stem is not None:
        x = resnet.stem(x, arch.stem, policy)  # [b, height / stride, width / stride, c]
    x = keras.layers.Conv2D(  # [b, *grid, d]
        arch.width,
        arch.patch_size,
        arch.patch_size,
        kernel_initializer="lecun_normal",
        name="embedding",
        dtype=policy,
    )(x)
    x = _tokens(x, arch, policy)  # [b, n, d]
    x = dropout("position/dropout")(x)

    relative = arch.position == "relative"
    for i in range(arch.depth):
        block = f"block_{i}"
        drop_path = arch.stochastic_depth * i / max(arch.depth - 1, 1)
        y = norm(f"{block}/norm_1")(x)
        attention = f"{block}/attention"
        y = Attention(arch.heads, arch.qkv_bias, relative, name=attention, dtype=policy)([y, y])
        y = dropout(f"{attention}/dropout")(y)
        y = layer_scale(y, f"{attention}/layer_scale")
        y = StochasticDepth(drop_path, name=f"{attention}/drop_path", dtype=policy)(y)
        x = keras.layers.Add(name=f"{attention}/add", dtype=policy)([x, y])
        y = mlp(norm(f"{block}/norm_2")(x), f"{block}/mlp")
        y = layer_scale(y, f"{block}/mlp/layer_scale")
        y = StochasticDepth(drop_path, name=f"{block}/mlp/drop_path", dtype=policy)(y)
        x = keras.layers.Add(name=f"{block}/mlp/add", dtype=policy)([x, y])

    x = norm("norm")(x)
    if arch.pooling == "gap":
        x = _mean_of_patches(x, arch, "pool", policy)  # [b, d]
    elif arch.pooling == "cls+gap":
        y = [_token(x, 0, "pool_cls", policy), _mean_of_patches(x, arch, "pool_patches", policy)]
        x = keras.layers.Concatenate(name="pool", dtype=policy)(y)  # [b, 2 d]
    elif arch.pooling == "map":
        y = Probe(name="map", dtype=policy)(x)  # [b, 1, d]
        x = Attention(arch.heads, name="map/attention", dtype=policy)([y, x])
        y = mlp(norm("map/norm")(x), "map/mlp")
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
    logits = head(x, arch.num_classes, "head")
    if arch.distillation_token:
        y = _token(tokens, 1, "pool_distillation", policy)
        y = head(y, arch.num_classes, "head_distillation")
        logits = keras.layers.Average(name="mean", dtype="float32")([logits, y])
    return logits


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


def _mlp_dense(units: int, name: str, policy) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        kernel_initializer="glorot_uniform",
        bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
        name=name,
        dtype=policy,
    )
