"""The costly pieces of a Transformer block, each fast on a CPU and each with its plain twin.

On a CPU the matrix products of TensorFlow (oneDNN) are fast and all that lies between them is slow; XLA
has it the other way round. So here the products stay outside XLA and what lies between them is
compiled by it, in small islands with gradients written by hand. Elsewhere, and where the whole step is
compiled by XLA, the plain twins are right.

Shapes: b batch, n tokens, d width. Every function takes float32 or bfloat16 and returns what it took.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import math

import tensorflow as tf

from tfvit.architecture import Architecture, ResNetArchitecture

_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar("fused", default=False)

LANES = 16  # float32 numbers in the widest vector register


@contextlib.contextmanager
def enabled(value: bool = True):
    """Within this context, the functions here are fused ones: for steps on a CPU outside XLA."""
    token = _enabled.set(value)
    try:
        yield
    finally:
        _enabled.reset(token)


def worthwhile(architecture: Architecture | ResNetArchitecture, images: int) -> bool:
    """Whether running a model on so many images at once repays compiling the islands, on a CPU."""
    on_cpu = not tf.config.list_logical_devices("GPU") + tf.config.list_logical_devices("TPU")
    if not on_cpu or not isinstance(architecture, Architecture):
        return False
    return images * architecture.tokens * architecture.width >= 2**18


def residual_norm(
    x: tf.Tensor, branch: tf.Tensor | None, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """x + branch [..., d], and that normalised over its last axis in float32, times gamma plus beta [d].

    Both in one, and x itself where there is no branch, so that both gradients of a residual stream meet
    in one island.
    """
    if not _fused(x):
        return plain_residual_norm(x, branch, gamma, beta, epsilon)
    inputs = [x, gamma, beta] if branch is None else [x, branch, gamma, beta]
    return _residual_norm(epsilon)(*inputs)


def patch_embedding(images: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Patches of images [b, h, w, c] through kernel [p, p, c, d], plus bias: [b, h / p, w / p, d]."""
    if not _fused(images):
        return plain_patch_embedding(images, kernel, bias)
    size, _, channels, d = kernel.shape
    rows, columns = images.shape[1] // size, images.shape[2] // size
    x = tf.reshape(images, [-1, rows, size, columns, size * channels])
    x = tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4]), [-1, rows, columns, size * size * channels])
    return dense(x, tf.reshape(kernel, [-1, d]), bias)


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """x [..., d] times kernel [d, m], plus bias [m]: [..., m]."""
    if _fused(x) and bias is not None:
        return _rows(lambda y: _dense(y, kernel, bias), x)
    return plain_dense(x, kernel, bias)


def dense_gelu(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, approximate: bool = False
) -> tf.Tensor:
    """GELU of `dense`, with erf or, approximate, with tanh: [..., d] -> [..., m]."""
    if _fused(x):
        return _rows(lambda y: _bias_gelu(y @ kernel, bias, approximate), x)
    return plain_dense_gelu(x, kernel, bias, approximate)


def self_attention(
    x: tf.Tensor,
    kernels: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    biases: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None,
    heads: int,
) -> tf.Tensor:
    """What each token of x [b, n, d] finds: [b, n, d], before the projection (paper, appendix A).

    kernels, biases: of query, key and value, [d, d] and [d].
    """
    if not _fused(x):
        return plain_self_attention(x, kernels, biases, heads)
    n, d = x.shape[1:]
    query, key, value = kernels
    scale = tf.cast((d // heads) ** -0.5, x.dtype)
    kernel = tf.concat([query * scale, key, value], axis=1)
    if biases is None:
        bias = tf.zeros([3 * d], x.dtype)
    else:
        bias = tf.concat([biases[0] * scale, *biases[1:]], axis=0)
    return _attend(tf.reshape(x, [-1, d]) @ kernel, bias, n, heads)


# The plain twins


def plain_residual_norm(x, branch, gamma, beta, epsilon):
    """`residual_norm`, as the equation has it."""
    x = x if branch is None else x + branch
    y = tf.cast(x, tf.float32)
    mean, variance = tf.nn.moments(y, axes=[-1], keepdims=True)
    y = (y - mean) * tf.math.rsqrt(variance + epsilon)
    return x, tf.cast(y * tf.cast(gamma, y.dtype) + tf.cast(beta, y.dtype), x.dtype)


def plain_patch_embedding(images, kernel, bias):
    """`patch_embedding`, as the convolution that it is."""
    return tf.nn.bias_add(tf.nn.conv2d(images, kernel, kernel.shape[0], "VALID"), bias)


def plain_dense(x, kernel, bias):
    """`dense`, as the equation has it."""
    y = _rows(lambda rows: rows @ kernel, x)
    return y if bias is None else tf.nn.bias_add(y, bias)


def plain_dense_gelu(x, kernel, bias, approximate=False):
    """`dense_gelu`, as the equation has it."""
    return tf.nn.gelu(plain_dense(x, kernel, bias), approximate)


def plain_self_attention(x, kernels, biases, heads):
    """`self_attention`, as the equation has it."""
    return attend(x, x, kernels, biases, heads)


def attend(queries, x, kernels, biases, heads, distances=None):
    """Multi-head attention before the projection: queries [b, m, d] and tokens x [b, n, d] -> [b, m, d].

    distances: learned vectors [m, n, d / heads] which the queries meet too (paper, appendix D.4).
    """
    attention = probabilities(queries, x, kernels, biases, heads, distances)
    context = tf.matmul(attention, _split(x, kernels[2], biases and biases[2], heads))
    return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, *queries.shape[1:]])


