"""The two ways of hiding patches from an encoder: masked patch prediction, and masked autoencoders.

Shapes: b batch, n patches, m of them to be predicted, d width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from edge_demo.errors import UserError
from tfvit import posemb, vit
from tfvit.architecture import Architecture
from tfvit.layers import Block, Dense, LayerNorm, Tokens, head
from tfvit.model import Model, named_weights
from tfvit.objectives import OBJECTIVES
from tfvit.recipe import Pretraining

PREFIX = "pretraining"  # of the names of weights that the model itself has not
MASKED, OTHER = 0.8, 0.9  # below the first: the mask token; below the second: another patch
HEAD_DIM = 32  # of the decoder's attention heads
WIDEST_DECODER = 512

Plan = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What tells the hidden patches.

    predict: (images [b, h, w, 3], plan, training) -> float32 [b, m, outputs].
    weights: of the encoder and of what is thrown away after it, by name.
    """

    predict: Callable[[tf.Tensor, Plan, bool], tf.Tensor]
    weights: dict[str, tf.Variable]


@dataclasses.dataclass(frozen=True)
class Masking:
    """A way of hiding patches, a row of the table.

    draws: random numbers per patch that a plan is made of.
    plan: (float32 [draws, b, n] in [0, 1), m) -> what is hidden, int32: "places" [b, m] to be predicted, and
        what the prediction needs further. All shapes are static.
    prediction: (model, how, outputs for a patch) -> what tells them.
    """

    draws: int
    plan: Callable[[tf.Tensor, int], Plan]
    prediction: Callable[[Model, Pretraining, int], Prediction]


def to_predict(arch: Architecture, share: float) -> int:
    """How many patches of a picture are predicted: at least one, and not all.

    Raises UserError if none could be told from the others.
    """
    n = _patches(arch)
    return min(n - int(n * (1 - share)), n - 1)


def masked_patch_plan(noise: tf.Tensor, m: int) -> Plan:
    """The patches to be predicted, and the "source" [b, n] of each embedding: a patch, or n, the mask."""
    n = noise.shape[2]
    places = tf.argsort(noise[0], axis=1, stable=True)[:, :m]
    kind, which = (tf.gather(x, places, batch_dims=1) for x in (noise[1], noise[2]))
    others = 1 + tf.minimum(tf.cast(which * (n - 1), tf.int32), n - 2)
    other = (places + others) % n
    new = tf.where(kind < MASKED, n, tf.where(kind < OTHER, other, places))
    # not ==, which in a plain graph asks whether they are one tensor
    here = tf.equal(places[..., tf.newaxis], tf.range(n))  # [b, m, n]
    source = tf.reduce_sum(tf.where(here, new[..., tf.newaxis], 0), axis=1)
    source = tf.where(tf.reduce_any(here, axis=1), source, tf.range(n))
    return {"places": places, "source": source}


def masked_patch(model: Model, how: Pretraining, outputs: int) -> Prediction:
    """Masked patch prediction (arXiv 2010.11929, appendix B.1.2).

    Of the patches to be predicted, 80 % have their embedding replaced by a learned one, 10 % by that of
    another patch of the picture, and 10 % keep theirs.
    """
    arch, policy = model.architecture, model.get_layer("norm").dtype_policy
    stages, n = vit.stages(model), _patches(arch)
    m = to_predict(arch, how.masked)
    tokens = Tokens(1, n, _normal(), name=f"{PREFIX}/mask", dtype=policy)
    mask = _added(tokens, shape=(n, arch.width))
    answer = _answer(m, arch.width, outputs)

    def predict(images: tf.Tensor, plan: Plan, training: bool) -> tf.Tensor:
        x = stages.embed(images, training=training)
        x = tf.gather(mask(x), plan["source"], batch_dims=1)
        x = stages.encode(stages.place(x, training=training), training=training)
        return answer(tf.gather(x[:, arch.prefix_tokens :], plan["places"], batch_dims=1))

    weights = stages.weights | named_weights(mask) | named_weights(answer)
    return Prediction(predict, weights)


def mae_plan(noise: tf.Tensor, m: int) -> Plan:
    """The patches to be predicted, the "visible" ones [b, n - m], and where each of all is among them."""
    kept = noise.shape[2] - m
    order = tf.argsort(noise[0], axis=1, stable=True)
    place = tf.argsort(order, axis=1, stable=True)  # of each patch in that order
    return {
        "visible": order[:, :kept],
        "places": order[:, kept:],
        "source": tf.minimum(place, kept),
    }


