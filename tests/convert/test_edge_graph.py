import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from convert import edge_graph, fold, sites, tflite
from convert.schemes import SCHEMES
from edge_demo.preprocess import PreprocessSpec, normalise
from tfvit.architecture import ACTIVATIONS, Architecture
from tfvit.model import build, named_weights

SPEC = PreprocessSpec(16, 24, mean=(120.0, 115.0, 100.0), std=(58.0, 57.0, 60.0))
MODELS = {
    "cls": {},
    "map": {"pooling": "map"},
    "registers": {"registers": 3},
    "registers and gap": {"registers": 3, "pooling": "gap"},
    "distillation token": {"distillation_token": True},
    "distillation token and registers": {"distillation_token": True, "registers": 2},
    "no biases": {"qkv_bias": False},
    "no positions": {"position": "none"},
    "no positions and gap": {"position": "none", "pooling": "gap"},
    "2-D positions": {"position": "learned_2d"},
    "fixed positions": {"position": "sincos_2d", "pooling": "gap"},
    "fixed positions and map": {"position": "sincos_2d", "pooling": "map", "layer_scale": 0.3},
    "relative positions": {"position": "relative"},
    "relative positions and gap": {"position": "relative", "pooling": "gap"},
    "root of a ResNet": {"stem": (), "patch_size": 2},
    "ResNet": {"stem": (1, 2), "patch_size": 1},
    "gap": {"pooling": "gap"},
    "representation layer": {"representation_size": 20},
    "gap and representation layer": {"pooling": "gap", "representation_size": 20},
    "dropout and stochastic depth": {"dropout": 0.2, "stochastic_depth": 0.3},
    "erf": {"activation": "gelu"},
    "LayerScale": {"layer_scale": 0.3},
    "LayerScale, erf and gap": {"layer_scale": 0.3, "activation": "gelu", "pooling": "gap"},
}


def random_model(**changes):
    """A small model with nothing at its initial value: biases, gains and outlier channels included."""
    values = {"patch_size": 8, "width": 48, "depth": 3, "mlp_dim": 80, "heads": 3, **changes}
    model = build(Architecture("small", 5, (16, 24), **values))
    rng = np.random.default_rng(0)
    for name, variable in named_weights(model).items():
        value = variable.numpy() + rng.normal(
            0, 0.3 if variable.shape.rank == 1 else 0.08, variable.shape
        )
        if name.endswith("/gamma"):
            value[::7] *= 12
        variable.assign(value)
    return model


def weights_of(model):
    return {name: v.numpy() for name, v in named_weights(model).items()}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_the_edge_graph_computes_what_the_model_does(changes):
    model = random_model(**changes)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 16, 24, 3)).astype(np.float32)
    expected = model(normalise(pixels, SPEC)).numpy()
    folded = fold.fold(weights_of(model), model.architecture, SPEC)
    found = edge_graph.forward(folded, tf.constant(pixels), model.architecture).numpy()
    assert np.ptp(expected) > 0.5
    assert np.abs(found - expected).max() < 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_every_site_is_visited_once_and_named(changes):
    model = random_model(**changes)
    folded = fold.fold(weights_of(model), model.architecture, SPEC)
    seen = []

    def note(site, x):
        seen.append(site)
        return x

    edge_graph.forward(folded, tf.zeros([1, 16, 24, 3]), model.architecture, note)
    assert len(seen) == len(set(seen))
    assert set(seen) == set(sites.sites(model.architecture))


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


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_either_activation_is_a_builtin_op_of_the_file(activation):
    model = random_model(activation=activation, layer_scale=0.3)
    folded = fold.fold(weights_of(model), model.architecture, SPEC)
    content = tflite.write(SCHEMES["float32"], folded, model.architecture)
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    codes = [code.builtinCode for code in graph.operatorCodes]
    assert schema.BuiltinOperator.GELU in codes
    assert schema.BuiltinOperator.CUSTOM not in codes  # as which Flex ops would come
    assert not any(code.customCode for code in graph.operatorCodes)
    gelu = [
        o
        for o in graph.subgraphs[0].operators
        if codes[o.opcodeIndex] == schema.BuiltinOperator.GELU
    ]
    assert [o.builtinOptions.approximate for o in gelu] == [activation == "gelu_tanh"] * 3


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
