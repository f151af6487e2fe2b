import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from random_models import SPEC, random_model, weights_of

from convert import edge_graph, fold, sites, tflite
from convert.schemes import SCHEMES
from edge_demo.preprocess import normalise
from tfvit.architecture import ACTIVATIONS

MODELS = {
    "cls": {},
    "map": {"pooling": "map"},
    "registers": {"registers": 3},
    "registers and gap": {"registers": 3, "pooling": "gap"},
    "cls+gap": {"pooling": "cls+gap", "layer_scale": 0.3},
    "cls+gap, registers, representation layer": {
        **{"pooling": "cls+gap", "registers": 3, "representation_size": 20}
    },
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
