"""What is hidden, what is predicted and the loss, against NumPy from the published definitions."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from small_models import HEIGHT, PATCH, SMALL, WIDTH, small
from test_vit import GELU, attention, dense, norm

from edge_demo.errors import UserError
from tfvit.architecture import ResNetArchitecture
from tfvit.model import build, named_weights
from tfvit.objectives import OBJECTIVES, TARGETS, targets
from tfvit.objectives.masked_modeling import MaskedModeling, as_trained_on
from tfvit.objectives.masking import MASKINGS, to_predict
from tfvit.optimizer import Optimizer
from tfvit.recipe import Pretraining, Recipe
from tfvit.step import forward_backward, make_train_step

N, BATCH = (HEIGHT // PATCH) * (WIDTH // PATCH), 4
HOW = {  # as the papers have them, with a decoder as small as the model
    "masked-patch": Pretraining("masked-patch", "mean-color", 0.5),
    "mae": Pretraining("mae", "normalized", 0.75, decoder_width=96, decoder_depth=1),
}


def pixels(count=BATCH, height=HEIGHT, width=WIDTH, seed=0):
    """Pictures of blobs, uint8 [count, height, width, 3]: neighbours are alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 4, width // 4, 3))
    noise = rng.integers(-20, 20, (count, height, width, 3))
    return np.clip(coarse.repeat(4, 1).repeat(4, 2) + noise, 0, 255).astype(np.uint8)


def randomised(model, weights, seed=5):
    """Gives the weights beside the model's random values too: a head of zeros would hide all."""
    rng, own = np.random.default_rng(seed), named_weights(model)
    for name in sorted(weights.keys() - own.keys()):
        values = rng.standard_normal(weights[name].shape) * 0.2
        weights[name].assign(values + name.endswith("gamma"))


def masking(objective, outputs, **changes):
    model = small(**changes)
    found = MASKINGS[objective].prediction(model, HOW[objective], outputs)
    randomised(model, found.weights)
    return model, found, {name: v.numpy().astype(np.float64) for name, v in found.weights.items()}


def noise(objective, count=BATCH, n=N, seed=2):
    shape = (MASKINGS[objective].draws, count, n)
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def planned(objective, drawn):
    """What is hidden, of numbers drawn [draws, b, n]."""
    arch = small(image_size=(PATCH, PATCH * drawn.shape[2])).architecture
    count = to_predict(arch, HOW[objective].masked)
    return MASKINGS[objective].plan(tf.constant(drawn), count)


