"""Every architecture goes the whole way: steps under XLA, save, load, edge graph, a file per scheme."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

import tfvit
from convert import equalise, extra_parity, fold, qat, sites, tflite
from convert.extras import EXTRAS, refusal
from convert.schemes import SCHEMES
from tfvit import architecture
from tfvit.architecture import HYBRIDS, RESNETS, VARIANTS, Architecture, ResNetArchitecture, named
from tfvit.model import build, named_weights
from tfvit.objectives.labels import Labels
from tfvit.optimizer import Optimizer
from tfvit.preprocess import normalise
from tfvit.recipe import Recipe
from tfvit.step import make_train_step

SIZE, CLASSES = (16, 32), 5
TINY = {"width": 32, "depth": 1, "mlp_dim": 64, "heads": 2}
# What the named models are made of, and all that they can be changed to. With two blocks it is seen what one
# hands the next, and what the last does that others do not.
KINDS = {
    "cls": {"depth": 2},
    "gap": {"pooling": "gap", "depth": 2},
    "cls+gap": {"pooling": "cls+gap"},
    "map": {"pooling": "map"},
    "no position": {"position": "none"},
    "2-D position": {"position": "learned_2d"},
    "relative position": {"position": "relative"},
    "fixed position": {"position": "sincos_2d", "pooling": "gap"},
    "distillation token": {"distillation_token": True, "activation": "gelu"},
    "registers, LayerScale": {"registers": 2, "layer_scale": 0.1, "activation": "gelu", "depth": 2},
    "no biases": {"qkv_bias": False},
    "hidden layer": {"representation_size": 16},
    "hybrid root": {"stem": (), "patch_size": 2},
    "hybrid": {"stem": (1, 1), "patch_size": 1},
}


def tiny(changes) -> Architecture:
    return Architecture("tiny", CLASSES, SIZE, **{"patch_size": 8, **TINY, **changes})


MODELS = {name: tiny(changes) for name, changes in KINDS.items()}
MODELS["BiT"] = ResNetArchitecture("bit", CLASSES, SIZE, (1, 1), 1)
NAMED = [f"{variant}/16" for variant in VARIANTS] + [*HYBRIDS, *RESNETS]


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory):
    """A model after three compiled steps of training, its checkpoint, images and its logits for them."""
    keras.utils.set_random_seed(0)
    model = build(MODELS[request.param])
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, *SIZE, 3)).astype(np.float32)
    images, labels = normalise(pixels, model.preprocess), tf.range(4, dtype=tf.int64)
    recipe = Recipe(steps=100, warmup_steps=0, learning_rate=1e-2, batch_size=4, weight_decay=0.0)
    optimizer = Optimizer(recipe, named_weights(model))
    step = make_train_step(
        Labels(model, recipe), optimizer, recipe, tf.distribute.get_strategy(), xla=True
    )
    batch = {"pixels": tf.constant(pixels), "label": labels, "mask": tf.ones(4)}
    before = {name: v.numpy() for name, v in named_weights(model).items()}
    losses = [float(step(batch, tf.constant(i + 1))["loss"]) for i in range(3)]
    same = [name for name, v in named_weights(model).items() if np.array_equal(before[name], v)]
    assert not same, "weights that nothing depends on"
    assert losses[-1] < losses[0]
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    tfvit.save(model, folder)
    return model, folder, pixels, model(images).numpy()


def test_it_loads_as_it_was_saved(trained):
    model, folder, pixels, logits = trained
    loaded = tfvit.load(folder)
    assert loaded.architecture == model.architecture
    assert np.array_equal(loaded(normalise(pixels, loaded.preprocess)).numpy(), logits)


def test_its_architecture_survives_json(trained):
    arch = trained[0].architecture
    assert architecture.from_json(arch.to_json()) == arch


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_it_exports_or_says_why_it_cannot(trained, scheme):
    """With all that it can tell beside its logits."""
    model, _, pixels, logits = trained
    arch = model.architecture
    told = [name for name in EXTRAS if not refusal([name], arch)]
    reason = sites.refusal(scheme, arch)
    if reason:
        assert scheme.name != "float32" and len(reason) < 100
        return
    weights = {name: v.numpy() for name, v in named_weights(model).items()}
    weights, ranges = fold.fold(weights, arch, model.preprocess), {}
    if scheme.calibrated:
        beyond = equalise.outliers(weights, arch, [pixels], lambda: None)
        weights = equalise.equalise(weights, arch, beyond)
        ranges = qat.calibrate(weights, arch, [pixels], "minmax", lambda: None, told)
    content = tflite.write(scheme, weights, arch, ranges, extras=told)
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    answers = [answer(interpreter, one) for one in pixels]
    found = dict(zip(("logits", *told), map(np.array, zip(*answers)), strict=True))
    limits = {"float32": 1e-5, "float16": 1e-2, "int4-dynamic": 0.5}
    expected = {"logits": logits, **extra_parity.of_keras(model, told, pixels)}
    for name, values in found.items():
        if name == "attention":  # an all-integer file leaves the division to its reader
            values = values / values.sum(axis=(1, 2), keepdims=True)
            limits["int8-full"] = 0.5  # the map of so little training is nearly flat
        error = np.sqrt(np.mean((values - expected[name]) ** 2)) / expected[name].std()
        assert error < limits.get(scheme.name, 0.15), name


def answer(interpreter, pixels):
    """The outputs for one image."""
    (source,), sinks = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], pixels[np.newaxis].astype(source["dtype"]))
    interpreter.invoke()
    found = []
    for sink in sinks:
        value, (scale, zero_point) = (
            interpreter.get_tensor(sink["index"])[0],
            sink["quantization"],
        )
        found.append((value.astype(np.float32) - zero_point) * scale if scale else value)
    return found


def test_no_tensor_of_a_file_is_above_rank_4(trained):
    model = trained[0]
    weights = {name: v.numpy() for name, v in named_weights(model).items()}
    weights = fold.fold(weights, model.architecture, model.preprocess)
    content = tflite.write(SCHEMES["float32"], weights, model.architecture)
    interpreter = Interpreter(model_content=content)
    assert max(len(t["shape"]) for t in interpreter.get_tensor_details()) <= 4


@pytest.mark.parametrize("name", NAMED)
def test_every_name_builds_its_architecture_and_survives_json(name):
    arch = named(name, 10, 224)
    assert architecture.from_json(arch.to_json()) == arch
    with pytest.raises(tfvit.UserError, match="classes"):
        dataclasses.replace(arch, num_classes=0)


def test_what_a_scheme_cannot_hold_is_one_line(tfvit_cli, tmp_path):
    tfvit.save(build(MODELS["hybrid"]), tmp_path / "model")
    done = tfvit_cli(
        *("convert", tmp_path / "model", "--scheme", "int8-full", "--out", tmp_path / "out"),
        *("--data", "digits"),
    )
    assert done.code == 2 and "GroupNorm" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
