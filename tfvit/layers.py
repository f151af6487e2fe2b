"""The layers of a Vision Transformer that tf_keras does not have; shapes: b batch, n tokens, d width."""

from __future__ import annotations

import contextlib
import contextvars
import zlib

import tensorflow as tf
import tf_keras as keras

from tfvit import fused, posemb
from tfvit.architecture import Architecture

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


def _current_seed() -> tf.Tensor:
    """The seed of the context or, outside of one, a fresh one: int32 [2]."""
    seed = _seed.get()
    return tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32) if seed is None else seed


def _layer_seed(name: str) -> tf.Tensor:
    """The current seed, folded with a layer's name: int32 [2]."""
    return tf.random.experimental.stateless_fold_in(_current_seed(), zlib.crc32(name.encode()) >> 1)


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
        h, w = x.shape[1:3]
        rows = tf.tile(self.rows[:, tf.newaxis], [1, w, 1])
        columns = tf.tile(self.columns[tf.newaxis], [h, 1, 1])
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

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return x * tf.cast(self.gamma, x.dtype)


class PatchEmbedding(keras.layers.Conv2D):
    """Patches to vectors, a convolution: [b, height, width, c] -> [b, *grid, d] (paper, equation 1)."""

    def __init__(self, width: int, patch_size: int, **kwargs) -> None:
        super().__init__(width, patch_size, patch_size, kernel_initializer="lecun_normal", **kwargs)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        kernel, bias = (tf.convert_to_tensor(w) for w in (self.kernel, self.bias))
        return fused.patch_embedding(images, kernel, bias)


