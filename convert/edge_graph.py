"""The edge graph: the float model rewritten for inference, the same function to 1e-4 on logits.

It takes RGB grey levels 0-255 and is what quantization-aware training trains and what every format
is exported from. `fold` rewrites the weights once, each step an identity; `forward` is the graph,
in plain TensorFlow ops of rank 4 at most, the batch a static number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from edge_demo.preprocess import PreprocessSpec
from tfvit import posemb
from tfvit.architecture import Architecture

Weights = dict[str, np.ndarray]
# A quantization site: (name of the tensor, the tensor) -> the tensor as the device will hold it.
Quantize = Callable[[str, tf.Tensor], tf.Tensor]

UNIT_SCALE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # grey levels as they are


def quantized_dense(arch: Architecture) -> list[str]:
    """Names of the dense layers that int8 schemes quantize, in the order of the graph.

    The head (and the pre-logits) stay float: they are small, and their error is the logits' error.
    """
    parts = ("attention/query", "attention/key", "attention/value", "attention/out")
    parts += ("mlp/dense_1", "mlp/dense_2")
    return ["embedding", *(f"block_{i}/{part}" for i in range(arch.depth) for part in parts)]


def sites(arch: Architecture) -> list[str]:
    """Names of all quantization sites: kernels, inputs and outputs of the quantized dense layers."""
    names = []
    for dense in quantized_dense(arch):
        names += [f"{dense}/kernel", input_site(dense), f"{dense}/output"]
    return list(dict.fromkeys(names))


def input_site(dense: str) -> str:
    """The site of a dense layer's input; query, key and value share theirs."""
    block, _, part = dense.rpartition("/")
    return f"{block}/input" if part in ("query", "key", "value") else f"{dense}/input"


def at_resolution(
    weights: Weights, arch: Architecture, image_size: tuple[int, int]
) -> tuple[Weights, Architecture]:
    """The model for another image size: its position embeddings interpolated to the new grid."""
    new = dataclasses.replace(arch, image_size=image_size)
    weights = dict(weights)
    weights["position/embedding"] = posemb.resize(
        weights["position/embedding"][0], arch.grid, new.grid, arch.position_interpolation
    )[np.newaxis]
    return weights, new


def fold(weights: Weights, arch: Architecture, spec: PreprocessSpec) -> Weights:
    """The weights of the edge graph from the float model's, by name; each fold is exact."""
    w = dict(weights)
    _fold_input(w, spec)
    _fold_class_token(w, arch)
    for i in range(arch.depth):
        attention = [f"block_{i}/attention/{name}" for name in ("query", "key", "value")]
        _fold_norm(w, f"block_{i}/norm_1", attention)
        _fold_norm(w, f"block_{i}/norm_2", [f"block_{i}/mlp/dense_1"])
        _fold_attention_scale(w, attention[0], arch.head_dim)
        if arch.layer_scale is not None:
            _fold_layer_scale(w, f"block_{i}/attention/layer_scale", f"block_{i}/attention/out")
            _fold_layer_scale(w, f"block_{i}/mlp/layer_scale", f"block_{i}/mlp/dense_2")
    _fold_norm(w, "norm", ["pre_logits" if arch.representation_size else "head"])
    _centre_residual(w, arch)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in w.items()}


def _fold_input(w: Weights, spec: PreprocessSpec) -> None:
    """((x - m) / s) K + b = x (K / s) + (b - (m / s) K): the patch embedding takes grey levels.

    Its kernel also becomes a matrix [patch * patch * 3, d], a dense layer over flattened patches.
    """
    kernel = w["embedding/kernel"].astype(np.float64)  # [patch, patch, 3, d]
    mean, std = np.float64(spec.mean)[:, np.newaxis], np.float64(spec.std)[:, np.newaxis]
    w["embedding/bias"] = w["embedding/bias"] - (kernel * (mean / std)).sum((0, 1, 2))
    w["embedding/kernel"] = (kernel / std).reshape(-1, kernel.shape[-1])


def _fold_class_token(w: Weights, arch: Architecture) -> None:
    """concat(c, x) + p = concat(c + p[0], x + p[1:]): the class token with its position is one constant."""
    if arch.prefix_tokens:
        position = w["position/embedding"]  # [1, 1 + n, d]
        w["cls/token"] = w["cls/token"] + position[:, :1]
        w["position/embedding"] = position[:, 1:]


def _fold_norm(w: Weights, norm: str, dense: list[str]) -> None:
    """(g * x + h) K + b = x (g[:, None] * K) + (h K + b): the norm's affine part moves into what reads it."""
    gamma, beta = w.pop(f"{norm}/gamma"), w.pop(f"{norm}/beta")
    for name in dense:
        kernel = w[f"{name}/kernel"].astype(np.float64)
        w[f"{name}/bias"] = w[f"{name}/bias"] + beta @ kernel
        w[f"{name}/kernel"] = gamma[:, np.newaxis] * kernel


