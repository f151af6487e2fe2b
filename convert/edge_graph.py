"""The edge graph: the float model rewritten for inference, the same function to 1e-4 on logits.

It takes RGB grey levels 0-255 and is what quantization-aware training trains and what every format
is exported from. `convert.fold` rewrites the weights once, each step an identity; `forward` is the
graph, in plain TensorFlow ops of rank 4 at most, the batch a static number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from convert import edge_resnet
from convert.fold import Weights
from tfvit.architecture import Architecture, ResNetArchitecture

# A quantization site: (name of the tensor, the tensor) -> the tensor as the device will hold it.
Quantize = Callable[[str, tf.Tensor], tf.Tensor]
STEM = "stem"  # name scope of what has no site: a hybrid's convolutions


@dataclasses.dataclass(frozen=True)
class Ops:
    """What has several forms, of which each runtime has a fastest: the same functions, by another way.

    gelu: of `tf.nn.gelu`'s arguments. matmul: of all heads, [b, heads, m, k] by [b, heads, k, n], or by
    its transpose, as `tf.matmul`.
    """

    gelu: Callable = tf.nn.gelu
    matmul: Callable = tf.matmul


def forward(
    w: dict[str, tf.Tensor],
    pixels: tf.Tensor,
    arch: Architecture | ResNetArchitecture,
    quantize: Quantize = lambda name, x: x,
    integer: bool = False,
    ops: Ops = Ops(),
) -> tf.Tensor:
    """Logits [batch, classes] of grey levels [batch, height, width, 3], the batch static.

    With class tokens the last block computes their rows alone: the others are only keys and values there.

    w: folded weights (`convert.fold`), as arrays or variables.
    quantize: called at every site of `convert.sites`, with the tensor that the device will hold there.
    integer: in the form that suits an all-integer file: norms without epsilon, which is far below a step
        of the mean square there, and their weighted means (`convert.equalise`) as dense layers, whose
        int8 kernels hold the weights without error.
    ops: the forms that the runtime is fastest in; LiteRT's.
    """
    if isinstance(arch, ResNetArchitecture):
        return edge_resnet.logits(w, pixels, arch, quantize)
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

    def norm(name: str, x: tf.Tensor, output: str, weights: tf.Tensor | None) -> tf.Tensor:
        """RMS norm over the channels: LayerNorm without its affine part, of what is centred already."""
        square = held(f"{name}/square", tf.multiply, x, x)
        mean = held(f"{name}/mean", _mean, square, weights, integer)
        rsqrt = held(f"{name}/rsqrt", _rsqrt, mean, epsilon)
        return held(output, tf.multiply, x, rsqrt)

    def split(y: tf.Tensor) -> tf.Tensor:  # [b * n, d] -> [b, heads, n, head_dim]
        return tf.transpose(tf.reshape(y, [batch, -1, heads, head_dim]), [0, 2, 1, 3])

    def merge(y: tf.Tensor) -> tf.Tensor:  # [b, heads, n, head_dim] -> [b * n, d]
        return tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [-1, width])

    def class_rows(y: tf.Tensor) -> tf.Tensor:  # [b * n, d] -> [b * class tokens, d]
        y = tf.reshape(y, [batch, arch.tokens, width])[:, : arch.class_tokens]
        return tf.reshape(y, [-1, width])

    def mlp(name: str, y: tf.Tensor) -> tf.Tensor:
        tanh = arch.activation == "gelu_tanh"
        y = dense(f"{name}/dense_1", y)
        y = held(f"{name}/dense_2/input", ops.gelu, y, approximate=tanh)
        return dense(f"{name}/dense_2", y)

    mean_weights = w.get("residual/mean")
    x = _features(w, pixels, arch, held, quantize)  # [b, rows * patch, columns * patch, c]
    channels = x.shape[-1]
    x = tf.reshape(x, [batch * rows, patch, columns, patch * channels])
    x = tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [-1, patch * patch * channels])
    x = dense("embedding", x)
    with tf.name_scope("embedding/output/"):  # the converter makes one op of both
        x = tf.reshape(x, [batch, rows * columns, width])
    if "position/embedding" in w:
        positions = quantize("positions", w["position/embedding"])
        x = held("tokens", _tokens, x, positions, w.get("prefix"))
    elif "prefix" in w:
        x = held("tokens", _tokens, x, None, w["prefix"])
    x = tf.reshape(x, [batch * arch.tokens, width])

    for i in range(arch.depth):
        attention = f"block_{i}/attention"
        y = norm(f"{attention}/norm", x, f"{attention}/input", mean_weights)
        k, v = (split(dense(f"{attention}/{name}", y)) for name in ("key", "value"))
        if arch.pooling == "cls" and i == arch.depth - 1:
            x, y = class_rows(x), class_rows(y)
        q = split(dense(f"{attention}/query", y))
        y = held(f"{attention}/scores", _scores, ops, q, k, w.get(f"{attention}/relative"))
        y = held(f"{attention}/probabilities", tf.nn.softmax, y)
        y = held(f"{attention}/out/input", ops.matmul, y, v)
        x = held(f"{attention}/residual", tf.add, x, dense(f"{attention}/out", merge(y)))
        y = norm(f"block_{i}/mlp/norm", x, f"block_{i}/mlp/dense_1/input", mean_weights)
        x = held(f"block_{i}/mlp/residual", tf.add, x, mlp(f"block_{i}/mlp", y))

    x = norm("norm", x, "norm/output", mean_weights)
    if arch.pooling in ("gap", "cls+gap"):
        x = held("pool", _pool, tf.reshape(x, [batch, arch.tokens, width]), arch)
    elif arch.pooling == "map":
        y = tf.reshape(dense("map/attention/scores", x), [batch, -1, heads, 1])
        y = tf.transpose(y, [0, 2, 3, 1])  # [b, heads, 1, n]
        y = held("map/attention/probabilities", tf.nn.softmax, y)
        v = split(dense("map/attention/value", x))
        y = merge(held("map/attention/out/input", ops.matmul, y, v))
        y = dense("map/attention/out", y)  # [b, 2 d]: as it is, and centred
        x, y = y[:, :width], y[:, width:]
        x = held(
            "map/output",
            tf.add,
            x,
            mlp("map/mlp", norm("map/norm", y, "map/mlp/dense_1/input", None)),
        )
    else:
        x = tf.reshape(x, [batch, arch.class_tokens * width])
    if arch.representation_size:
        x = held("pre_logits/tanh", tf.tanh, dense("pre_logits", x))
    return dense("head", x)


def _features(
    w: dict, pixels: tf.Tensor, arch: Architecture, held: Callable, quantize: Quantize
) -> tf.Tensor:
    """What the patches are taken from: the picture, or the features of a hybrid's stem."""
    if arch.stem is None:
        return quantize("embedding/input", pixels)
    with tf.name_scope(STEM):
        last, x = edge_resnet.stem(w, pixels, arch)
    return held("embedding/input", last, x)


