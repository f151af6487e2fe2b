"""Each rule against tf_keras's optimizer of that name (LAMB: its paper, in NumPy), and the rest of a step."""

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tfvit
from edge_demo.errors import UserError
from tfvit import optimizer
from tfvit.model import named_weights
from tfvit.optimizer import Optimizer, learning_rate
from tfvit.recipe import OPTIMIZERS, SCHEDULES, Recipe

STEPS, RATE, DECAY = 7, 0.03, 0.2
PLAIN = Recipe(steps=STEPS, warmup_steps=0, schedule="constant", learning_rate=RATE, clip_norm=None)
REFERENCES = {
    "sgd": lambda: keras.optimizers.SGD(RATE, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(RATE, epsilon=1e-8),
    "adamw": lambda: keras.optimizers.AdamW(RATE, weight_decay=DECAY, epsilon=1e-8),
    "lion": lambda: keras.optimizers.Lion(RATE, beta_1=0.9, beta_2=0.999, weight_decay=DECAY),
}


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"block_0/mlp/dense_1/kernel": (5, 3), "block_0/mlp/dense_1/bias": (3,)}
    return {n: tf.Variable(rng.standard_normal(s), dtype=tf.float32) for n, s in shapes.items()}


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return [rng.standard_normal(v.shape).astype(np.float32) for v in weights().values()]


def trained(recipe, steps=STEPS, of=gradients):
    found = weights()
    ours = Optimizer(recipe, found)
    ours.begin()
    for step in range(steps):
        ours.apply([tf.constant(g) for g in of(step)], tf.constant(step))
    return [v.numpy() for v in found.values()], ours


@pytest.mark.parametrize("name", REFERENCES)
def test_a_rule_does_what_tf_keras_does(name):
    recipe = dataclasses.replace(PLAIN, optimizer=name, weight_decay=DECAY)
    expected = weights()
    theirs = REFERENCES[name]()
    if name in ("adamw", "lion"):
        theirs.exclude_from_weight_decay(var_list=[expected["block_0/mlp/dense_1/bias"]])
    for step in range(STEPS):
        kernel, bias = gradients(step)
        if name in ("sgd", "adam"):  # theirs has no decay as a term of the gradient
            kernel = kernel + DECAY * expected["block_0/mlp/dense_1/kernel"].numpy()
        theirs.apply_gradients(zip([tf.constant(kernel), tf.constant(bias)], expected.values()))
    if (
        name == "sgd"
    ):  # theirs multiplies by the rate before the momentum: the same at a constant rate
        recipe = dataclasses.replace(recipe, beta_1=0.9)
    for ours, other in zip(trained(recipe)[0], expected.values()):
        np.testing.assert_allclose(ours, other.numpy(), rtol=2e-5, atol=2e-6)


def test_lamb_is_that_of_its_paper():
    values = [v.numpy().astype(np.float64) for v in weights().values()]
    moments = [(np.zeros_like(v), np.zeros_like(v)) for v in values]
    for t in range(1, STEPS + 1):
        for i, g in enumerate(gradients(t - 1)):
            m, v = moments[i]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.astype(np.float64) ** 2
            moments[i] = m, v
            r = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            if i == 0:  # the kernel: decayed, and scaled to its own length
                r = r + DECAY * values[i]
                r *= np.linalg.norm(values[i]) / np.linalg.norm(r)
            values[i] = values[i] - RATE * r
    recipe = dataclasses.replace(PLAIN, optimizer="lamb", weight_decay=DECAY)
    for ours, expected in zip(trained(recipe)[0], values):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_every_optimizer_of_the_recipes_has_a_rule_and_a_test():
    assert set(OPTIMIZERS) == set(optimizer.RULES) == {*REFERENCES, "lamb"}
    assert set(SCHEDULES) == set(optimizer.SCHEDULES)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("cosine", lambda done: 0.5 * (1 + math.cos(math.pi * done))),
        ("linear", lambda done: 1 - done),
        ("constant", lambda done: 1.0),
    ],
)
def test_warm_up_and_schedules(schedule, expected):
    recipe = Recipe(
        steps=110,
        warmup_steps=10,
        learning_rate=2.0,
        final_learning_rate=0.5,
        schedule=schedule,
    )
    for step in range(0, 130, 3):
        rate = 2.0 * (step + 1) / 10
        if step >= 10:
            rate = 0.5 + 1.5 * expected(min((step - 10) / 100, 1))
        assert float(learning_rate(recipe, tf.constant(step))) == pytest.approx(rate, abs=1e-6)


