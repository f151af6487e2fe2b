"""The layers of a Vision Transformer that tf_keras does not have; shapes: b batch, n tokens, d width."""

from __future__ import annotations

import contextlib
import contextvars
import zlib

import tensorflow as tf
import tf_keras as keras

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


class ClassToken(keras.layers.Layer):
    """Puts the learned class token before the patches: [b, n, d] -> [b, 1 + n, d]."""

    def build(self, shape) -> None:
        self.token = self.add_weight("token", (1, 1, shape[-1]), initializer="zeros")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        token = tf.cast(self.token, x.dtype)
        return tf.concat([tf.tile(token, [tf.shape(x)[0], 1, 1]), x], axis=1)


class PositionEmbedding(keras.layers.Layer):
    """Adds one learned vector per token, class token included: [b, n, d] (paper, equation 1)."""

    def build(self, shape) -> None:
        self.embedding = self.add_weight(
            "embedding", (1, *shape[1:]), initializer=keras.initializers.RandomNormal(stddev=0.02)
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + tf.cast(self.embedding, x.dtype)


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


class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention (paper, appendix A): [b, n, d] -> [b, n, d]."""

    def __init__(self, heads: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape) -> None:
        width = shape[-1]
        dense = {"kernel_initializer": "glorot_uniform", "dtype": self._dtype_policy}
        self.query = keras.layers.Dense(width, name="query", **dense)
        self.key = keras.layers.Dense(width, name="key", **dense)
        self.value = keras.layers.Dense(width, name="value", **dense)
        self.out = keras.layers.Dense(width, name="out", **dense)
        super().build(shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        n, d = x.shape[1:]
        head_dim = d // self.heads

        def split(y: tf.Tensor) -> tf.Tensor:  # [b, n, d] -> [b, heads, n, head_dim]
            return tf.transpose(tf.reshape(y, [-1, n, self.heads, head_dim]), [0, 2, 1, 3])

        q = split(self.query(x)) * head_dim**-0.5
        scores = tf.matmul(q, split(self.key(x)), transpose_b=True)  # [b, heads, n, n]
        context = tf.matmul(tf.nn.softmax(scores), split(self.value(x)))  # [b, heads, n, head_dim]
        context = tf.reshape(tf.transpose(context, [0, 2, 1, 3]), [-1, n, d])
        return self.out(context)