def patches_of(images):
    """facebookresearch/mae models_mae.py, patchify, of channels last: [b, n, p * p * 3]."""
    b, height, width, _ = images.shape
    x = images.reshape(b, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    return np.einsum("nhpwqc->nhwpqc", x).reshape(b, -1, PATCH**2 * 3)


def block(x, w, name):
    x = x + attention(norm(x, w, f"{name}/norm_1"), w, f"{name}/attention")
    y = GELU["gelu_tanh"](dense(norm(x, w, f"{name}/norm_2"), w, f"{name}/mlp/dense_1"))
    return x + dense(y, w, f"{name}/mlp/dense_2")


def encoded(x, w):
    for i in range(SMALL["depth"]):
        x = block(x, w, f"block_{i}")
    return norm(x, w, "norm")


def embedded(images, w):
    kernel = w["embedding/kernel"].reshape(PATCH * PATCH * 3, -1)
    return patches_of(images).astype(np.float64) @ kernel + w["embedding/bias"]


# Colours


@pytest.mark.parametrize("cells", [1, targets.LOW_RES])
@pytest.mark.parametrize("size", [2, 14, 16])
def test_colours_are_three_bits_of_the_mean_of_each_cell(size, cells):
    rng = np.random.default_rng(size)
    parts = rng.integers(0, 256, (2, 3, size, size, 3)).astype(np.uint8)
    parts[0, 0], parts[0, 1], parts[0, 2] = 32, 31, 255
    found = targets.colors(tf.constant(parts), cells).numpy().reshape(2, 3, cells, cells)
    overlap = [
        [max(Fraction(0), min(i + 1, Fraction((c + 1) * size, cells)) - max(i, Fraction(c * size, cells)))
         for i in range(size)]
        for c in range(cells)
    ]  # fmt: skip
    for at in np.ndindex(found.shape):
        down, across = (np.array(overlap[k]) for k in at[2:])
        area = Fraction(size, cells) ** 2
        levels = [int(down @ parts[at[:2]][..., c].astype(int) @ across / area) for c in range(3)]
        red, green, blue = (level >> 5 for level in levels)
        assert found[at] == red << 6 | green << 3 | blue


def test_patches_go_apart_and_together():
    whole = pixels()
    parts = targets.patches(tf.constant(whole), PATCH)
    np.testing.assert_array_equal(parts.numpy().reshape(BATCH, N, -1), patches_of(whole))
    np.testing.assert_array_equal(targets.picture(parts, (HEIGHT // PATCH, WIDTH // PATCH)), whole)


@pytest.mark.parametrize("name", TARGETS)
def test_a_perfect_prediction_has_no_loss_and_shows_the_patch(name):
    model, target = small(), targets.TARGETS[name]
    parts = targets.patches(tf.constant(pixels()), PATCH)
    count = target.outputs(PATCH)
    if target.figures:
        cells = round((count / targets.COLORS) ** 0.5)
        perfect = 50 * tf.one_hot(targets.colors(parts, cells), targets.COLORS)
        perfect = tf.reshape(perfect, [BATCH, N, count])
    else:
        x = patches_of((pixels() - 127.5) / 127.5)
        if name == "normalized":
            x = (x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True)
        perfect = tf.constant(x, tf.float32)
    found = target.losses(perfect, parts, model.preprocess)
    assert found.keys() == {"loss", *target.figures}
    np.testing.assert_allclose(found["loss"], 0, atol=1e-5)
    assert all(np.all(found[figure] == 1) for figure in target.figures)
    shown = target.shown(perfect, parts, model.preprocess).numpy()
    if not target.figures:
        np.testing.assert_allclose(shown, parts, atol=0.1)
    elif count == targets.COLORS:
        assert np.abs(shown - parts.numpy().mean((2, 3), keepdims=True)).max() <= 16


# What is hidden


def test_masked_patches_are_corrupted_in_the_papers_shares():
    count, n = 2000, 49
    drawn = noise("masked-patch", count, n)
    plan = {k: v.numpy() for k, v in planned("masked-patch", drawn).items()}
    places, source = plan["places"], plan["source"]
    assert places.shape == (count, 25) and all(len(set(row)) == 25 for row in places[:50])
    everywhere = np.bincount(places.ravel(), minlength=n) / count
    assert np.abs(everywhere - 25 / n).max() < 0.05
    new = np.take_along_axis(source, places, 1)
    shares = [(new == n).mean(), ((new != n) & (new != places)).mean(), (new == places).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.01)
    others = np.bincount(new[(new != n) & (new != places)], minlength=n)
    assert others.min() > 0.5 * others.mean()
    untouched = np.ones_like(source, bool)
    np.put_along_axis(untouched, places, False, 1)
    np.testing.assert_array_equal(
        source[untouched], np.broadcast_to(np.arange(n), source.shape)[untouched]
    )


def test_masked_patch_prediction_is_the_papers():
    model, found, w = masking("masked-patch", 512)
    images = pixels()
    plan = planned("masked-patch", noise("masked-patch"))
    places, source = plan["places"].numpy(), plan["source"].numpy()
    x = embedded((images - 127.5) / 127.5, w)
    with_mask = np.concatenate([x, np.repeat(w["pretraining/mask/token"], BATCH, 0)], 1)
    x = np.take_along_axis(with_mask, source[..., np.newaxis], 1)
    x = np.concatenate([np.repeat(w["cls/token"], BATCH, 0), x], 1) + w["position/embedding"]
    x = np.take_along_axis(encoded(x, w)[:, 1:], places[..., np.newaxis], 1)
    expected = dense(x, w, "pretraining/head")
    normal = tf.constant((images - 127.5) / 127.5, tf.float32)
    prediction = found.predict(normal, plan, False)
    np.testing.assert_allclose(prediction, expected, rtol=1e-4, atol=1e-4)
    levels = patches_of(images).reshape(BATCH, N, -1, 3).mean(2).astype(int) >> 5
    color = np.take_along_axis(levels @ [64, 8, 1], places, 1)
    shifted = expected - expected.max(-1, keepdims=True)
    loss = (
        np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, color[..., None], 2)[..., 0]
    )
    parts = tf.gather(targets.patches(tf.constant(images), PATCH), places, batch_dims=1)
    ours = targets.TARGETS["mean-color"].losses(prediction, parts, model.preprocess)
    np.testing.assert_allclose(ours["loss"], loss, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(ours["colors"], expected.argmax(-1) == color)


def test_mae_is_the_published_forward_pass_and_loss():
    """The steps of facebookresearch/mae models_mae.py under its names, in float64."""
    model, found, w = masking("mae", PATCH**2 * 3)
    images, drawn = pixels(), noise("mae")
    normal = (images - 127.5) / 127.5
    x = embedded(normal, w) + w["position/embedding"][:, 1:]
    len_keep = int(N * 0.25)
    ids_shuffle = np.argsort(drawn[0], 1, kind="stable")
    ids_restore = np.argsort(ids_shuffle, 1)
    x = np.take_along_axis(x, ids_shuffle[:, :len_keep, np.newaxis], 1)
    mask = np.ones((BATCH, N))
    mask[:, :len_keep] = 0
    mask = np.take_along_axis(mask, ids_restore, 1)
    cls = w["cls/token"] + w["position/embedding"][:, :1]
    x = encoded(np.concatenate([np.repeat(cls, BATCH, 0), x], 1), w)
    x = dense(x, w, "pretraining/decoder/embedding")
    mask_tokens = np.tile(w["pretraining/mask/token"], (BATCH, N - len_keep, 1))
    x_ = np.concatenate([x[:, 1:], mask_tokens], 1)
    x_ = np.take_along_axis(x_, ids_restore[..., np.newaxis], 1)
    y, z = np.mgrid[: HEIGHT // PATCH, : WIDTH // PATCH].reshape(2, -1)
    omega = 10_000.0 ** -np.linspace(0, 1, 24)
    angles = [np.outer(axis, omega) for axis in (z, y)]
    position = np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], 1)
    x = np.concatenate([x[:, :1], x_ + position], 1)
    x = norm(block(x, w, "pretraining/decoder/block_0"), w, "pretraining/decoder/norm")
    pred = dense(x, w, "pretraining/head")[:, 1:]
    target = patches_of(normal)
    mean, var = target.mean(-1, keepdims=True), target.var(-1, keepdims=True, ddof=1)
    target = (target - mean) / (var + 1e-6) ** 0.5
    loss = ((((pred - target) ** 2).mean(-1)) * mask).sum() / mask.sum()
    plan = planned("mae", drawn)
    prediction = found.predict(tf.constant(normal, tf.float32), plan, False)
    parts = tf.gather(targets.patches(tf.constant(images), PATCH), plan["places"], batch_dims=1)
    ours = targets.TARGETS["normalized"].losses(prediction, parts, model.preprocess)["loss"]
    assert float(tf.reduce_mean(ours)) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_of_what_is_masked_reaches_the_prediction(objective):
    _, found, _ = masking(objective, 512)
    drawn = noise(objective)
    if objective == "masked-patch":
        drawn[1] = 0.5  # all of them behind the mask token
    plan = planned(objective, drawn)
    images, others = pixels(), pixels(seed=9)
    hidden = np.zeros((BATCH, N), bool)
    np.put_along_axis(hidden, plan["places"].numpy(), True, 1)
    hidden = (
        hidden.reshape(BATCH, HEIGHT // PATCH, WIDTH // PATCH).repeat(PATCH, 1).repeat(PATCH, 2)
    )
    where = hidden[..., np.newaxis]

    def predicted(chosen):
        return found.predict(tf.constant(chosen, tf.float32) / 127.5 - 1, plan, False).numpy()

    first = predicted(images)
    np.testing.assert_array_equal(first, predicted(np.where(where, others, images)))
    assert np.abs(first - predicted(np.where(where, images, others))).max() > 0.01


# Every objective, every target, every family of models

FAMILIES = {
    "cls": {},
    "gap, relative": {"pooling": "gap", "position": "relative"},
    "map, sincos": {"pooling": "map", "position": "sincos_2d"},
    "two class tokens, registers": {"distillation_token": True, "registers": 2},
    "cls+gap, rows and columns": {"pooling": "cls+gap", "position": "learned_2d"},
    "hybrid": {"name": "r+vit-ti/16", "image_size": (64, 96), "patch_size": None},
}
REFUSED = {("mae", "gap, relative"): "relative", ("mae", "hybrid"): "stem"}


def learning(objective, target, family="cls", recipe=Recipe(steps=100, batch_size=BATCH)):
    changes = {k: v for k, v in FAMILIES[family].items() if v is not None}
    model = small(depth=1, **changes)
    how = dataclasses.replace(HOW[objective], target=target)
    recipe = dataclasses.replace(recipe, pretraining=how)
    return MaskedModeling(model, recipe), recipe


def batch_for(model):
    shown = pixels(BATCH, *model.architecture.image_size)
    return {
        "pixels": tf.constant(shown),
        "label": tf.zeros(BATCH, tf.int64),
        "mask": tf.ones(BATCH),
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_weight_learns_from_every_target(objective, family):
    refusal = REFUSED.get((objective, family))
    if refusal:
        with pytest.raises(UserError, match=f"{refusal}.*; take masked-patch") as error:
            learning(objective, "full", family)
        assert "\n" not in str(error.value)
        return
    for target in TARGETS:
        learnt, recipe = learning(objective, target, family)
        randomised(learnt.model, learnt.weights)
        optimizer = Optimizer(recipe, learnt.weights)
        step = forward_backward(learnt, optimizer.variables, recipe)
        one = (tf.constant([0, 1]), tf.constant(0), tf.constant(1.0))
        sums, gradients = step(batch_for(learnt.model), *one)
        assert sums.keys() == {"loss", "images", *learnt.figures}
        assert np.isfinite(float(sums["loss"])) and float(sums["loss"]) > 0
        still = [n for n, g in zip(optimizer.weights, gradients) if not np.any(g)]
        known = [n for n in still if n.endswith("key/bias")]  # softmax does not feel it
        assert still == known
        found = learnt.reconstructions(batch_for(learnt.model)["pixels"].numpy())
        same = (found["picture"] == found["predicted"]).all(-1).mean()
        assert {x.dtype for x in found.values()} == {np.dtype(np.uint8)}
        assert same >= 1 - recipe.pretraining.masked - 0.1
        assert ((found["masked"] == 128).all(-1)).mean() >= recipe.pretraining.masked - 0.1


def test_a_resnet_has_no_patches():
    model = build(ResNetArchitecture("bit", 1, (32, 32), (1,), 1))
    with pytest.raises(UserError, match="bit: has no patches to mask"):
        MaskedModeling(model, Recipe(pretraining=HOW["mae"]))


@pytest.mark.parametrize("objective", ["masked-patch", pytest.param("mae", marks=pytest.mark.long)])
def test_accumulated_and_under_xla_it_is_the_same_step(objective):
    found = []
    for accumulate, xla in ((1, True), (2, False)):
        recipe = Recipe(steps=100, warmup_steps=0, batch_size=BATCH, accumulate=accumulate)
        learnt, recipe = learning(objective, HOW[objective].target, recipe=recipe)
        randomised(learnt.model, learnt.weights)
        optimizer = Optimizer(recipe, learnt.weights)
        step = make_train_step(learnt, optimizer, recipe, tf.distribute.get_strategy(), xla)
        figures = step(batch_for(learnt.model), tf.constant(1))
        found.append({name: float(figures[name]) for name in ("loss", "gradient_norm", "images")})
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_is_shown_as_the_step_hides_it(objective):
    learnt, recipe = learning(objective, "full", recipe=Recipe(steps=9, batch_size=BATCH, seed=3))
    batch = batch_for(learnt.model)
    places = learnt.prepared(batch, tf.constant([3, 1]), 0)["places"].numpy()
    first = {name: x[: BATCH - 1] for name, x in batch.items()}  # of which not all are shown
    shown = as_trained_on(first, learnt.model.architecture, recipe, 1)
    expected = batch["pixels"].numpy()[: BATCH - 1].copy()
    np.testing.assert_array_equal(shown["picture"], expected)
    for picture, hidden in zip(expected, places):
        for place in hidden:
            down, across = np.array(divmod(place, WIDTH // PATCH)) * PATCH
            picture[down : down + PATCH, across : across + PATCH] = 128
    np.testing.assert_array_equal(shown["masked"], expected)


def test_what_is_masked_is_a_function_of_seed_step_and_row():
    learnt, _ = learning("mae", "full")
    whole = batch_for(learnt.model)
    half = {name: x[2:] for name, x in whole.items()}
    step = tf.constant([3, 7])
    first, again = (learnt.prepared(whole, step, 0) for _ in range(2))
    second_device = learnt.prepared(half, step, 1)
    later = learnt.prepared(whole, tf.constant([3, 8]), 0)
    for name in ("places", "source", "visible"):
        np.testing.assert_array_equal(first[name], again[name])
        np.testing.assert_array_equal(first[name][2:], second_device[name])
        assert np.any(first[name] != later[name])
