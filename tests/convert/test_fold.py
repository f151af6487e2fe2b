"""Each fold is an identity: what was computed before and after, in NumPy."""

from __future__ import annotations

import numpy as np
from random_models import SPEC, random_model, weights_of
from scipy.special import softmax

from convert import fold
from edge_demo.preprocess import normalise
from tfvit.posemb import sincos_2d


def test_folding_the_input_takes_grey_levels():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(8, 8, 3, 5)), rng.normal(size=5)
    patch = rng.uniform(0, 255, (8, 8, 3))
    weights = {"embedding/kernel": kernel, "embedding/bias": bias}
    fold._fold_input(weights, SPEC)
    expected = np.tensordot((patch - SPEC.mean) / SPEC.std, kernel, 3) + bias
    found = np.tensordot(patch, weights["embedding/kernel"], 3) + weights["embedding/bias"]
    assert np.allclose(found, expected)


def test_folding_a_norm_moves_its_affine_part_into_the_dense_layer():
    rng = np.random.default_rng(0)
    gamma, beta, x = rng.normal(size=6), rng.normal(size=6), rng.normal(size=(3, 6))
    kernel, bias = rng.normal(size=(6, 4)), rng.normal(size=4)
    weights = {"n/gamma": gamma, "n/beta": beta, "d/kernel": kernel, "d/bias": bias}
    fold._fold_norm(weights, "n", ["d"])
    expected = (x * gamma + beta) @ kernel + bias
    assert np.allclose(x @ weights["d/kernel"] + weights["d/bias"], expected)
    assert set(weights) == {"d/kernel", "d/bias"}


def test_folding_the_attention_scale_divides_the_queries():
    rng = np.random.default_rng(0)
    kernel, bias, x = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=(3, 6))
    weights = {"q/kernel": kernel, "q/bias": bias}
    fold._fold_attention_scale(weights, "q", 16)
    assert np.allclose(x @ weights["q/kernel"] + weights["q/bias"], (x @ kernel + bias) / 4)


def test_folding_layer_scale_moves_its_gain_into_the_dense_layer():
    rng = np.random.default_rng(0)
    gamma, kernel, bias = rng.normal(size=4), rng.normal(size=(6, 4)), rng.normal(size=4)
    x = rng.normal(size=(3, 6))
    weights = {"s/gamma": gamma, "d/kernel": kernel, "d/bias": bias}
    fold._fold_layer_scale(weights, "s", "d")
    assert np.allclose(x @ weights["d/kernel"] + weights["d/bias"], (x @ kernel + bias) * gamma)
    assert set(weights) == {"d/kernel", "d/bias"}


def attention(q, k, v):
    scores = np.exp(q @ k.T)
    return scores / scores.sum(axis=1, keepdims=True) @ v


def test_dropping_the_bias_of_the_keys_changes_no_attention():
    rng = np.random.default_rng(0)
    q, x, v = rng.normal(size=(3, 5, 4))
    weights = {"k/kernel": rng.normal(size=(4, 4)), "k/bias": rng.normal(size=4)}
    expected = attention(q, x @ weights["k/kernel"] + weights["k/bias"], v)
    fold._drop_key_bias(weights, "k")
    assert set(weights) == {"k/kernel"}
    assert np.allclose(attention(q, x @ weights["k/kernel"], v), expected)


def test_folding_the_bias_of_the_values_into_the_projection():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 5, 4))
    value, out = rng.normal(size=4), rng.normal(size=4)
    weights = {"v/bias": value, "o/kernel": rng.normal(size=(4, 4)), "o/bias": out}
    expected = attention(q, k, v + value) @ weights["o/kernel"] + out
    fold._fold_value_bias(weights, "v", "o")
    assert set(weights) == {"o/kernel", "o/bias"}
    assert np.allclose(attention(q, k, v) @ weights["o/kernel"] + weights["o/bias"], expected)


def test_folding_the_class_token_adds_its_position():
    model = random_model()
    weights = weights_of(model)
    token, position = weights["cls/token"], weights["position/embedding"]
    fold._fold_prefix(weights, model.architecture)
    assert np.array_equal(weights["prefix"], token + position[:, :1])
    assert np.array_equal(weights["position/embedding"], position[:, 1:])


def test_centring_what_writes_to_the_residual_stream_turns_layer_norm_into_rms_norm():
    model = random_model()
    weights = weights_of(model)
    before = {name: value.copy() for name, value in weights.items()}
    fold._centre_residual(weights, model.architecture)
    changed = {name for name in weights if not np.array_equal(weights[name], before[name])}
    parts = ["embedding"] + [
        f"block_{i}/{d}" for i in range(3) for d in ("attention/out", "mlp/dense_2")
    ]
    expected = {f"{dense}/{part}" for dense in parts for part in ("kernel", "bias")}
    assert changed == expected | {"position/embedding"}
    x = np.random.default_rng(0).normal(size=(7, 80))
    added = x @ before["block_1/mlp/dense_2/kernel"] + before["block_1/mlp/dense_2/bias"]
    centred = x @ weights["block_1/mlp/dense_2/kernel"] + weights["block_1/mlp/dense_2/bias"]
    assert np.allclose(centred, added - added.mean(axis=-1, keepdims=True), atol=1e-5)


