"""The weights of the edge graph from the float model's: each fold is an identity of its own.

`edge_graph.forward` is the graph that they are for.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from edge_demo.preprocess import PreprocessSpec
from tfvit import posemb, resnet
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.layers import HEADS

Weights = dict[str, np.ndarray]

UNIT_SCALE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}  # grey levels as they are
MAP = "map/attention"


def fold(
    weights: Weights, arch: Architecture | ResNetArchitecture, spec: PreprocessSpec
) -> Weights:
    """The weights of the edge graph from the float model's, by name; each fold is exact."""
    w = dict(weights)
    _standardise(w)
    if isinstance(arch, ResNetArchitecture) or arch.stem is not None:
        w["input/scale"], w["input/shift"] = _grey_levels(spec)
    else:
        _fold_input(w, spec)
    if isinstance(arch, Architecture):
        _fold_transformer(w, arch)
    return {name: np.ascontiguousarray(value, np.float32) for name, value in w.items()}


def _fold_transformer(w: Weights, arch: Architecture) -> None:
    _as_matrix(w)
    _fold_position(w, arch)
    _fold_prefix(w, arch)
    for i in range(arch.depth):
        attention = [f"block_{i}/attention/{name}" for name in ("query", "key", "value")]
        _fold_norm(w, f"block_{i}/norm_1", attention)
        _fold_norm(w, f"block_{i}/norm_2", [f"block_{i}/mlp/dense_1"])
        _fold_attention_scale(w, attention[0], arch.head_dim)
        _drop_key_bias(w, attention[1])
        _fold_value_bias(w, attention[2], f"block_{i}/attention/out")
        if arch.position == "relative":
            _fold_relative(w, f"block_{i}/attention", arch.tokens)
        if arch.layer_scale is not None:
            _fold_layer_scale(w, f"block_{i}/attention/layer_scale", f"block_{i}/attention/out")
            _fold_layer_scale(w, f"block_{i}/mlp/layer_scale", f"block_{i}/mlp/dense_2")
    if arch.pooling == "map":
        _fold_probe(w, arch)
        _fold_norm(w, "map/norm", ["map/mlp/dense_1"])
    _keep_features(w, arch)
    _fold_norm(w, "norm", last_norm_readers(arch))
    if arch.pooling == "map":
        w.pop(f"{MAP}/scores/bias")  # of the norm: the same for every token, as a key's
        _fold_value_bias(w, f"{MAP}/value", f"{MAP}/out")
        _fold_pooled_mean(w)
    if arch.distillation_token:
        _fold_distillation(w)
    _centre_residual(w, arch)


def _standardise(w: Weights) -> None:
    """A ResNet's kernels as its convolutions use them: they are standardised at every call."""
    like_stem = any(name.startswith("stem/") for name in w)
    for name in w:
        if "/conv" in name:
            w[name] = resnet.standardise(tf.constant(w[name]), like_stem).numpy()


def _grey_levels(spec: PreprocessSpec) -> tuple[np.ndarray, np.ndarray]:
    """(x - m) / s = x (1 / s) + (-m / s): a convolution with padding cannot take the shift, since its
    zeros are zeros after normalisation."""
    std = np.float64(spec.std)
    return 1 / std, -np.float64(spec.mean) / std


def _fold_input(w: Weights, spec: PreprocessSpec) -> None:
    """((x - m) / s) K + b = x (K / s) + (b - (m / s) K): the patch embedding takes grey levels."""
    kernel = w["embedding/kernel"].astype(np.float64)  # [patch, patch, 3, d]
    mean, std = np.float64(spec.mean)[:, np.newaxis], np.float64(spec.std)[:, np.newaxis]
    w["embedding/bias"] = w["embedding/bias"] - (kernel * (mean / std)).sum((0, 1, 2))
    w["embedding/kernel"] = kernel / std


def _as_matrix(w: Weights) -> None:
    """The patch embedding as a dense layer over flattened patches: [patch * patch * channels, d]."""
    kernel = w["embedding/kernel"]
    w["embedding/kernel"] = kernel.reshape(-1, kernel.shape[-1])


