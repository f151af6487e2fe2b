"""Architecture -> tf_keras model, initialised as the paper's reference code does it."""

from __future__ import annotations

import dataclasses
import functools

import tensorflow as tf
import tf_keras as keras

from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture as architectures
from tfvit.architecture import Architecture
from tfvit.layers import (
    ClassToken,
    Dropout,
    LayerScale,
    PositionEmbedding,
    SelfAttention,
    StochasticDepth,
)


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model is beside its weights: all of config.json."""

    architecture: Architecture
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    provenance: dict


class VisionTransformer(keras.Model):
    """A functional tf_keras model that knows what it is.

    float32 [batch, height, width, 3], normalised by `preprocess` -> float32 logits [batch, classes].
    """

    card: Card

    @property
    def architecture(self) -> Architecture:
        """The architecture that it was built from."""
        return self.card.architecture

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a picture becomes its input."""
        return self.card.preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.labels

    @property
    def provenance(self) -> dict:
        """Where its weights come from; JSON types."""
        return self.card.provenance


def create_model(
    name: str, num_classes: int, image_size: int | tuple[int, int] = 224, **changes
) -> VisionTransformer:
    """A freshly initialised Vision Transformer by name: `create_model("vit-b/16", 1000, 224)`.

    name: "vit-VARIANT/PATCH" with a variant of `tfvit.architecture.VARIANTS`.
    image_size: pixels, one number or (height, width), divisible by the patch.
    changes: other fields of `Architecture`: pooling="gap", dropout=0.1, representation_size=768.
    Raises UserError for a name, size or field that no model has.
    """
    return build(architectures.named(name, num_classes, image_size, **changes))


def build(
    arch: Architecture,
    *,
    dtype: str = "float32",
    labels: tuple[str, ...] | None = None,
    preprocess: PreprocessSpec | None = None,
    provenance: dict | None = None,
) -> VisionTransformer:
    """The tf_keras model of an architecture.

    dtype: "float32", or "mixed_bfloat16" to compute in bfloat16 with float32 weights and logits.
    labels: names of the classes ("0", "1", ... if None).
    preprocess: None is the reference code's: resize to the input size, pixels to [-1, 1].
    provenance: where the weights come from; JSON types.

    Source: google-research/vision_transformer, vit_jax/models_vit.py (structure, initialisers).
    """
    policy = keras.mixed_precision.Policy(dtype)

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

    gelu = functools.partial(tf.nn.gelu, approximate=arch.activation == "gelu_tanh")
    images = keras.Input((*arch.image_size, 3), name="image")
    x = keras.layers.Conv2D(  # [b, height / patch, width / patch, d]
        arch.width,
        arch.patch_size,
        arch.patch_size,
        kernel_initializer="lecun_normal",
        name="embedding",
        dtype=policy,
    )(images)
    x = keras.layers.Reshape((-1, arch.width), name="patches", dtype=policy)(x)  # [b, n, d]
    if arch.pooling == "cls":
        x = ClassToken(name="cls", dtype=policy)(x)
    x = PositionEmbedding(name="position", dtype=policy)(x)
    x = dropout("position/dropout")(x)

    for i in range(arch.depth):
        block = f"block_{i}"
        drop_path = arch.stochastic_depth * i / max(arch.depth - 1, 1)
        y = norm(f"{block}/norm_1")(x)
        y = SelfAttention(arch.heads, name=f"{block}/attention", dtype=policy)(y)
        y = dropout(f"{block}/attention/dropout")(y)
        y = layer_scale(y, f"{block}/attention/layer_scale")
        y = StochasticDepth(drop_path, name=f"{block}/attention/drop_path", dtype=policy)(y)
        x = keras.layers.Add(name=f"{block}/attention/add", dtype=policy)([x, y])
        y = norm(f"{block}/norm_2")(x)
        y = _mlp_dense(arch.mlp_dim, f"{block}/mlp/dense_1", policy)(y)
        y = keras.layers.Activation(gelu, name=f"{block}/mlp/gelu", dtype=policy)(y)
        y = dropout(f"{block}/mlp/dropout_1")(y)
        y = _mlp_dense(arch.width, f"{block}/mlp/dense_2", policy)(y)
        y = dropout(f"{block}/mlp/dropout_2")(y)
        y = layer_scale(y, f"{block}/mlp/layer_scale")
        y = StochasticDepth(drop_path, name=f"{block}/mlp/drop_path", dtype=policy)(y)
        x = keras.layers.Add(name=f"{block}/mlp/add", dtype=policy)([x, y])

    x = norm("norm")(x)
    if arch.pooling == "cls":
        x = keras.layers.Lambda(lambda t: t[:, 0], name="pool", dtype=policy)(x)  # [b, d]
    else:
        x = keras.layers.GlobalAveragePooling1D(name="pool", dtype=policy)(x)
    if arch.representation_size:
        x = keras.layers.Dense(
            arch.representation_size,
            activation="tanh",
            kernel_initializer="lecun_normal",
            name="pre_logits",
            dtype=policy,
        )(x)
    logits = keras.layers.Dense(
        arch.num_classes, kernel_initializer="zeros", name="head", dtype="float32"
    )(x)

    model = VisionTransformer(images, logits, name=arch.name.replace("/", "_"))
    model.card = Card(
        arch,
        preprocess or PreprocessSpec(*arch.image_size),
        labels or tuple(str(i) for i in range(arch.num_classes)),
        provenance or {},
    )
    return model


def _mlp_dense(units: int, name: str, policy) -> keras.layers.Dense:
    return keras.layers.Dense(
        units,
        kernel_initializer="glorot_uniform",
        bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
        name=name,
        dtype=policy,
    )


def named_weights(model: keras.Model) -> dict[str, tf.Variable]:
    """The model's variables by name, "block_0/attention/query/kernel", in a fixed order."""
    return {w.name.removesuffix(":0"): w for w in model.weights}
