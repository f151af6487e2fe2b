"""The fused pieces against their plain twins, remat against keeping everything."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import ENVIRONMENT
from small_models import inputs, randomise, small

from tfvit import fused
from tfvit.layers import dropout_seed
from tfvit.model import build, named_weights

B, N, D, M, HEADS = 3, 7, 48, 80, 3


def normal(*shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, sum(shape)])


def square(part):
    return normal(D, D, seed=part) * D**-0.5


PIECES = {  # piece: (function, its plain twin, what gradients are taken of, what else it is given)
    "norm": (
        lambda *a: fused.residual_norm(*a, 1e-6),
        lambda *a: fused.plain_residual_norm(*a, 1e-6),
        [normal(B, N, D), normal(B, N, D, seed=1), 1 + normal(D) / 3, normal(D, seed=1)],
    ),
    "norm of odd width": (
        lambda *a: fused.residual_norm(*a, 1e-6),
        lambda *a: fused.plain_residual_norm(*a, 1e-6),
        [normal(B, N, 7), normal(B, N, 7, seed=1), 1 + normal(7) / 3, normal(7, seed=1)],
    ),
    "norm alone": (
        lambda x, *a: fused.residual_norm(x, None, *a, 1e-6),
        lambda x, *a: fused.plain_residual_norm(x, None, *a, 1e-6),
        [normal(B, N, D), 1 + normal(D) / 3, normal(D, seed=1)],
    ),
    "dense": (fused.dense, fused.plain_dense, [normal(B, N, D), normal(D, M) / 7, normal(M)]),
    **{
        f"gelu, approximate {approximate}": (
            lambda *a, approximate=approximate: fused.dense_gelu(*a, approximate),
            lambda *a, approximate=approximate: fused.plain_dense_gelu(*a, approximate),
            [normal(B, N, D), normal(D, M) / 4, normal(M)],
        )
        for approximate in (False, True)
    },
    "attention": (
        lambda x, *a: fused.self_attention(x, a[:3], a[3:], HEADS),
        lambda x, *a: fused.plain_self_attention(x, a[:3], a[3:], HEADS),
        [normal(B, N, D), *map(square, range(3)), *(normal(D, seed=i) for i in range(3))],
    ),
    "attention without bias": (
        lambda x, *a: fused.self_attention(x, a, None, HEADS),
        lambda x, *a: fused.plain_self_attention(x, a, None, HEADS),
        [normal(B, N, D), *map(square, range(3))],
    ),
    "patches": (
        fused.patch_embedding,
        fused.plain_patch_embedding,
        [normal(B, 8, 12, 3), normal(4, 4, 3, D) / 7, normal(D)],
    ),
}


def run(function, arguments, dtype, is_fused):
    """Values and gradients, float32, of a compiled call; every value counts differently."""

    @tf.function
    def call(*arguments):
        with tf.GradientTape() as tape, fused.enabled(is_fused):
            tape.watch(arguments)
            values = tf.nest.flatten(function(*arguments))
            total = sum(
                tf.reduce_sum(tf.cast(y, tf.float32) * normal(*y.shape, seed=5 + i))
                for i, y in enumerate(values)
            )
        return values, tape.gradient(total, arguments)

    results = call(*(tf.cast(x, dtype) for x in arguments))
    return [[tf.cast(x, tf.float32).numpy() for x in part] for part in results]


def distance(found, expected):
    """The largest error over the size of its array, or a tenth of the others': some are all but 0."""
    largest = max(np.abs(e).max() for e in expected)
    return max(
        np.abs(f - e).max() / max(np.abs(e).max(), 0.1 * largest) for f, e in zip(found, expected)
    )


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_and_its_gradients_are_those_of_its_plain_twin(piece):
    function, plain, arguments = PIECES[piece]
    expected = run(plain, arguments, tf.float32, True)
    found = run(function, arguments, tf.float32, True)
    assert len(found[1]) == len(arguments)
    for part, reference in zip(found, expected):
        assert distance(part, reference) < 3e-6
    for part, reference in zip(run(function, arguments, tf.bfloat16, True), expected):
        assert 1e-4 < distance(part, reference) < 0.06  # it does compute in bfloat16


def test_outside_of_the_context_and_in_float16_the_plain_twins_run():
    for function, plain, arguments in PIECES.values():
        for dtype, is_fused in ((tf.float32, False), (tf.float16, True)):
            arguments = [tf.cast(x, dtype) for x in arguments]
            with fused.enabled(is_fused):
                for found, expected in zip(
                    tf.nest.flatten(function(*arguments)), tf.nest.flatten(plain(*arguments))
                ):
                    np.testing.assert_array_equal(found.numpy(), expected.numpy())


