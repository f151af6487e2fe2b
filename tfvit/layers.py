"""The layers of a Vision Transformer that tf_keras does not have; shapes: b batch, n tokens, d width."""

from __future__ import annotations

import contextlib
import contextvars
import zlib

import tensorflow as tf
import tf_keras as keras

from tfvit import posemb

_seed: contextvars.ContextVar = contextvars.ContextVar("dropout_seed", default=None)


@contextlib.contextmanager
def dropout_seed(seed: tf.Tensor):
    """Within this context, dropout and stochastic depth are functions of `seed` (int32 [2]) alone.

    This is what lets a resumed run repeat an unbroken one: the training step derives the seed from
    its own number. Outside of it, `model(x, training=True)` draws a fresh seed at every call.
    """
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def _layer_seed(name: str) -> tf.Tensor:
    """The current seed, folded with a layer's name: int32 [2]."""
    seed = _seed.get()
    if seed is None:
        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
    return tf.random.experimental.stateless_fold_in(seed, zlib.crc32(name.encode()) >> 1)


class Dropout(keras.layers.Layer):
    """Dropout of single values whose mask is a function of the `dropout_seed` and the layer's name."""

    def __init__(self, rate: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or not self.rate:
            return x
        seed, shape = _layer_seed(self.name), self.mask_shape(x)
        return tf.nn.experimental.stateless_dropout(x, self.rate, seed, noise_shape=shape)

    def mask_shape(self, x: tf.Tensor) -> tf.Tensor:
        return tf.shape(x)


class StochasticDepth(Dropout):
    """Drops a whole residual branch of a sample (arXiv 1603.09382): [b, n, d] -> the same or zeros."""

    def mask_shape(self, x: tf.Tensor) -> tf.Tensor:
        return tf.stack([tf.shape(x)[0], 1, 1])


class Tokens(keras.layers.Layer):
    """Puts `count` learned tokens into the sequence at `index`: [b, n, d] -> [b, n + count, d]."""

    def __init__(self, count: int, index: int, initializer, **kwargs) -> None:
        super().__init__(**kwargs)
        self.count, self.index, self.initializer = count, index, initializer

    def build(self, shape) -> None:
        self.token = self.add_weight(
            "token", (1, self.count, shape[-1]), initializer=self.initializer
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        token = tf.tile(tf.cast(self.token, x.dtype), [tf.shape(x)[0], 1, 1])
        return tf.concat([x[:, : self.index], token, x[:, self.index :]], axis=1)


class Probe(keras.layers.Layer):
    """The learned query of attention pooling (arXiv 2106.04560): [b, n, d] -> [b, 1, d]."""

    def build(self, shape) -> None:
        self.probe = self.add_weight("probe", (1, 1, shape[-1]), initializer="glorot_uniform")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.tile(tf.cast(self.probe, x.dtype), [tf.shape(x)[0], 1, 1])


class PositionEmbedding(keras.layers.Layer):
    """Adds one learned vector per token, class tokens included: [b, n, d] (paper, equation 1)."""

    def build(self, shape) -> None:
        self.embedding = self.add_weight("embedding", (1, *shape[1:]), initializer=_position())

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(self.embedding, x.dtype)


class Position2D(keras.layers.Layer):
    """Adds half a learned vector per row and half a one per column: [b, h, w, d] (paper, appendix D.4)."""

    def build(self, shape) -> None:
        _, h, w, d = shape
        self.rows = self.add_weight("rows", (h, d // 2), initializer=_position())
        self.columns = self.add_weight("columns", (w, d // 2), initializer=_position())

    def call(self, x: tf.Tensor) -> tf.Tensor:
        h, w, d = x.shape[1:]
        rows = tf.broadcast_to(self.rows[:, tf.newaxis], [h, w, d // 2])
        columns = tf.broadcast_to(self.columns[tf.newaxis], [h, w, d // 2])
        return x + tf.cast(tf.concat([rows, columns], axis=-1), x.dtype)


class SinCos2D(keras.layers.Layer):
    """Adds the fixed `posemb.sincos_2d`: [b, h, w, d]."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(posemb.sincos_2d(*x.shape[1:]), x.dtype)


def _position() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)


class LayerScale(keras.layers.Layer):
    """A learned gain per channel of a residual branch (arXiv 2103.17239): [b, n, d] -> [b, n, d]."""

    def __init__(self, initial: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, shape) -> None:
        initial = keras.initializers.Constant(self.initial)
        self.gamma = self.add_weight("gamma", (shape[-1],), initializer=initial)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x * tf.cast(self.gamma, x.dtype)


class Attention(keras.layers.Layer):
    """Multi-head attention (paper, appendix A): queries [b, m, d] and tokens [b, n, d] -> [b, m, d].

    relative: queries also meet a learned vector for each distance in the sequence (paper, appendix D.4).
    """

    def __init__(self, heads: int, bias: bool = True, relative: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads, self.bias, self.with_relative = heads, bias, relative

    def build(self, shapes) -> None:
        (_, n, _), (_, _, width) = shapes
        dense = {"kernel_initializer": "glorot_uniform", "dtype": self._dtype_policy}
        self.query = keras.layers.Dense(width, use_bias=self.bias, name="query", **dense)
        self.key = keras.layers.Dense(width, use_bias=self.bias, name="key", **dense)
        self.value = keras.layers.Dense(width, use_bias=self.bias, name="value", **dense)
        self.out = keras.layers.Dense(width, name="out", **dense)
        if self.with_relative:
            shape = (2 * n - 1, width // self.heads)
            self.relative = self.add_weight("relative", shape, initializer=_position())
        super().build(shapes)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        queries, x = inputs
        d = x.shape[-1]
        head_dim = d // self.heads

        def split(y: tf.Tensor) -> tf.Tensor:  # [b, n, d] -> [b, heads, n, head_dim]
            y = tf.reshape(y, [-1, y.shape[1], self.heads, head_dim])
            return tf.transpose(y, [0, 2, 1, 3])

        q = split(self.query(queries)) * head_dim**-0.5
        scores = tf.matmul(q, split(self.key(x)), transpose_b=True)  # [b, heads, m, n]
        if self.with_relative:
            distances = tf.cast(tf.gather(self.relative, posemb.distances(x.shape[1])), q.dtype)
            scores += tf.einsum("bhmd,mnd->bhmn", q, distances)
        context = tf.matmul(tf.nn.softmax(scores), split(self.value(x)))  # [b, heads, m, head_dim]
        context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, queries.shape[1], d])
        return self.out(context)


def head(x: tf.Tensor, classes: int, name: str) -> tf.Tensor:
    """float32 logits of features [b, d]: zero at the start, as the reference codes have it."""
    return keras.layers.Dense(classes, kernel_initializer="zeros", name=name, dtype="float32")(x)
