from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from scipy.special import erf
from small_models import HEADS, HEIGHT, PATCH, SMALL, WIDTH, inputs, randomise, small

import tfvit
from edge_demo.preprocess import PreprocessSpec
from tfvit.architecture import ACTIVATIONS, named
from tfvit.layers import Dropout, StochasticDepth, dropout_seed
from tfvit.model import build, named_weights

SHAPES = [(p, size) for p in ("cls", "gap", "cls+gap") for size in (None, 20)]


# The equations of arXiv 2010.11929 (1-4, appendix A) and vit_jax/models_vit.py, in float64.


def norm(x, w, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-6) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


GELU = {
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: 0.5 * x * (1 + erf(x / np.sqrt(2))),
}


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(x, w, name):
    q, k, v = (dense(x, w, f"{name}/{part}") for part in ("query", "key", "value"))
    size = q.shape[-1] // HEADS
    context = np.empty_like(q)
    for head in range(HEADS):
        at = slice(head * size, (head + 1) * size)
        scores = q[..., at] @ k[..., at].transpose(0, 2, 1) / np.sqrt(size)
        context[..., at] = softmax(scores) @ v[..., at]
    return dense(context, w, f"{name}/out")


def vision_transformer(w, images, pooling, representation, activation="gelu_tanh"):
    count, height, width, _ = images.shape
    patches = [
        images[:, y : y + PATCH, x : x + PATCH].reshape(count, -1)
        for y in range(0, height, PATCH)
        for x in range(0, width, PATCH)
    ]
    kernel = w["embedding/kernel"].reshape(PATCH * PATCH * 3, -1)
    x = np.stack(patches, axis=1).astype(np.float64) @ kernel + w["embedding/bias"]
    if pooling != "gap":
        x = np.concatenate([np.repeat(w["cls/token"], count, axis=0), x], axis=1)
    x = x + w["position/embedding"]
    for i in range(SMALL["depth"]):
        y = attention(norm(x, w, f"block_{i}/norm_1"), w, f"block_{i}/attention")
        x = x + y * w.get(f"block_{i}/attention/layer_scale/gamma", 1)
        y = dense(norm(x, w, f"block_{i}/norm_2"), w, f"block_{i}/mlp/dense_1")
        y = dense(GELU[activation](y), w, f"block_{i}/mlp/dense_2")
        x = x + y * w.get(f"block_{i}/mlp/layer_scale/gamma", 1)
    x = norm(x, w, "norm")
    token, mean = x[:, 0], x[:, pooling != "gap" :].mean(axis=1)
    x = {"cls": token, "gap": mean, "cls+gap": np.concatenate([token, mean], axis=1)}[pooling]
    if representation:
        x = np.tanh(dense(x, w, "pre_logits"))
    return dense(x, w, "head")