def test_positions_of_rows_and_columns_become_one_per_patch():
    model = random_model(position="learned_2d")  # 2 x 3 patches
    weights = weights_of(model)
    rows, columns = weights["position/rows"], weights["position/columns"]
    fold._fold_position(weights, model.architecture)
    for i in range(2):
        for j in range(3):
            expected = np.concatenate([rows[i], columns[j]])
            assert np.array_equal(weights["position/embedding"][0, 3 * i + j], expected)
    assert "position/rows" not in weights and "position/columns" not in weights


def test_fixed_positions_become_a_constant():
    model = random_model(position="sincos_2d")
    weights = weights_of(model)
    fold._fold_position(weights, model.architecture)
    assert np.array_equal(weights["position/embedding"][0], sincos_2d(2, 3, 48).reshape(6, 48))


def test_what_stands_before_the_patches_is_one_constant():
    model = random_model(distillation_token=True, registers=2)
    weights = weights_of(model)
    names = ("cls/token", "distillation/token", "registers/token", "position/embedding")
    cls, distillation, registers, position = (weights[name][0] for name in names)
    fold._fold_prefix(weights, model.architecture)
    expected = [cls[0] + position[0], distillation[0] + position[1], *registers]
    assert np.allclose(weights["prefix"][0], expected, atol=1e-6)
    assert np.array_equal(weights["position/embedding"][0], position[2:])


def test_distances_are_gathered_for_each_pair_of_tokens():
    table = np.random.default_rng(0).normal(size=(2 * 5 - 1, 4))
    weights = {"a/relative": table}
    fold._fold_relative(weights, "a", 5)
    for i in range(5):
        for j in range(5):
            assert np.array_equal(weights["a/relative"][i, j], table[i - j + 4])


def test_a_constant_query_makes_its_scores_one_dense_layer():
    model = random_model(pooling="map")
    weights = weights_of(model)
    x = np.random.default_rng(0).normal(size=(7, 48))
    parts = {}
    for name, value in (("query", weights["map/probe"][0]), ("key", x)):
        y = value @ weights[f"map/attention/{name}/kernel"] + weights[f"map/attention/{name}/bias"]
        parts[name] = y.reshape(-1, 3, 16).transpose(1, 0, 2)
    expected = softmax(parts["query"] @ parts["key"].transpose(0, 2, 1) / 4, axis=-1)[:, 0]
    fold._fold_probe(weights, model.architecture)
    found = softmax((x @ weights["map/attention/scores/kernel"]).T, axis=-1)
    assert np.allclose(found, expected, atol=1e-6)


def test_what_is_pooled_comes_beside_its_centred_self():
    rng = np.random.default_rng(0)
    kernel, bias, x = rng.normal(size=(6, 4)), rng.normal(size=4), rng.normal(size=(3, 6))
    weights = {"map/attention/out/kernel": kernel, "map/attention/out/bias": bias}
    fold._fold_pooled_mean(weights)
    both = x @ weights["map/attention/out/kernel"] + weights["map/attention/out/bias"]
    y = x @ kernel + bias
    assert np.allclose(both, np.concatenate([y, y - y.mean(-1, keepdims=True)], -1))


def test_two_heads_are_one_over_both_class_tokens():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 3, 6))
    weights = {
        f"{name}/{part}": rng.normal(size=shape)
        for name in ("head", "head_distillation")
        for part, shape in (("kernel", (6, 4)), ("bias", 4))
    }
    old = dict(weights)
    first = x @ old["head/kernel"] + old["head/bias"]
    second = y @ old["head_distillation/kernel"] + old["head_distillation/bias"]
    fold._fold_distillation(weights)
    found = np.concatenate([x, y], -1) @ weights["head/kernel"] + weights["head/bias"]
    assert np.allclose(found, (first + second) / 2)
    assert set(weights) == {"head/kernel", "head/bias"}


def test_kernels_of_a_stem_are_standardised_once():
    model = random_model(stem=(1,), patch_size=1)
    weights = weights_of(model)
    fold._standardise(weights)
    kernels = [value for name, value in weights.items() if "/conv" in name]
    assert len(kernels) == 5
    for kernel in kernels:
        assert np.allclose(kernel.mean((0, 1, 2)), 0, atol=1e-5)
        assert np.allclose(kernel.std((0, 1, 2)), 1, atol=1e-3)


def test_grey_levels_are_normalised_by_a_scale_and_a_shift():
    pixels = np.random.default_rng(0).uniform(0, 255, (4, 3)).astype(np.float32)
    scale, shift = fold._grey_levels(SPEC)
    assert np.allclose(pixels * scale + shift, normalise(pixels, SPEC), atol=1e-5)