def _fold_position(w: Weights, arch: Architecture) -> None:
    """Whatever kind they are of: one constant [1, n, d] for the patches; the class tokens keep theirs.

    `position/embedding` is missing where there is nothing to add.
    """
    (h, w_), d = arch.grid, arch.width
    if arch.position == "learned_2d":
        rows = np.broadcast_to(w.pop("position/rows")[:, np.newaxis], (h, w_, d // 2))
        columns = np.broadcast_to(w.pop("position/columns"), (h, w_, d // 2))
        w["position/embedding"] = np.concatenate([rows, columns], -1).reshape(1, h * w_, d)
    elif arch.position == "sincos_2d":
        w["position/embedding"] = posemb.sincos_2d(h, w_, d).reshape(1, h * w_, d)


def _fold_prefix(w: Weights, arch: Architecture) -> None:
    """concat(c, x) + p = concat(c + p[0], x + p[1:]): what stands before the patches is one constant.

    `prefix` [1, class tokens + registers, d]: class tokens with their position, then registers.
    """
    tokens = [w.pop(f"{name}/token") for name in ("cls", "distillation") if f"{name}/token" in w]
    if tokens and arch.position == "learned":
        position = w["position/embedding"]  # [1, class tokens + n, d]
        tokens = [np.concatenate(tokens, 1) + position[:, : arch.class_tokens]]
        w["position/embedding"] = position[:, arch.class_tokens :]
    if arch.registers:
        tokens.append(w.pop("registers/token"))
    if tokens:
        w["prefix"] = np.concatenate(tokens, 1)


def _fold_norm(w: Weights, norm: str, dense: list[str]) -> None:
    """(g * x + h) K + b = x (g[:, None] * K) + (h K + b): the norm's affine part moves into what reads it.

    So it does where the mean of the patches is read, alone or behind the class token.
    """
    gammas, betas = w.pop(f"{norm}/gamma"), w.pop(f"{norm}/beta")
    for name in dense:
        kernel = w[f"{name}/kernel"].astype(np.float64)
        gamma, beta = np.resize(gammas, len(kernel)), np.resize(betas, len(kernel))
        w[f"{name}/bias"] = w.get(f"{name}/bias", 0.0) + beta @ kernel
        w[f"{name}/kernel"] = gamma[:, np.newaxis] * kernel


def _keep_features(w: Weights, arch: Architecture) -> None:
    """`features/gamma` and `features/beta`: what the last norm's gain and shift make of what a head reads.

    They are missing where something else comes between the two.
    """
    if HEADS[0] in last_norm_readers(arch):
        inputs = len(w["head/kernel"]) * (1 + arch.distillation_token)
        for part in ("gamma", "beta"):
            w[f"features/{part}"] = np.resize(w[f"norm/{part}"], inputs)


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


def _fold_relative(w: Weights, attention: str, tokens: int) -> None:
    """q E[i - j] for all pairs of tokens: their vectors [i, j, head_dim], gathered once."""
    name = f"{attention}/relative"
    w[name] = w[name][posemb.distances(tokens)]


def _fold_layer_scale(w: Weights, scale: str, dense: str) -> None:
    """(x K + b) * g = x (K * g) + b * g: the dense layer before LayerScale carries its gain.

    To be done before `_centre_residual`: what was centred is no longer so after another gain.
    """
    gamma = w.pop(f"{scale}/gamma")
    for part in ("kernel", "bias"):
        w[f"{dense}/{part}"] = w[f"{dense}/{part}"] * gamma


def _fold_probe(w: Weights, arch: Architecture) -> None:
    """q (x K)^T of a query that is the same for all images: one dense layer of a column per head.

    Column h of its kernel [d, heads] is K's part of head h times the query's, scaled by 1 / sqrt(d);
    the key's bias cancels in the softmax.
    """
    probe = w.pop("map/probe").reshape(-1).astype(np.float64)
    query = probe @ w.pop(f"{MAP}/query/kernel") + w.pop(f"{MAP}/query/bias")
    key = w.pop(f"{MAP}/key/kernel") * (query * arch.head_dim**-0.5)
    w.pop(f"{MAP}/key/bias")
    w[f"{MAP}/scores/kernel"] = key.reshape(arch.width, arch.heads, arch.head_dim).sum(-1)


def _fold_pooled_mean(w: Weights) -> None:
    """LayerNorm(x) = RMSNorm(x - mean(x)): attention pooling gives x and, beside it, x - mean(x)."""
    for part in ("kernel", "bias"):
        value = w[f"{MAP}/out/{part}"]
        centred = value - value.mean(axis=-1, keepdims=True)
        w[f"{MAP}/out/{part}"] = np.concatenate([value, centred], -1)


def _fold_distillation(w: Weights) -> None:
    """(a K + b + c L + e) / 2 = [a c] [K; L] / 2 + (b + e) / 2: both heads are one."""
    for part, join in (("kernel", np.concatenate), ("bias", sum)):
        w[f"head/{part}"] = join([w.pop(f"{head}/{part}") for head in HEADS]) / 2


def _centre_residual(w: Weights, arch: Architecture) -> None:
    """LayerNorm(x) = RMSNorm(x - mean(x)), and a sum of centred terms is centred: so whatever is added
    to the residual stream has its mean over the channels taken off, once, here."""
    for name in residual_writers(w, arch):
        w[name] = w[name] - w[name].mean(axis=-1, keepdims=True)


def residual_writers(w: Weights, arch: Architecture) -> list[str]:
    """The folded weights whose last axis is the channels of the residual stream."""
    writers = ["embedding"]
    for i in range(arch.depth):
        writers += [f"block_{i}/attention/out", f"block_{i}/mlp/dense_2"]
    names = [f"{dense}/{part}" for dense in writers for part in ("kernel", "bias")]
    return names + [name for name in ("position/embedding", "prefix") if name in w]


def norm_readers(arch: Architecture) -> list[str]:
    """The dense layers that read a norm of the residual stream, in the folded graph."""
    readers = []
    for i in range(arch.depth):
        readers += [f"block_{i}/attention/{name}" for name in ("query", "key", "value")]
        readers.append(f"block_{i}/mlp/dense_1")
    return [*readers, *(n for n in last_norm_readers(arch) if n != HEADS[1])]


def last_norm_readers(arch: Architecture) -> list[str]:
    """Those of the last one; with a distillation token still two heads, which `_fold_distillation` joins."""
    if arch.pooling == "map":
        return [f"{MAP}/scores", f"{MAP}/value"]
    if arch.representation_size:
        return ["pre_logits"]
    return list(HEADS[: 1 + arch.distillation_token])