@pytest.mark.parametrize("scale", [1, 1e-3], ids=["", "faint"])
@pytest.mark.parametrize("pooling, representation", SHAPES)
def test_the_model_computes_the_papers_equations(pooling, representation, scale):
    model = small(pooling=pooling, representation_size=representation)
    for name, variable in named_weights(model).items():
        if name.split("/")[0] in ("embedding", "cls", "position"):
            variable.assign(variable * scale)  # faint: variances as small as LayerNorm's epsilon
    weights = {n: v.numpy().astype(np.float64) for n, v in named_weights(model).items()}
    images = inputs(3)
    expected = vision_transformer(weights, images, pooling, representation)
    assert expected.std(axis=0).min() > 0.01  # the pictures matter, in every class
    np.testing.assert_allclose(model(images).numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_activation_and_layer_scale_are_what_they_say(activation, layer_scale):
    model = small(activation=activation, layer_scale=layer_scale)
    weights = {n: v.numpy().astype(np.float64) for n, v in named_weights(model).items()}
    for name, variable in named_weights(model).items():
        if name.endswith("mlp/dense_1/kernel"):  # far from 0, where both activations differ
            variable.assign(variable * 2)
            weights[name] = weights[name] * 2
    images = inputs(3)
    other = next(a for a in ACTIVATIONS if a != activation)
    expected, different = (
        vision_transformer(weights, images, "cls", None, name) for name in (activation, other)
    )
    np.testing.assert_allclose(model(images).numpy(), expected, rtol=0, atol=2e-5)
    assert np.abs(expected - different).max() > 1e-4


def test_fresh_layer_scale_is_its_initial_value():
    model = small(layer_scale=1e-5)
    fresh = build(model.architecture)
    gains = {n: v.numpy() for n, v in named_weights(fresh).items() if "layer_scale" in n}
    names = {f"block_{i}/{part}/layer_scale/gamma" for i in (0, 1) for part in ("attention", "mlp")}
    assert set(gains) == names
    for gain in gains.values():
        np.testing.assert_array_equal(gain, np.full(SMALL["width"], 1e-5, np.float32))


@pytest.mark.parametrize("pooling, representation", SHAPES)
def test_logits_are_float32_one_row_per_picture(pooling, representation):
    model = small(7, (16, 32), pooling=pooling, representation_size=representation)
    for batch in (1, 3):
        logits = model(inputs(batch, 16, 32))
        assert logits.shape == (batch, 7)
        assert logits.dtype == tf.float32
    assert model.input_shape == (None, 16, 32, 3)


def test_every_picture_of_a_batch_is_seen_alone():
    model, images = small(), inputs(4)
    together = model(images).numpy()
    alone = np.concatenate([model(image[None]).numpy() for image in images])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_model_says_what_it_is():
    model = tfvit.create_model("vit-mu/8", 4, (16, 24), pooling="gap")
    assert model.architecture == named("vit-mu/8", 4, (16, 24), pooling="gap")
    assert model.preprocess == PreprocessSpec(16, 24)
    assert model.labels == ("0", "1", "2", "3")
    spec = PreprocessSpec(16, 24, "crop", interpolation="bicubic", std=(60, 60, 60))
    built = build(
        model.architecture, labels=("a", "b", "c", "d"), preprocess=spec, provenance={"x": 1}
    )
    assert built.labels == ("a", "b", "c", "d")
    assert built.preprocess == spec
    assert built.provenance == {"x": 1}


# vit_jax/models_vit.py's initialisers


@pytest.fixture(scope="module")
def fresh():
    """Weights of a ViT-Ti/16 by name, fresh, with the hidden layer of pre-training."""
    keras.utils.set_random_seed(3)
    keras.utils.set_random_seed(0)
    model = tfvit.create_model("vit-ti/16", 5, 224, depth=2, representation_size=96)
    return {name: variable.numpy() for name, variable in named_weights(model).items()}


def test_a_fresh_head_says_exactly_zero():
    for pooling, representation in SHAPES:
        model = tfvit.create_model(
            "vit-mu/8", 6, (16, 24), pooling=pooling, representation_size=representation
        )
        np.testing.assert_array_equal(model(inputs(2, 16, 24)).numpy(), np.zeros((2, 6)))


def test_fresh_position_embeddings_have_deviation_0_02(fresh):
    assert fresh["position/embedding"].std() == pytest.approx(0.02, rel=0.02)
    assert abs(fresh["position/embedding"].mean()) < 5e-4


def test_a_fresh_class_token_is_zero(fresh):
    assert fresh["cls/token"].shape == (1, 1, 192)
    assert not fresh["cls/token"].any()


@pytest.mark.parametrize(
    "name",
    [
        "attention/query",
        "attention/key",
        "attention/value",
        "attention/out",
        "mlp/dense_1",
        "mlp/dense_2",
    ],
)
@pytest.mark.parametrize("block", [0, 1])
def test_fresh_kernels_of_a_block_are_glorot_uniform(fresh, block, name):
    kernel = fresh[f"block_{block}/{name}/kernel"]
    bound = np.sqrt(6 / sum(kernel.shape))
    assert np.abs(kernel).max() <= bound
    assert np.abs(kernel).max() > 0.999 * bound
    assert kernel.std() == pytest.approx(bound / np.sqrt(3), rel=0.01)


@pytest.mark.parametrize(
    "name, inputs_of_a_unit", [("embedding", 16 * 16 * 3), ("pre_logits", 192)]
)
def test_fresh_embedding_and_hidden_layer_are_lecun_normal(fresh, name, inputs_of_a_unit):
    kernel, deviation = fresh[f"{name}/kernel"], 1 / np.sqrt(inputs_of_a_unit)
    assert kernel.std() == pytest.approx(deviation, rel=0.02)
    # truncated at two deviations of the normal before truncation, as in jax and tf_keras
    assert np.abs(kernel).max() <= 2 * deviation / 0.8796 * 1.001
    assert not fresh[f"{name}/bias"].any()


def test_fresh_biases_are_those_of_the_reference(fresh):
    for name, values in fresh.items():
        if "/mlp/" in name and name.endswith("/bias"):
            assert values.std() == pytest.approx(1e-6, rel=0.2), name
        elif name.endswith(("/bias", "/beta")):
            assert not values.any(), name
        elif name.endswith("/gamma"):
            assert (values == 1).all(), name


# Dropout and stochastic depth


@pytest.mark.parametrize(
    "rates", [{"dropout": 0.3}, {"stochastic_depth": 0.5}], ids=lambda r: next(iter(r))
)
def test_dropout_is_a_function_of_its_seed_and_off_in_inference(rates):
    model, images = small(**rates), inputs(8)
    plain = small()

    def train(seed):
        with dropout_seed(tf.constant(seed)):
            return model(images, training=True).numpy()

    first = train([1, 2])
    np.testing.assert_array_equal(train([1, 2]), first)
    for other in ([1, 3], [2, 2]):
        assert np.abs(train(other) - first).max() > 1e-3
    np.testing.assert_array_equal(model(images).numpy(), plain(images).numpy())
    assert np.abs(first - plain(images).numpy()).max() > 1e-3


def test_without_a_seed_every_call_drops_something_else():
    model, images = small(dropout=0.3), inputs(2)
    first, second = (model(images, training=True).numpy() for _ in range(2))
    assert np.abs(first - second).max() > 1e-3


def test_the_seed_works_in_a_compiled_step_that_takes_it_as_an_argument():
    model, images = small(dropout=0.3, stochastic_depth=0.5), inputs(4)

    @tf.function
    def step(seed):
        with dropout_seed(seed):
            return model(images, training=True)

    first, again, other = (step(tf.constant([0, s])).numpy() for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    with dropout_seed(tf.constant([0, 1])):
        np.testing.assert_allclose(model(images, training=True).numpy(), first, atol=1e-5)


def test_dropout_drops_its_share_of_values_and_scales_the_rest():
    with dropout_seed(tf.constant([0, 1])):
        dropped = Dropout(0.25, name="a")(tf.ones([100, 20, 10]), training=True).numpy()
        elsewhere = Dropout(0.25, name="b")(tf.ones([100, 20, 10]), training=True).numpy()
    assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
    assert (dropped == 0).mean() == pytest.approx(0.25, abs=0.02)
    assert (dropped != elsewhere).mean() > 0.2  # layers drop independently


def test_stochastic_depth_drops_or_scales_whole_samples():
    x = tf.random.stateless_normal([2000, 3, 4], [5, 6])
    layer = StochasticDepth(0.9, name="branch")
    with dropout_seed(tf.constant([7, 8])):
        y = layer(x, training=True).numpy()
    kept = y.reshape(2000, -1).any(axis=1)
    np.testing.assert_allclose(y[kept], x.numpy()[kept] * 10, rtol=1e-5)
    assert not y[~kept].any()
    assert kept.mean() == pytest.approx(0.1, abs=0.03)
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())


def test_stochastic_depth_of_a_model_drops_branches_of_whole_samples():
    model = small(stochastic_depth=0.9)  # two blocks: rate 0, then 0.9 of both branches
    images = np.repeat(inputs(1), 200, axis=0)
    with dropout_seed(tf.constant([1, 1])):
        logits = model(images, training=True).numpy()
    rows, counts = np.unique(logits.round(4), axis=0, return_counts=True)
    assert 3 <= len(rows) <= 4  # neither branch, the one, the other (and, once in a hundred, both)
    assert counts.max() / 200 == pytest.approx(0.81, abs=0.08)
    # where both are dropped, the model is the one without its second block
    shallow = tfvit.create_model("vit-ti/8", 5, (HEIGHT, WIDTH), **{**SMALL, "depth": 1})
    deep = named_weights(model)
    for name, variable in named_weights(shallow).items():
        variable.assign(deep[name])
    most = rows[counts.argmax()]
    np.testing.assert_allclose(shallow(images[:1]).numpy()[0], most, atol=2e-4)


def test_the_first_block_is_never_dropped_and_the_last_one_most():
    model = tfvit.create_model("vit-mu/8", 2, 16, depth=4, stochastic_depth=0.6)
    rates = [layer.rate for layer in model.submodules if isinstance(layer, StochasticDepth)]
    np.testing.assert_allclose(rates, [0, 0, 0.2, 0.2, 0.4, 0.4, 0.6, 0.6])


# bfloat16


@pytest.mark.parametrize("pooling, representation", SHAPES)
def test_bfloat16_computes_close_to_float32_and_ends_in_float32(pooling, representation):
    model = small(20, pooling=pooling, representation_size=representation)
    mixed = randomise(build(model.architecture, dtype="mixed_bfloat16"))
    assert {v.dtype for v in mixed.weights} == {tf.float32}
    images = inputs(8)
    expected, logits = model(images).numpy(), mixed(images)
    assert logits.dtype == tf.float32
    difference = np.abs(logits.numpy() - expected)
    assert difference.max() > 1e-5  # it does compute in bfloat16
    assert difference.max() < 0.1 * expected.std()
    centred = [x - x.mean() for x in (expected, logits.numpy())]
    assert (centred[0] * centred[1]).sum() > 0.999 * np.prod(
        [np.sqrt((x**2).sum()) for x in centred]
    )


def test_bfloat16_drops_whole_samples_too():
    model = small(stochastic_depth=0.5, dropout=0.1)
    mixed = randomise(build(model.architecture, dtype="mixed_bfloat16"))
    with dropout_seed(tf.constant([3, 4])):
        logits = mixed(inputs(4), training=True)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits.numpy()).all()