def gradients(model, *, is_fused=False, xla=False):
    """name -> gradient of one training step with a fixed seed, and its logits under ""."""
    images, names = inputs(4), named_weights(model)

    @tf.function(jit_compile=xla)
    def step(images, seed):
        with tf.GradientTape() as tape, dropout_seed(seed), fused.enabled(is_fused):
            logits = model(images, training=True)
            loss = tf.reduce_sum(logits * normal(*logits.shape))
        return {"": logits, **tape.gradient(loss, names)}  # outside of the contexts, as in a step

    found = step(images, tf.constant([3, 4]))
    return {name: tf.convert_to_tensor(value).numpy() for name, value in found.items()}


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, e in expected.items():
        if not name.endswith("key/bias"):  # 0 but for rounding: softmax does not see it
            assert np.abs(found[name] - e).max() < tolerance * np.abs(e).max(), name


MODELS = {
    "plain": {},
    "all rates": {
        "dropout": 0.1,
        "stochastic_depth": 0.5,
        "layer_scale": 0.1,
        "activation": "gelu",
    },
    "relative, map": {"position": "relative", "pooling": "map"},
    "no bias, tokens": {"qkv_bias": False, "distillation_token": True, "registers": 2},
}


@pytest.mark.parametrize("changes", MODELS)
def test_a_fused_model_trains_as_the_plain_one(changes):
    model = small(**MODELS[changes])
    expected = gradients(model)
    found = gradients(model, is_fused=True)
    assert_close(found, expected)
    again = gradients(model, is_fused=True)
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value)  # exact resumption needs this


@pytest.mark.parametrize("mode", [{}, {"is_fused": True}, {"xla": True}], ids=str)
def test_remat_changes_neither_weights_nor_gradients(mode):
    model = small(**MODELS["all rates"], depth=1 if "xla" in mode else 2)
    lean = randomise(build(model.architecture, remat=True))
    for one, other in zip(model.weights, lean.weights):
        assert (one.name, one.shape) == (other.name, other.shape)
    assert_close(gradients(lean, **mode), gradients(model, **mode), 2e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_remat_and_fused_pieces_train_in_half_precision(dtype):
    model = small(layer_scale=0.1)
    expected = gradients(model)
    mixed = randomise(build(model.architecture, dtype=dtype, remat=True))
    assert_close(gradients(mixed, is_fused=True), expected, 0.2)


MEMORY = """
import re
from pathlib import Path
import tensorflow as tf
from tfvit import fused
from tfvit.architecture import named
from tfvit.model import build

def most():  # kB that this process has held; ru_maxrss would begin at what its parent holds
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def peak(remat):
    model = build(named("vit-mu/8", 2, 64, depth=8), remat=remat)
    images = tf.zeros([256, 64, 64, 3])

    @tf.function
    def step(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True))
        return tape.gradient(loss, model.trainable_variables)

    before = most()
    step(images)
    return most() - before

lean = peak(True)
print(lean, lean + peak(False))
"""


def test_remat_needs_less_memory():
    found = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    lean, full = map(int, found.stdout.split())
    assert lean < 0.6 * full


MIRRORED = """
import numpy as np
import tensorflow as tf
from helpers import two_devices
two_devices()
from small_models import inputs, small
from tfvit import fused
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    model = small()
images = inputs(4)

def gradients(images):
    with tf.GradientTape() as tape, fused.enabled():
        loss = tf.reduce_sum(model(images, training=True) ** 2)
    return tape.gradient(loss, model.trainable_variables)

def replica(images):
    context = tf.distribute.get_replica_context()
    half = images[2 * context.replica_id_in_sync_group :][:2]
    return context.all_reduce(tf.distribute.ReduceOp.SUM, gradients(half))

found = tf.function(lambda x: strategy.run(replica, (x,)))(tf.constant(images))
expected = tf.function(gradients)(tf.constant(images))
largest = max(np.abs(e).max() for e in expected)
for f, e in zip(found, expected):
    tolerance = 1e-5 * np.abs(e).max() + 1e-6 * largest
    for one in strategy.experimental_local_results(f):
        np.testing.assert_allclose(one, e, rtol=0, atol=tolerance)
"""


def test_fused_pieces_run_on_several_devices(request):
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED],
        capture_output=True,
        text=True,
        cwd=request.path.parent,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