def _fold_attention_scale(w: Weights, query: str, head_dim: int) -> None:
    """(x K + b) / sqrt(d) = x (K / sqrt(d)) + b / sqrt(d): the query carries the attention's scale."""
    for part in ("kernel", "bias"):
        w[f"{query}/{part}"] = w[f"{query}/{part}"] * head_dim**-0.5


def _fold_layer_scale(w: Weights, scale: str, dense: str) -> None:
    """(x K + b) * g = x (K * g) + b * g: the dense layer before LayerScale carries its gain.

    To be done before `_centre_residual`: what was centred is no longer so after another gain.
    """
    gamma = w.pop(f"{scale}/gamma")
    for part in ("kernel", "bias"):
        w[f"{dense}/{part}"] = w[f"{dense}/{part}"] * gamma


def _centre_residual(w: Weights, arch: Architecture) -> None:
    """LayerNorm(x) = RMSNorm(x - mean(x)), and a sum of centred terms is centred: so whatever is added
    to the residual stream has its mean over the channels taken off, once, here."""
    writers = ["embedding"]
    for i in range(arch.depth):
        writers += [f"block_{i}/attention/out", f"block_{i}/mlp/dense_2"]
    names = [f"{dense}/{part}" for dense in writers for part in ("kernel", "bias")]
    names += ["position/embedding"] + ["cls/token"] * arch.prefix_tokens
    for name in names:
        w[name] = w[name] - w[name].mean(axis=-1, keepdims=True)


def forward(
    w: dict[str, tf.Tensor],
    pixels: tf.Tensor,
    arch: Architecture,
    quantize: Quantize = lambda name, x: x,
) -> tf.Tensor:
    """Logits [batch, classes] of grey levels [batch, height, width, 3], the batch static.

    With a class token the last block computes its row alone: the others are only keys and values there.

    w: folded weights, as arrays or variables.
    quantize: called at every site of `sites`, with the tensor that the device will hold there.
    """
    batch, (rows, columns), patch = pixels.shape[0], arch.grid, arch.patch_size
    heads, head_dim, width = arch.heads, arch.head_dim, arch.width

    def dense(name: str, x: tf.Tensor) -> tf.Tensor:  # [b * n, in] -> [b * n, out]
        with tf.name_scope(name):  # this is how the exported file's tensors find their site again
            y = tf.matmul(x, quantize(f"{name}/kernel", w[f"{name}/kernel"])) + w[f"{name}/bias"]
        return quantize(f"{name}/output", y)

    def split(y: tf.Tensor) -> tf.Tensor:  # [b * n, d] -> [b, heads, n, head_dim]
        return tf.transpose(tf.reshape(y, [batch, -1, heads, head_dim]), [0, 2, 1, 3])

    def class_row(y: tf.Tensor) -> tf.Tensor:  # [b * n, d] -> [b, d]
        return tf.reshape(tf.reshape(y, [batch, arch.tokens, width])[:, :1], [batch, width])

    x = tf.reshape(pixels, [batch * rows, patch, columns, patch * 3])
    x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch * rows * columns, patch * patch * 3])
    x = dense("embedding", quantize("embedding/input", x))
    x = tf.reshape(x, [batch, rows * columns, width]) + w["position/embedding"]
    if arch.prefix_tokens:
        x = tf.concat([tf.tile(w["cls/token"], [batch, 1, 1]), x], axis=1)
    x = tf.reshape(x, [batch * arch.tokens, width])

    for i in range(arch.depth):
        block = f"block_{i}"
        y = quantize(f"{block}/attention/input", _norm(x, arch.layer_norm_epsilon))
        k, v = (split(dense(f"{block}/attention/{name}", y)) for name in ("key", "value"))
        if arch.pooling == "cls" and i == arch.depth - 1:
            x, y = class_row(x), class_row(y)
        q = split(dense(f"{block}/attention/query", y))
        y = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)
        y = tf.reshape(tf.transpose(y, [0, 2, 1, 3]), x.shape)
        x = x + dense(f"{block}/attention/out", quantize(f"{block}/attention/out/input", y))
        y = quantize(f"{block}/mlp/dense_1/input", _norm(x, arch.layer_norm_epsilon))
        y = tf.nn.gelu(dense(f"{block}/mlp/dense_1", y), approximate=arch.activation == "gelu_tanh")
        x = x + dense(f"{block}/mlp/dense_2", quantize(f"{block}/mlp/dense_2/input", y))

    x = _norm(x, arch.layer_norm_epsilon)
    if arch.pooling == "gap":
        x = tf.reduce_mean(tf.reshape(x, [batch, arch.tokens, width]), axis=1)
    if arch.representation_size:
        x = tf.tanh(tf.matmul(x, w["pre_logits/kernel"]) + w["pre_logits/bias"])
    return tf.matmul(x, w["head/kernel"]) + w["head/bias"]


def _norm(x: tf.Tensor, epsilon: float) -> tf.Tensor:
    """RMS norm over the last axis: LayerNorm without its affine part, of what is centred already."""
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, axis=-1, keepdims=True) + epsilon)
