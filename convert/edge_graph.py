"""The edge graph: the float model rewritten for inference, the same function to 1e-4 on logits.

It takes RGB grey levels 0-255 and is what quantization-aware training trains and what every format
is exported from. `fold` rewrites the weights once, each step an identity; `forward` is the graph,
in plain TensorFlow ops of rank 4 at most, the batch a static number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from edge_demo.preprocess import PreprocessSpec
from tfvit import posemb
from tfvit.architecture import Architecture

Weights = dict[str, np.ndarray]
# A quantization site: (name of the tensor, the tensor) -> the tensor as the device will hold it.
Quantize = Callable[[str, tf.Tensor], tf.Tensor]

UNIT_SCALE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # grey levels as they are


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
        _drop_key_bias(w, attention[1])
        _fold_value_bias(w, attention[2], f"block_{i}/attention/out")
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


def _drop_key_bias(w: Weights, key: str) -> None:
    """softmax(q (k + b)) = softmax(q k + q b) = softmax(q k): the same number for every key cancels."""
    w.pop(f"{key}/bias")


def _fold_value_bias(w: Weights, value: str, out: str) -> None:
    """(P (v + b)) K + c = (P v) K + (b K + c), since the rows of P sum to 1: keys and values then
    have zero means where the bias was large, which suits their zero point 0."""
    bias = w.pop(f"{value}/bias")
    w[f"{out}/bias"] = w[f"{out}/bias"] + bias @ w[f"{out}/kernel"].astype(np.float64)


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
    for name in residual_writers(arch):
        w[name] = w[name] - w[name].mean(axis=-1, keepdims=True)


def residual_writers(arch: Architecture) -> list[str]:
    """The folded weights whose last axis is the channels of the residual stream."""
    writers = ["embedding"]
    for i in range(arch.depth):
        writers += [f"block_{i}/attention/out", f"block_{i}/mlp/dense_2"]
    names = [f"{dense}/{part}" for dense in writers for part in ("kernel", "bias")]
    return names + ["position/embedding"] + ["cls/token"] * arch.prefix_tokens


def norm_readers(arch: Architecture) -> list[str]:
    """The dense layers that read a norm of the residual stream."""
    readers = []
    for i in range(arch.depth):
        readers += [f"block_{i}/attention/{name}" for name in ("query", "key", "value")]
        readers.append(f"block_{i}/mlp/dense_1")
    return [*readers, "pre_logits" if arch.representation_size else "head"]


def forward(
    w: dict[str, tf.Tensor],
    pixels: tf.Tensor,
    arch: Architecture,
    quantize: Quantize = lambda name, x: x,
    integer: bool = False,
) -> tf.Tensor:
    """Logits [batch, classes] of grey levels [batch, height, width, 3], the batch static.

    With a class token the last block computes its row alone: the others are only keys and values there.

    w: folded weights, as arrays or variables.
    quantize: called at every site of `convert.sites`, with the tensor that the device will hold there.
    integer: in the form that suits an all-integer file: norms without epsilon, which is far below a step
        of the mean square there, and their weighted means (`convert.equalise`) as dense layers, whose
        int8 kernels hold the weights without error.
    """
    epsilon = 0.0 if integer else arch.layer_norm_epsilon
    batch, (rows, columns), patch = pixels.shape[0], arch.grid, arch.patch_size
    heads, head_dim, width = arch.heads, arch.head_dim, arch.width

    def held(site: str, op: Callable, *args, **kwargs) -> tf.Tensor:
        """A site's tensor. Its name scope is how the site is found again in the exported file."""
        with tf.name_scope(site):
            y = op(*args, **kwargs)
        return quantize(site, y)

    def dense(name: str, x: tf.Tensor) -> tf.Tensor:  # [b * n, in] -> [b * n, out]
        kernel, bias = quantize(f"{name}/kernel", w[f"{name}/kernel"]), w.get(f"{name}/bias")
        return held(f"{name}/output", _affine, quantize(f"{name}/rows", x), kernel, bias)

    def norm(name: str, x: tf.Tensor, output: str) -> tf.Tensor:
        """RMS norm over the channels: LayerNorm without its affine part, of what is centred already."""
        square = held(f"{name}/square", tf.multiply, x, x)
        mean = held(f"{name}/mean", _mean, square, w.get("residual/mean"), integer)
        rsqrt = held(f"{name}/rsqrt", _rsqrt, mean, epsilon)
        return held(output, tf.multiply, x, rsqrt)

    def split(y: tf.Tensor) -> tf.Tensor:  # [b * n, d] -> [b, heads, n, head_dim]
        return tf.transpose(tf.reshape(y, [batch, -1, heads, head_dim]), [0, 2, 1, 3])

    def class_row(y: tf.Tensor) -> tf.Tensor:  # [b * n, d] -> [b, d]
        return tf.reshape(tf.reshape(y, [batch, arch.tokens, width])[:, :1], [batch, width])

    x = tf.reshape(quantize("embedding/input", pixels), [batch * rows, patch, columns, patch * 3])
    x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch * rows * columns, patch * patch * 3])
    x = tf.reshape(dense("embedding", x), [batch, rows * columns, width])
    x = held(
        "tokens", _tokens, x, quantize("positions", w["position/embedding"]), w.get("cls/token")
    )
    x = tf.reshape(x, [batch * arch.tokens, width])

    for i in range(arch.depth):
        attention, mlp = f"block_{i}/attention", f"block_{i}/mlp"
        y = norm(f"{attention}/norm", x, f"{attention}/input")
        k, v = (split(dense(f"{attention}/{name}", y)) for name in ("key", "value"))
        if arch.pooling == "cls" and i == arch.depth - 1:
            x, y = class_row(x), class_row(y)
        q = split(dense(f"{attention}/query", y))
        y = held(f"{attention}/scores", tf.matmul, q, k, transpose_b=True)
        y = held(f"{attention}/probabilities", tf.nn.softmax, y)
        y = held(f"{attention}/out/input", tf.matmul, y, v)
        y = dense(f"{attention}/out", tf.reshape(tf.transpose(y, [0, 2, 1, 3]), x.shape))
        x = held(f"{attention}/residual", tf.add, x, y)
        y = dense(f"{mlp}/dense_1", norm(f"{mlp}/norm", x, f"{mlp}/dense_1/input"))
        tanh = arch.activation == "gelu_tanh"
        y = held(f"{mlp}/dense_2/input", tf.nn.gelu, y, approximate=tanh)
        x = held(f"{mlp}/residual", tf.add, x, dense(f"{mlp}/dense_2", y))

    x = norm("norm", x, "norm/output")
    if arch.pooling == "gap":
        x = held("pool", tf.reduce_mean, tf.reshape(x, [batch, arch.tokens, width]), axis=1)
    if arch.representation_size:
        x = held("pre_logits/tanh", tf.tanh, dense("pre_logits", x))
    return dense("head", x)