def mae(model: Model, how: Pretraining, outputs: int) -> Prediction:
    """A masked autoencoder (arXiv 2111.06377): the encoder gets the other patches alone.

    A decoder that is thrown away afterwards gets what comes out, mask tokens for what is missing, and fixed
    positions. Raises UserError for an encoder whose tokens know of their neighbours, or by their distance.
    """
    arch, policy = model.architecture, model.get_layer("norm").dtype_policy
    if arch.stem is not None:
        raise UserError(
            f"{arch.name}: mae drops patches, whose pixels a hybrid's stem mixes; take masked-patch"
        )
    if arch.position == "relative":
        raise UserError("position relative is by the distance in the sequence; take masked-patch")
    stages, n, prefix = vit.stages(model), _patches(arch), arch.prefix_tokens
    m = to_predict(arch, how.masked)
    kept = n - m
    width = how.decoder_width or _decoder_width(arch.width)
    decoder = Architecture(
        **{"name": "decoder", "num_classes": 1, "image_size": arch.image_size},
        **{"patch_size": arch.patch_size, "width": width, "depth": how.decoder_depth},
        **{"mlp_dim": 4 * width, "heads": width // HEAD_DIM, "activation": arch.activation},
    )
    enter = _added(
        Dense(width, name=f"{PREFIX}/decoder/embedding", dtype=policy),
        Tokens(1, prefix + kept, _normal(), name=f"{PREFIX}/mask", dtype=policy),
        shape=(prefix + kept, arch.width),
    )
    blocks = [
        Block(decoder, 0.0, name=f"{PREFIX}/decoder/block_{i}", dtype=policy)
        for i in range(decoder.depth)
    ]
    norm = LayerNorm(decoder.layer_norm_epsilon, name=f"{PREFIX}/decoder/norm", dtype=policy)
    decode = _added(*blocks, norm, shape=(prefix + n, width))
    answer = _answer(m, width, outputs)
    positions = posemb.sincos_2d(*arch.grid, width).reshape(1, n, width)
    positions = np.pad(positions, [(0, 0), (prefix, 0), (0, 0)])

    def predict(images: tf.Tensor, plan: Plan, training: bool) -> tf.Tensor:
        x = stages.place(stages.embed(images, training=training), training=training)
        visible = tf.gather(x[:, prefix:], plan["visible"], batch_dims=1)
        x = stages.encode(tf.concat([x[:, :prefix], visible], axis=1), training=training)
        x = enter(x, training=training)
        x, patches = x[:, :prefix], tf.gather(x[:, prefix:], plan["source"], batch_dims=1)
        x = tf.concat([x, patches], axis=1)
        x = decode(x + tf.cast(positions, x.dtype), training=training)
        return answer(tf.gather(x[:, prefix:], plan["places"], batch_dims=1))

    weights = {}
    for part in (enter, decode, answer):
        weights |= named_weights(part)
    return Prediction(predict, stages.weights | weights)


MASKINGS = {
    "masked-patch": Masking(3, masked_patch_plan, masked_patch),
    "mae": Masking(1, mae_plan, mae),
}
assert MASKINGS.keys() == set(OBJECTIVES)


def _patches(arch: Architecture) -> int:
    """The number of patches; UserError if none could be told from the others."""
    n = arch.grid[0] * arch.grid[1]
    if n < 2:
        raise UserError(f"{arch.name}: one patch a picture; take a larger --image-size")
    return n


def _decoder_width(width: int) -> int:
    return max(HEAD_DIM, min(WIDEST_DECODER, width * 2 // 3) // HEAD_DIM * HEAD_DIM)


def _answer(m: int, width: int, outputs: int) -> keras.Model:
    """The layer that predicts, float32: [b, m, width] -> [b, m, outputs]."""
    inputs = keras.Input((m, width))
    return keras.Model(inputs, head(inputs, outputs, f"{PREFIX}/head"))


def _added(*layers: keras.layers.Layer, shape: tuple[int, int]) -> keras.Model:
    """Layers one behind the other, built for tokens of that shape: a model, so that weights have names."""
    inputs = keras.Input(shape, dtype=layers[0].compute_dtype)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, x)


def _normal() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.02)