def observe(
    w: Weights,
    arch: Architecture,
    batches: Iterable[tf.Tensor],
    statistic: Callable[[str, tf.Tensor], tf.Tensor | None],
    advance: Callable[[], object],
    graph: Callable = forward,
) -> Iterator[dict[str, np.ndarray]]:
    """For each batch of grey levels [b, h, w, 3]: what `statistic` makes of the sites, by name.

    statistic: of a site's name and tensor; None leaves the site out. advance: called after each batch.
    graph: what visits them.
    """

    @tf.function(autograph=False)
    def watch(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        seen = {}

        def note(name: str, x: tf.Tensor) -> tf.Tensor:
            found = statistic(name, x)
            if found is not None:
                seen[name] = found
            return x

        graph(w, tf.cast(pixels, tf.float32), arch, note)
        return seen

    for pixels in batches:
        yield {name: found.numpy() for name, found in watch(pixels).items()}
        advance()


def _affine(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    y = tf.matmul(x, kernel)
    return y if bias is None else tf.nn.bias_add(y, bias)


def _mean(square: tf.Tensor, weights: tf.Tensor | None, integer: bool) -> tf.Tensor:
    """Mean over the channels; weighted where they were equalised (`convert.equalise`)."""
    if weights is not None and integer:
        return tf.matmul(square, weights)
    if weights is not None:
        square = square * (weights.shape[0] * weights[:, 0])
    return tf.reduce_mean(square, axis=-1, keepdims=True)


def _rsqrt(mean: tf.Tensor, epsilon: float) -> tf.Tensor:
    return tf.math.rsqrt(mean + epsilon if epsilon else mean)


def _tokens(x: tf.Tensor, positions: tf.Tensor | None, prefix: tf.Tensor | None) -> tf.Tensor:
    """[b, n, d] -> [b, prefix + n, d]: the patches at their positions, after the other tokens."""
    if positions is not None:
        x = x + positions
    if prefix is None:
        return x
    return tf.concat([tf.tile(prefix, [x.shape[0], 1, 1]), x], axis=1)


def _pool(x: tf.Tensor, arch: Architecture) -> tf.Tensor:
    """The mean of the patches, behind the class token if there is one: [b, n, d] -> [b, d or 2 d]."""
    patches = x[:, arch.prefix_tokens :] if arch.prefix_tokens else x
    if not arch.class_tokens:
        return tf.reduce_mean(patches, axis=1)
    # XNNPACK takes no slice that drops an axis
    both = tf.concat([x[:, :1], tf.reduce_mean(patches, axis=1, keepdims=True)], axis=1)
    return tf.reshape(both, [x.shape[0], -1])


def _scores(ops: Ops, q: tf.Tensor, k: tf.Tensor, relative: tf.Tensor | None) -> tf.Tensor:
    """[b, heads, m, n]; relative [n, n, head_dim] is what a query meets at each distance."""
    scores = ops.matmul(q, k, transpose_b=True)
    if relative is None:
        return scores
    b, heads, m, head_dim = q.shape
    rows = tf.reshape(tf.transpose(q, [2, 0, 1, 3]), [m, b * heads, head_dim])
    met = tf.matmul(rows, tf.transpose(relative[:m], [0, 2, 1]))  # [m, b * heads, n]
    return scores + tf.transpose(tf.reshape(met, [m, b, heads, -1]), [1, 2, 0, 3])
