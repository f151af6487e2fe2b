"""What a run costs, against published figures and graphs that can be counted by hand."""

from __future__ import annotations

import json

import pytest
import tensorflow as tf
from small_models import SMALL

from tfvit import architecture, flops
from tfvit.dry_run import describe
from tfvit.model import build
from tfvit.recipe import Pretraining, Recipe
from tfvit.state import learning

RUN = {"batch_size": 8, "steps": 100, "examples": 400}


def dry_run(arch, dtype="float32", recipe=Recipe(), **changes):
    return describe(lambda: learning(build(arch, dtype=dtype), recipe), **{**RUN, **changes})


@pytest.fixture(scope="module")
def small():
    return architecture.named("vit-ti/8", 5, (24, 40), **SMALL)


def test_the_published_cost_of_a_forward_pass():
    found = dry_run(architecture.named("vit-b/16", 1000, 224))
    assert found.parameters == 86_567_656
    assert found.macs_per_image / 1e9 == pytest.approx(17.58, rel=0.002)  # fvcore's, timm's table
    # every product has two of its kind in the backward pass, but the first layer's
    assert 2.9 < found.flops_per_step / found.flops_per_image / RUN["batch_size"] < 3


def test_the_cost_of_a_resnet_by_hand():
    root = 32 * 32 * (7 * 7 * 3 * 64)  # of 64 x 64 pixels; then pooled to 16 x 16 features
    unit = 16 * 16 * (64 * 256 + 64 * 64 + 3 * 3 * 64 * 64 + 64 * 256)  # the shortcut first
    found = dry_run(architecture.named("bit-r50x1", 10, 64, units=(1,)))
    assert found.macs_per_image == root + unit + 256 * 10


def test_the_cost_of_a_hybrid_by_hand():
    root = 32 * 32 * (7 * 7 * 3 * 64)  # of 64 x 64 pixels; then pooled to 16 x 16 features
    patches = 2 * 2 * (8 * 8 * 64 * 192)
    block = 5 * (4 * 192 * 192 + 2 * 192 * 768) + 2 * 5 * 5 * 192  # 4 patches and the class token
    found = dry_run(architecture.named("r+vit-ti/16", 1000, 64, depth=2))
    assert found.macs_per_image == root + patches + 2 * block + 192 * 1000


def test_the_cost_of_masked_patches_by_hand(small):
    width, hidden, tokens = SMALL["width"], SMALL["mlp_dim"], 1 + 15
    recipe = Recipe(pretraining=Pretraining("masked-patch", "mean-color", 0.5))
    found = dry_run(small, recipe=recipe, batch_size=recipe.batch_size)
    block = tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width
    assert found.macs_per_image == 15 * 8 * 8 * 3 * width + 2 * block + 8 * width * 512
    # a mask and a head that tells colours, instead of that of 5 classes
    added = width + (width + 1) * (512 - 5)
    assert found.parameters == found.trainable == dry_run(small).parameters + added


def test_the_cost_of_a_masked_autoencoder_by_hand(small):
    """Its encoder sees 3 of 15 patches."""
    width, hidden, decoder = SMALL["width"], SMALL["mlp_dim"], 96

    def block(tokens, width, hidden):
        return tokens * (4 * width**2 + 2 * width * hidden) + 2 * tokens**2 * width

    how = Pretraining("mae", "normalized", 0.75, decoder_width=decoder, decoder_depth=1)
    recipe = Recipe(pretraining=how)
    found = dry_run(small, recipe=recipe, batch_size=recipe.batch_size)
    encoding = 15 * 8 * 8 * 3 * width + 2 * block(1 + 3, width, hidden)
    decoding = (1 + 3) * width * decoder + block(1 + 15, decoder, 4 * decoder)
    assert found.macs_per_image == encoding + decoding + 12 * decoder * (8 * 8 * 3)


@pytest.mark.parametrize("position", architecture.POSITIONS)
def test_every_kind_of_position_is_counted(position):
    arch = architecture.named("vit-ti/8", 5, (24, 40), **SMALL, position=position)
    found = dry_run(arch)
    assert found.parameters == build(arch).count_params()
    assert 2 < found.flops_per_step / found.flops_per_image / RUN["batch_size"] < 3.1
    assert found.memory["activations"] > 0


def test_memory_follows_what_is_asked_for(small):
    base = dry_run(small)
    weights = 4 * base.parameters
    assert base.memory["weights"] == base.memory["gradients"] == weights
    assert base.memory["optimizer"] == 2 * weights and base.memory["ema"] == 0
    assert base.memory["total"] == sum(v for k, v in base.memory.items() if k != "total")
    other = dry_run(small, slots_per_weight=1, ema=True, devices=2)
    assert other.memory["optimizer"] == other.memory["ema"] == weights
    half = other.memory["activations"] / base.memory["activations"]
    assert half == pytest.approx(0.5, abs=0.05)
    assert other.flops_per_step == base.flops_per_step
    accumulated = dry_run(small, accumulate=2).memory["activations"]
    assert accumulated == other.memory["activations"]
    mixed = dry_run(small, "mixed_bfloat16").memory["activations"]
    assert mixed < 0.75 * base.memory["activations"]


def test_what_is_frozen_has_no_gradient(small):
    base = dry_run(small)
    found = dry_run(small, frozen="embedding/*,cls*,position/*,block_*,norm/*")
    assert found.trainable == 5 * (SMALL["width"] + 1)
    assert found.memory["gradients"] == 4 * found.trainable
    assert found.macs_per_image == base.macs_per_image
    assert found.flops_per_step < 1.01 * RUN["batch_size"] * base.flops_per_image
    assert found.memory["activations"] < 0.5 * base.memory["activations"]


def test_it_is_said_for_people_and_as_json(small):
    found = dry_run(small)
    values = json.loads(json.dumps(found.to_json()))
    assert values["epochs"] == 2 and values["flops"] == 100 * values["flops_per_step"]
    text = "\n".join(found.lines())
    assert "vit-ti/8 at 24x40" in text and "100 steps, 2.0 epochs of 400 images" in text


def test_a_tensor_is_free_after_its_last_use():
    with tf.Graph().as_default() as graph:
        a = tf.compat.v1.placeholder(tf.float32, [1000])
        b = tf.exp(tf.reshape(a, [10, 100]))  # a view of `a`
        c = tf.exp(b)
        d = tf.exp(c)
        e = tf.reduce_sum(b + d)  # keeps b to the end
        tf.exp(d)  # no result needs it
        ops = flops.needed(graph, [e])
        assert flops.peak_bytes(ops, []) == 4 * 3000
        assert flops.peak_bytes(ops, [b]) == 4 * 2000


def test_products_inside_a_compiled_function_count():
    compiled = tf.function(lambda x, y: tf.einsum("bij,bjk->bik", x, y) @ y, jit_compile=True)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [2, 3, 4])
        y = tf.compat.v1.placeholder(tf.float32, [2, 4, 4])
        ops = flops.needed(graph, [compiled(x, y)])
        assert flops.multiply_adds(ops) == 2 * (2 * 3 * 4 * 4)