def observe(
    w: Weights,
    arch: Architecture,
    batches: Iterable[tf.Tensor],
    statistic: Callable[[str, tf.Tensor], tf.Tensor | None],
    advance: Callable[[], object],
) -> Iterator[dict[str, np.ndarray]]:
    """For each batch of grey levels [b, h, w, 3]: what `statistic` makes of the sites, by name.

    statistic: of a site's name and tensor; None leaves the site out. advance: called after each batch.
    """

    @tf.function
    def watch(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        seen = {}

        def note(name: str, x: tf.Tensor) -> tf.Tensor:
            found = statistic(name, x)
            if found is not None:
                seen[name] = found
            return x

        forward(w, tf.cast(pixels, tf.float32), arch, note)
        return seen

    for pixels in batches:
        yield {name: found.numpy() for name, found in watch(pixels).items()}
        advance()


def _affine(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    y = tf.matmul(x, kernel)
    return y if bias is None else y + bias


def _mean(square: tf.Tensor, weights: tf.Tensor | None, integer: bool) -> tf.Tensor:
    """Mean over the channels; weighted where they were equalised (`convert.equalise`)."""
    if weights is not None and integer:
        return tf.matmul(square, weights)
    if weights is not None:
        square = square * (weights.shape[0] * weights[:, 0])
    return tf.reduce_mean(square, axis=-1, keepdims=True)


def _rsqrt(mean: tf.Tensor, epsilon: float) -> tf.Tensor:
    return tf.math.rsqrt(mean + epsilon if epsilon else mean)


def _tokens(x: tf.Tensor, positions: tf.Tensor, class_token: tf.Tensor | None) -> tf.Tensor:
    """[b, n, d] -> [b, 1 + n, d]: the patches at their positions, after the class token."""
    x = x + positions
    if class_token is None:
        return x
    return tf.concat([tf.tile(class_token, [x.shape[0], 1, 1]), x], axis=1)