def test_gradients_are_clipped_by_their_common_norm():
    recipe = dataclasses.replace(PLAIN, optimizer="sgd", weight_decay=0.0, clip_norm=0.5)
    before = [v.numpy() for v in weights().values()]
    after, _ = trained(recipe, steps=1)
    moved = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(after, before)))
    assert moved == pytest.approx(0.5 * RATE, rel=1e-5)


def test_only_kernels_decay():
    model = tfvit.create_model("vit-mu/8", 3, 16)
    for variable in model.weights:
        variable.assign(tf.ones_like(variable))
    recipe = dataclasses.replace(PLAIN, weight_decay=0.5)
    ours = Optimizer(recipe, named_weights(model), 1)
    ours.apply([tf.zeros_like(v) for v in ours.variables], tf.constant(0))
    shrunk = {n for n, v in named_weights(model).items() if not np.allclose(v.numpy(), 1)}
    assert shrunk == {name for name in named_weights(model) if name.endswith("/kernel")}


def test_layer_decay_and_frozen_parts():
    model = tfvit.create_model("vit-ti/8", 3, 16, depth=3)
    recipe = dataclasses.replace(
        PLAIN, optimizer="sgd", weight_decay=0.0, layer_decay=0.5, frozen="block_1/*, cls/token"
    )
    names = named_weights(model)
    before = {name: v.numpy() for name, v in names.items()}
    ours = Optimizer(recipe, names, 3)
    ours.apply([tf.ones_like(v) for v in ours.variables], tf.constant(0))
    moved = {n: float(np.mean(before[n] - v.numpy())) / RATE for n, v in names.items()}
    expected = {"embedding/bias": 0.5**4, "position/embedding": 0.5**4, "cls/token": 0}
    expected |= {"block_0/norm_1/gamma": 0.5**3, "block_1/mlp/dense_1/kernel": 0}
    expected |= {"block_2/attention/query/kernel": 0.5, "norm/beta": 1, "head/kernel": 1}
    for name, share in expected.items():
        assert moved[name] == pytest.approx(share, rel=1e-4), name
    with pytest.raises(UserError, match="fits no weight"):
        Optimizer(dataclasses.replace(recipe, frozen="blok_1/*"), names, 3)


def test_averages_follow_the_weights():
    recipe = dataclasses.replace(PLAIN, ema=0.5)
    found = weights()
    ours = Optimizer(recipe, found)
    ours.begin()
    average = {name: v.numpy() for name, v in found.items()}
    for step in range(STEPS):
        ours.apply([tf.constant(g) for g in gradients(step)], tf.constant(step))
        decay = min(0.5, (1 + step) / (10 + step))
        average = {n: decay * a + (1 - decay) * found[n].numpy() for n, a in average.items()}
    for name, value in ours.averages().items():
        np.testing.assert_allclose(value, average[name], rtol=1e-5, atol=1e-6)


def test_float16_halves_its_scale_and_skips_a_step_that_overflowed():
    recipe = dataclasses.replace(PLAIN, dtype="float16", weight_decay=0.0)
    found = weights()
    ours = Optimizer(recipe, found)
    before, scale = [v.numpy() for v in found.values()], float(ours.scale)
    figures = ours.apply([tf.fill(v.shape, np.inf) for v in found.values()], tf.constant(0))
    assert float(ours.scale) == scale / 2 and float(figures["gradient_norm"]) == 0
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, found.values()))
    one = [tf.constant(g) for g in gradients(0)]
    ours.apply([g * ours.scale for g in one], tf.constant(1))
    other = weights()
    plain = Optimizer(dataclasses.replace(recipe, dtype="float32"), other)
    plain.apply(one, tf.constant(1))
    for name, value in found.items():  # the first step that was applied is Adam's second in number
        np.testing.assert_allclose(value, other[name], rtol=1e-5)


def test_state_goes_through_numpy_and_back():
    recipe = dataclasses.replace(PLAIN, ema=0.9)
    _, first = trained(recipe, steps=3)
    second = Optimizer(recipe, weights())
    second.restore(first.state())
    assert all(np.array_equal(value, second.state()[name]) for name, value in first.state().items())
    with pytest.raises(UserError, match="does not fit"):
        second.restore({n: v for n, v in first.state().items() if not n.startswith("ema/")})
