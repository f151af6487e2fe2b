"""What a file tells beside its logits: the features that its head reads, and where it looked.

Both are made of what `edge_graph.forward` visits anyway, so the logits stay as they are bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import tensorflow as tf

from convert import edge_graph
from convert.edge_graph import Ops, Quantize
from edge_demo.tflite.metadata import ATTENTION, FEATURES, LOGITS
from tfvit.architecture import Architecture, ResNetArchitecture

EXTRAS = (FEATURES, ATTENTION)  # in the order of the file
FLOOR = -1e4  # no feature is below
NORMALISED = "rollout/normalised"  # name scope of what has no site: no integer file has it


def refusal(extras: Collection[str], arch: Architecture | ResNetArchitecture) -> str | None:
    """Why a model cannot tell this; None if it can."""
    if ATTENTION in extras and isinstance(arch, ResNetArchitecture):
        return "a BiT ResNet has no attention to tell of"
    return None


def outputs(
    w: dict[str, tf.Tensor],
    pixels: tf.Tensor,
    arch: Architecture | ResNetArchitecture,
    quantize: Quantize = lambda name, x: x,
    integer: bool = False,
    extras: Collection[str] = (),
    ops: Ops = Ops(),
) -> dict[str, tf.Tensor]:
    """Logits and `extras` of grey levels [batch, height, width, 3], by name.

    features: [batch, d], what the head reads. attention: [batch, rows, columns], see `_rollout`.
    The other arguments are those of `edge_graph.forward`.
    """
    seen: dict[str, tf.Tensor] = {}

    def held(site: str, op: Callable, *args, **kwargs) -> tf.Tensor:
        with tf.name_scope(site):
            y = op(*args, **kwargs)
        seen[site] = quantize(site, y)
        return seen[site]

    def note(site: str, x: tf.Tensor) -> tf.Tensor:
        x = seen[site] = quantize(site, x)
        block, is_attention, _ = site.partition("/attention/probabilities")
        if is_attention and ATTENTION in extras:
            # Here, so that the heads of all blocks are not kept until the end.
            held(f"rollout/{block}/heads", tf.reduce_mean, x, axis=1)
        return x

    found = {LOGITS: edge_graph.forward(w, pixels, arch, note, integer, ops)}
    if FEATURES in extras:
        found[FEATURES] = _features(w, seen["head/rows"], held)
    if ATTENTION in extras:
        found[ATTENTION] = _rollout(seen, arch, held, integer)
    return found


def _features(w: dict[str, tf.Tensor], x: tf.Tensor, held: Callable) -> tf.Tensor:
    """What the float model's head reads: the affine part of its last norm was folded into the head."""
    if "features/gamma" in w:
        x = held("features/scaled", tf.multiply, x, w["features/gamma"])
        return held("features/output", tf.add, x, w["features/beta"])
    # A tensor of its own: ai-edge-quantizer has the head read the output's unsigned bytes else.
    return held("features/output", tf.maximum, x, FLOOR)


def _rollout(
    seen: dict[str, tf.Tensor], arch: Architecture, held: Callable, integer: bool
) -> tf.Tensor:
    """How much of each patch is in what the head reads: [batch, rows, columns], a sum of 1.

    Attention rollout (arXiv 2005.00928, section 3): heads are averaged, half of every token passes by on
    the residual path, and the blocks are multiplied. Of the product only the row of what the head reads is
    asked for, so it is carried from the last block to the first: a row times a matrix in each.
    integer: the division that makes the sum 1 is left to `edge_demo.classifier`.
    """
    x = seen.get("rollout/map/heads")  # [b, 1, n]
    for i in reversed(range(arch.depth)):
        name = f"rollout/block_{i}"
        mean = seen[f"{name}/heads"]  # [b, m, n]
        if x is None:
            x, read = _read(arch)
            rows = mean[:, read]  # not x @ mean: ai-edge-quantizer takes a constant x for a kernel
            attended = held(f"{name}/attended", tf.reduce_mean, rows, axis=1, keepdims=True)
        else:
            attended = held(f"{name}/attended", tf.matmul, x, mean)
        both = held(f"{name}/both", tf.add, x, attended)
        x = held(f"{name}/output", tf.multiply, both, 0.5)
    if arch.prefix_tokens:
        x = x[..., arch.prefix_tokens :]
    if not integer:
        with tf.name_scope(NORMALISED):
            x = x / tf.reduce_sum(x, axis=-1, keepdims=True)
    return tf.reshape(x, [-1, *arch.grid])


def _read(arch: Architecture) -> tuple[np.ndarray, slice]:
    """The share of each token in what the head reads, [1, 1, n], and which have one."""
    share = np.zeros([1, 1, arch.tokens], np.float32)
    read = slice(arch.prefix_tokens, None) if arch.pooling == "gap" else slice(arch.class_tokens)
    share[..., read] = 1 / share[..., read].size
    return share, read