class ResidualNorm(keras.layers.Layer):
    """x + branch, and its layer normalisation: twice [..., d] -> twice [..., d]."""

    def __init__(self, epsilon: float, **kwargs) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, shape) -> None:
        exact = {"shape": (shape[-1],), "experimental_autocast": False}
        self.gamma = self.add_weight("gamma", initializer="ones", **exact)
        self.beta = self.add_weight("beta", initializer="zeros", **exact)

    def call(self, x: tf.Tensor, branch: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        gamma, beta = (tf.convert_to_tensor(w) for w in (self.gamma, self.beta))
        return fused.residual_norm(x, branch, gamma, beta, self.epsilon)


class LayerNorm(ResidualNorm):
    """Layer normalisation over the last axis, in float32: [..., d] -> [..., d]."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return super().call(x)[1]


class Dense(keras.layers.Layer):
    """A dense layer, with the GELU of `architecture.ACTIVATIONS` that is named: [..., d] -> [..., m]."""

    def __init__(self, units: int, gelu: str | None = None, bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.units, self.gelu, self.bias_initializer = units, gelu, bias_initializer

    def build(self, shape) -> None:
        self.kernel = self.add_weight(
            "kernel", (shape[-1], self.units), initializer="glorot_uniform"
        )
        self.bias = self.add_weight("bias", (self.units,), initializer=self.bias_initializer)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel, bias = (tf.convert_to_tensor(w) for w in (self.kernel, self.bias))
        if self.gelu is None:
            return fused.dense(x, kernel, bias)
        return fused.dense_gelu(x, kernel, bias, self.gelu == "gelu_tanh")


class Attention(keras.layers.Layer):
    """Multi-head attention (paper, appendix A): queries [b, m, d] and tokens [b, n, d] -> [b, m, d].

    relative: queries also meet a learned vector for each distance in the sequence (paper, appendix D.4).
    """

    def __init__(self, heads: int, bias: bool = True, relative: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.heads, self.bias, self.with_relative = heads, bias, relative

    def build(self, shapes) -> None:
        (_, n, _), (_, _, width) = shapes
        if self.with_relative:
            shape = (2 * n - 1, width // self.heads)
            self.relative = self.add_weight("relative", shape, initializer=_position())
        self.kernels, self.biases = [], [] if self.bias else None
        for part in ("query", "key", "value"):
            kernel = self.add_weight(f"{part}/kernel", (width, width), initializer="glorot_uniform")
            self.kernels.append(kernel)
            if self.bias:
                self.biases.append(self.add_weight(f"{part}/bias", (width,), initializer="zeros"))
        self.out = Dense(width, name="out", dtype=self._dtype_policy)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        queries, x = inputs
        kernels, biases, heads, distances = self._weights(x)
        if queries is x and distances is None:
            return self.out(fused.self_attention(x, kernels, biases, heads))
        return self.out(fused.attend(queries, x, kernels, biases, heads, distances))

    def probabilities(self, queries: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """How much of each token each query takes, whatever their type: float32 [b, heads, m, n]."""
        queries, x = (tf.cast(y, tf.float32) for y in (queries, x))
        return fused.probabilities(queries, x, *self._weights(x))

    def _weights(self, x: tf.Tensor) -> tuple:
        """Kernels, biases, heads and relative distances as `fused.attend` takes them."""
        kernels = [tf.convert_to_tensor(kernel) for kernel in self.kernels]
        biases = self.biases and [tf.convert_to_tensor(bias) for bias in self.biases]
        distances = None
        if self.with_relative:
            distances = tf.cast(tf.gather(self.relative, posemb.distances(x.shape[1])), x.dtype)
        return kernels, biases, self.heads, distances


class Mlp(keras.layers.Layer):
    """Two dense layers with GELU between them: [b, n, d] -> [b, n, d]."""

    def __init__(self, mlp_dim: int, activation: str, dropout: float, path: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.mlp_dim, self.activation, self.rate, self.path = mlp_dim, activation, dropout, path

    def build(self, shape) -> None:
        policy = {"dtype": self._dtype_policy}
        bias_1, bias_2 = (keras.initializers.RandomNormal(stddev=1e-6) for _ in range(2))
        self.dense_1 = Dense(self.mlp_dim, self.activation, bias_1, name="dense_1", **policy)
        self.dense_2 = Dense(shape[-1], None, bias_2, name="dense_2", **policy)
        self.dropout_1, self.dropout_2 = (
            Dropout(self.rate, name=f"{self.path}/dropout_{i}", **policy) for i in (1, 2)
        )

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        y = self.dropout_1(self.dense_1(x), training=training)
        return self.dropout_2(self.dense_2(y), training=training)


class Block(keras.layers.Layer):
    """One block of the encoder (paper, equations 2 and 3): [b, n, d] -> [b, n, d].

    drop_path: the rate of its StochasticDepth.
    remat: in training, keep only its input and compute the rest anew in the backward pass.
    """

    def __init__(self, arch: Architecture, drop_path: float, remat: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.arch, self.drop_path, self.remat = arch, drop_path, remat

    def build(self, shape) -> None:
        arch, policy = self.arch, {"dtype": self._dtype_policy}
        epsilon, path = arch.layer_norm_epsilon, self.name
        self.norm_1 = ResidualNorm(epsilon, name="norm_1", **policy)
        self.attention = Attention(
            arch.heads, arch.qkv_bias, arch.position == "relative", name="attention", **policy
        )
        self.dropout = Dropout(arch.dropout, name=f"{path}/attention/dropout", **policy)
        self.attention_end = self._branch_end("attention")
        self.norm_2 = ResidualNorm(epsilon, name="norm_2", **policy)
        self.mlp = Mlp(
            arch.mlp_dim, arch.activation, arch.dropout, f"{path}/mlp", name="mlp", **policy
        )
        self.mlp_end = self._branch_end("mlp")

    def _branch_end(self, branch: str) -> list[keras.layers.Layer]:
        policy, rate = {"dtype": self._dtype_policy}, self.drop_path
        layers = [StochasticDepth(rate, name=f"{self.name}/{branch}/drop_path", **policy)]
        if self.arch.layer_scale is not None:
            scale = LayerScale(self.arch.layer_scale, name=f"{branch}/layer_scale", **policy)
            layers.insert(0, scale)
        return layers

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not (self.remat and training):
            return self._compute(x, training)
        with dropout_seed(_current_seed()):  # the same in both passes, and fused or not alike
            context = contextvars.copy_context()
        return tf.recompute_grad(lambda x: context.run(self._compute, x, training))(x)

    def _compute(self, x: tf.Tensor, training: bool) -> tf.Tensor:
        x, y = self.norm_1(x)
        y = self.dropout(self.attention([y, y]), training=training)
        for layer in self.attention_end:
            y = layer(y, training=training)
        x, y = self.norm_2(x, y)
        y = self.mlp(y, training=training)
        for layer in self.mlp_end:
            y = layer(y, training=training)
        return x + y


HEADS = ("head", "head_distillation")  # names of them; the second reads the distillation token


def head(x: tf.Tensor, classes: int, name: str) -> tf.Tensor:
    """float32 logits of features [b, d]: zero at the start, as the reference codes have it."""
    return keras.layers.Dense(classes, kernel_initializer="zeros", name=name, dtype="float32")(x)