def probabilities(queries, x, kernels, biases, heads, distances=None):
    """How much of each token each query takes in `attend`: [b, heads, m, n], each row a sum of 1."""
    q, k = (_split(y, kernels[i], biases and biases[i], heads) for i, y in enumerate((queries, x)))
    q *= q.shape[-1] ** -0.5
    scores = tf.matmul(q, k, transpose_b=True)
    if distances is not None:
        scores += tf.einsum("bhmd,mnd->bhmn", q, distances)
    return tf.nn.softmax(scores)


def _split(x, kernel, bias, heads):
    """A projection of x by head: [b, n, d] -> [b, heads, n, d / heads]."""
    _, n, d = x.shape
    y = tf.reshape(plain_dense(x, kernel, bias), [-1, n, heads, d // heads])
    return tf.transpose(y, [0, 2, 1, 3])


# The fused ones: products outside, islands between them


_island = functools.partial(tf.function, jit_compile=True, autograph=False)


def _fused(x: tf.Tensor) -> bool:
    return _enabled.get() and x.dtype in (tf.float32, tf.bfloat16)


def _rows(function, x: tf.Tensor) -> tf.Tensor:
    """A function of rows [r, d] applied to x [..., d]: oneDNN's fast product has rank 2."""
    y = function(tf.reshape(x, [-1, x.shape[-1]]))
    return tf.reshape(y, [*_leading(x), y.shape[-1]])


def _leading(x: tf.Tensor) -> list:
    """The shape of x but for its last axis, as static as it is known."""
    static = x.shape[:-1].as_list()
    if static.count(None) > 1:
        return tf.unstack(tf.shape(x)[:-1])
    return [-1 if size is None else size for size in static]


def _column_sum(x: tf.Tensor) -> tf.Tensor:
    """The sum over the rows of x [r, m], as a product: several times as fast as a reduction."""
    return (tf.ones([1, tf.shape(x)[0]], x.dtype) @ x)[0]


@tf.custom_gradient
def _dense(x, kernel, bias):
    def gradient(dy):
        dx = tf.matmul(dy, kernel, transpose_b=True)
        return dx, tf.matmul(x, dy, transpose_a=True), _column_sum(dy)

    return tf.nn.bias_add(x @ kernel, bias), gradient


def _bias_gelu(x, bias, approximate):
    @tf.custom_gradient
    def forward(x, bias):
        def gradient(dy):
            dx = _bias_gelu_backward(x, bias, dy, approximate)
            return dx, _column_sum(dx)

        return _bias_gelu_forward(x, bias, approximate), gradient

    return forward(x, bias)


@_island
def _bias_gelu_forward(x, bias, approximate):
    y = _float(x) + _float(bias)
    return tf.cast(y * _gate(y, approximate)[0], x.dtype)


@_island
def _bias_gelu_backward(x, bias, dy, approximate):
    y = _float(x) + _float(bias)
    gate, slope = _gate(y, approximate)
    return tf.cast(_float(dy) * (gate + y * slope), x.dtype)


def _gate(y, approximate):
    """What GELU multiplies its input with, and the derivative of that."""
    if not approximate:
        density = tf.exp(-0.5 * y * y) * (2 * math.pi) ** -0.5
        return 0.5 + 0.5 * tf.math.erf(y * 0.5**0.5), density
    tanh = tf.tanh((2 / math.pi) ** 0.5 * (y + 0.044715 * y**3))
    slope = 0.5 * (1 - tanh * tanh) * (2 / math.pi) ** 0.5 * (1 + 3 * 0.044715 * y * y)
    return 0.5 + 0.5 * tanh, slope


def _residual_norm(epsilon):
    @tf.custom_gradient
    def forward(*inputs):
        *_, gamma, beta = inputs
        total, y = _residual_norm_forward(*inputs, epsilon=epsilon)

        def gradient(dtotal, dy):
            dx, dgamma, dbeta = _residual_norm_backward(total, gamma, dtotal, dy, epsilon=epsilon)
            dx = [dx] * (len(inputs) - 2)
            return [*dx, tf.cast(dgamma, gamma.dtype), tf.cast(dbeta, beta.dtype)]

        return (total, y), gradient

    return forward


@_island
def _residual_norm_forward(x, *rest, epsilon):
    *branch, gamma, beta = rest
    for y in branch:
        x = tf.cast(_float(x) + _float(y), x.dtype)
    y, _ = _normalised(x, epsilon)
    return x, tf.cast(y * _float(gamma) + _float(beta), x.dtype)


@_island
def _residual_norm_backward(x, gamma, dtotal, dy, epsilon):
    y, inverse = _normalised(x, epsilon)
    dy = _float(dy)
    g = dy * _float(gamma)
    dx = _float(dtotal) + inverse * (g - _mean(g) - y * _mean(g * y))
    rows = list(range(len(x.shape) - 1))
    return tf.cast(dx, x.dtype), tf.reduce_sum(dy * y, rows), tf.reduce_sum(dy, rows)


def _normalised(x, epsilon):
    """x with mean 0 and variance 1 over its last axis, and one over its deviation."""
    x = _float(x)
    centred = x - _mean(x)
    inverse = tf.math.rsqrt(_mean(centred * centred) + epsilon)
    return centred * inverse, inverse


def _mean(x):
    """The mean over the last axis, which stays.

    XLA for CPUs keeps the order of a sum and so cannot use vectors along a row; hence a vector of sums
    first, and a product with ones last (two sums in a row it would merge into one).
    """
    d = x.shape[-1]
    if d % LANES or d == LANES:
        return tf.reduce_mean(x, axis=-1, keepdims=True)
    x = tf.reshape(x, [*_leading(x), d // LANES, LANES])
    return tf.reduce_sum(x, axis=-2) @ tf.ones([LANES, 1]) / d


def _attend(x, bias, n, heads):
    """Attention of fused, scaled queries, keys and values: x [b * n, 3 d], bias [3 d] -> [b, n, d]."""

    @tf.custom_gradient
    def forward(x, bias):
        q, k, v = tf.split(_split_heads(x, bias, n, heads), 3)  # [heads, b, n, d / heads]
        p = tf.nn.softmax(tf.matmul(q, k, transpose_b=True))  # [heads, b, n, n]
        context = tf.matmul(p, v)

        def gradient(dy):
            dy = tf.reshape(dy, [-1, n, heads, v.shape[-1]])
            dcontext = tf.transpose(dy, [2, 0, 1, 3])
            dp = tf.matmul(dcontext, v, transpose_b=True)
            dscores = _softmax_backward(p, dp, context, dcontext)
            dq = tf.matmul(dscores, k)
            dk = tf.matmul(dscores, q, transpose_a=True)
            dv = tf.matmul(p, dcontext, transpose_a=True)
            dx = _join_heads(dq, dk, dv)
            return dx, _column_sum(dx)

        y = tf.transpose(context, [1, 2, 0, 3])
        return tf.reshape(y, [-1, n, heads * v.shape[-1]]), gradient

    return forward(x, bias)


@_island
def _split_heads(x, bias, n, heads):
    """[b * n, 3 d] -> [3 * heads, b, n, d / heads]."""
    y = tf.cast(_float(x) + _float(bias), x.dtype)
    y = tf.reshape(y, [-1, n, 3 * heads, x.shape[-1] // (3 * heads)])
    return tf.transpose(y, [2, 0, 1, 3])


@_island
def _join_heads(q, k, v):
    """Three of [heads, b, n, d / heads] -> [b * n, 3 d]."""
    y = tf.concat([tf.transpose(part, [1, 2, 0, 3]) for part in (q, k, v)], axis=2)
    return tf.reshape(y, [-1, y.shape[2] * y.shape[3]])


@_island
def _softmax_backward(p, dp, context, dcontext):
    """Gradient of the scores; the sum over a row of p * dp is found in the smaller context instead."""
    total = tf.reduce_sum(_float(context) * _float(dcontext), axis=-1, keepdims=True)
    return tf.cast(_float(p) * (_float(dp) - total), p.dtype)


def _float(x):
    return tf.cast(x, tf.float32)
