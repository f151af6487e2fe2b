from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage
from small_models import inputs, small
from small_models import labelled as labelled_of_any_depth

import tfvit
from tfvit import UserError
from tfvit.model import build, named_weights
from tfvit.transfer import initialise

labelled = functools.partial(labelled_of_any_depth, depth=1)
LABELS = ("cat", "dog", "owl")
POSITION, TOKEN = "position/embedding", "cls/token"
HEAD = {"head/kernel", "head/bias"}
OLD_GRID = (3, 5)  # of 24 x 40 pixels in patches of 8


@pytest.fixture
def stored(tmp_path):
    """stored(labels, **fields): a checkpoint folder with random weights, and these by name."""

    def make(labels=LABELS, image_size=(24, 40), **changes):
        model = labelled(labels, image_size, seed=1, **changes)
        tfvit.save(model, tmp_path / "old")
        return tmp_path / "old", values(model)

    return make


def values(model):
    return {name: variable.numpy() for name, variable in named_weights(model).items()}


def zoomed(rows, new):
    """Rows of OLD_GRID at another grid, as google-research/vision_transformer resizes them."""
    grid = rows.astype(np.float64).reshape(*OLD_GRID, -1)
    factors = (new[0] / OLD_GRID[0], new[1] / OLD_GRID[1], 1)
    return ndimage.zoom(grid, factors, order=1).reshape(new[0] * new[1], -1)


def check(model, old, report, *, resized=(), reset=(), dropped=(), different=()):
    """Every weight but those listed is the checkpoint's, and the report says so."""
    new = values(model)
    assert set(report.resized) == set(resized)
    assert set(report.reset) == set(reset)
    assert set(report.dropped) == set(dropped)
    assert set(report.loaded) == set(new) - set(resized) - set(reset)
    assert set(old) - set(new) == set(dropped)
    for name in report.loaded:
        np.testing.assert_array_equal(new[name], old[name], name)
    text = "\n".join(report.lines())
    for name in (*resized, *reset, *dropped):
        assert name in text
    assert f"loaded   {len(report.loaded)} weights" in text


def is_zero(model):
    return not any(values(model)[name].any() for name in HEAD)


def test_the_same_model_gets_every_weight(stored):
    folder, old = stored()
    model = labelled(LABELS, seed=2)
    check(model, old, initialise(model, folder))
    np.testing.assert_array_equal(model(inputs(2)).numpy(), tfvit.load(folder)(inputs(2)).numpy())


@pytest.mark.parametrize("size", [(48, 80), (16, 24), (24, 48), (32, 40), (8, 8), (40, 24)])
@pytest.mark.parametrize("pooling", ["cls", "gap"])
def test_another_image_size_resizes_the_position_embedding_as_scipy_does(stored, size, pooling):
    folder, old = stored(pooling=pooling)
    model = labelled(LABELS, size, seed=2, pooling=pooling)
    check(model, old, initialise(model, folder), resized=[POSITION])
    new, token = values(model)[POSITION][0], int(pooling == "cls")
    np.testing.assert_array_equal(new[:token], old[POSITION][0, :token])
    expected = zoomed(old[POSITION][0, token:], (size[0] // 8, size[1] // 8))
    np.testing.assert_allclose(new[token:], expected, atol=1e-6)


def test_the_checkpoints_own_interpolation_resizes_the_position_embedding(stored):
    folder, old = stored(position_interpolation="bicubic", pooling="gap")
    model = labelled(LABELS, (40, 40), position_interpolation="bicubic", pooling="gap")
    check(model, old, initialise(model, folder), resized=[POSITION])
    before, after = old[POSITION].reshape(3, 5, -1), values(model)[POSITION].reshape(5, 5, -1)
    # 3 points at 5: the second at 3 / 5 * 1.5 - 0.5 = 0.4, Keys' kernel with a = -0.75, the first point twice
    taps = np.array([-0.108, 0.72, 0.46, -0.072])
    rows = before[[0, 0, 1, 2]]
    np.testing.assert_allclose(after[1], np.einsum("t,tcd->cd", taps, rows), atol=1e-6)


def test_layer_scale_is_transferred(stored):
    folder, old = stored(layer_scale=1e-5)
    model = labelled(("a", "b"), seed=2, layer_scale=1e-5)
    report = initialise(model, folder)
    check(model, old, report, reset=HEAD)
    assert {f"block_0/{part}/layer_scale/gamma" for part in ("attention", "mlp")} <= {
        *report.loaded
    }


def test_as_many_patches_in_another_shape_are_resized_too(stored):
    folder, old = stored()
    model = labelled(LABELS, (40, 24), seed=2)
    assert model.architecture.tokens == 16
    check(model, old, initialise(model, folder), resized=[POSITION])
    np.testing.assert_allclose(
        values(model)[POSITION][0, 1:], zoomed(old[POSITION][0, 1:], (5, 3)), atol=1e-6
    )


@pytest.mark.parametrize(
    "labels",
    [("cat", "dog"), ("cat", "dog", "owl", "yak"), ("cat", "dog", "elk"), ("dog", "cat", "owl")],
    ids="-".join,
)
def test_other_classes_set_the_head_to_exactly_zero(stored, labels):
    folder, old = stored()
    model = labelled(labels, seed=2)
    check(model, old, initialise(model, folder), reset=HEAD)
    assert is_zero(model)
    assert not model(inputs(2)).numpy().any()


def test_other_classes_and_another_size_at_once(stored):
    folder, old = stored()
    model = labelled(("a", "b"), (32, 64), seed=2)
    check(model, old, initialise(model, folder), resized=[POSITION], reset=HEAD)
    assert is_zero(model)


def test_from_a_class_token_to_the_mean_drops_the_token_and_its_position(stored):
    folder, old = stored(pooling="cls")
    model = labelled(LABELS, seed=2, pooling="gap")
    check(model, old, initialise(model, folder), resized=[POSITION], dropped=[TOKEN])
    np.testing.assert_array_equal(values(model)[POSITION][0], old[POSITION][0, 1:])


def test_from_a_class_token_to_it_and_the_mean_resets_the_head_alone(stored):
    folder, old = stored(pooling="cls")
    model = labelled(LABELS, seed=2, pooling="cls+gap")
    check(model, old, initialise(model, folder), reset=HEAD)
    assert is_zero(model)


def test_attention_that_pools_and_is_new_has_a_head_of_zero(stored):
    folder, _ = stored(pooling="cls")
    model = labelled(LABELS, seed=2, pooling="map")
    assert initialise(model, folder).reset.keys() >= HEAD
    assert is_zero(model)


def test_from_the_mean_to_a_class_token_has_the_initial_token_and_no_position_of_its_own(stored):
    folder, old = stored(pooling="gap")
    model = labelled(LABELS, seed=2, pooling="cls")
    before = values(model)
    check(model, old, initialise(model, folder), resized=[POSITION], reset=[TOKEN])
    after = values(model)
    np.testing.assert_array_equal(after[TOKEN], before[TOKEN])
    assert not after[POSITION][0, 0].any()
    np.testing.assert_array_equal(after[POSITION][0, 1:], old[POSITION][0])


@pytest.mark.parametrize("width", [20, 48], ids=["narrow", "as wide as the model"])
def test_a_hidden_layer_of_pre_training_is_dropped_and_its_head_reset(stored, width):
    folder, old = stored(representation_size=width)
    model = labelled(LABELS, seed=2)
    report = initialise(model, folder)
    layer = ["pre_logits/kernel", "pre_logits/bias"]
    check(model, old, report, reset=HEAD, dropped=layer)
    assert is_zero(model)  # it was trained on other features


@pytest.mark.parametrize("width", [20, 48], ids=["narrow", "as wide as the model"])
def test_a_new_hidden_layer_starts_with_a_head_of_zero(stored, width):
    folder, old = stored()
    model = labelled(LABELS, seed=2, representation_size=width)
    before = values(model)
    layer = {"pre_logits/kernel", "pre_logits/bias"}
    check(model, old, initialise(model, folder), reset=HEAD | layer)
    assert is_zero(model)
    for name in layer:
        np.testing.assert_array_equal(values(model)[name], before[name])


def test_the_same_hidden_layer_is_kept(stored):
    folder, old = stored(representation_size=20)
    model = labelled(LABELS, seed=2, representation_size=20)
    check(model, old, initialise(model, folder))


@pytest.mark.parametrize(
    "name, image_size, changes, field, values_named",
    [
        ("vit-ti/8", (24, 40), {"width": 60}, "width", ("48", "60")),
        ("vit-ti/8", (24, 40), {"depth": 3}, "depth", ("1", "3")),
        ("vit-ti/8", (24, 40), {"mlp_dim": 100}, "mlp_dim", ("96", "100")),
        ("vit-ti/8", (24, 40), {"heads": 4}, "heads", ("3", "4")),
        ("vit-ti/8", (24, 40), {"activation": "gelu"}, "activation", ("gelu_tanh", "gelu")),
        ("vit-ti/8", (24, 40), {"layer_scale": 0.5}, "layer_scale", ("None", "0.5")),
        (
            *("vit-ti/8", (24, 40), {"position_interpolation": "bicubic"}),
            *("position_interpolation", ("bilinear", "bicubic")),
        ),
        ("vit-ti/8", (24, 40), {"position": "none"}, "position", ("learned", "none")),
        ("vit-ti/8", (24, 40), {"qkv_bias": False}, "qkv_bias", ("True", "False")),
        ("r+vit-ti/16", (32, 64), {}, "stem", ("None", "()")),
    ],
)
def test_another_shape_of_model_is_one_line_that_names_both(
    stored, name, image_size, changes, field, values_named
):
    folder, _ = stored()
    model = small(3, image_size, name=name, **{"depth": 1, **changes})
    before = values(model)
    with pytest.raises(UserError) as caught:
        initialise(model, folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(folder), "vit-ti/8", name, field, *values_named):
        assert part in message
    for weight, value in values(model).items():
        np.testing.assert_array_equal(value, before[weight])


def test_another_patch_size_resamples_the_embedding(stored):
    folder, old = stored()
    arch = labelled(LABELS).architecture
    model = build(dataclasses.replace(arch, image_size=(48, 80), patch_size=16), labels=LABELS)
    kernel = "embedding/kernel"
    check(model, old, initialise(model, folder), resized=[kernel])
    new = values(model)[kernel]
    patches = np.random.default_rng(0).normal(size=(7, 8, 8, 3)).astype(np.float32)
    larger = tf.image.resize(patches, (16, 16)).numpy()
    expected = np.tensordot(patches, old[kernel], 3)
    np.testing.assert_allclose(np.tensordot(larger, new, 3), expected, atol=1e-4)


def test_rows_and_columns_are_resized_each_along_its_axis(stored):
    folder, old = stored(position="learned_2d")
    model = labelled(LABELS, (48, 64), seed=2, position="learned_2d")
    names = ["position/rows", "position/columns"]
    check(model, old, initialise(model, folder), resized=names)
    for name, size in zip(names, (6, 8)):
        expected = ndimage.zoom(old[name], (size / len(old[name]), 1), order=1)
        np.testing.assert_allclose(values(model)[name], expected, atol=1e-6)


def test_distances_are_interpolated_from_end_to_end(stored):
    folder, old = stored(position="relative")
    model = labelled(LABELS, (48, 64), seed=2, position="relative")
    name = "block_0/attention/relative"
    check(model, old, initialise(model, folder), resized=[name])
    factor = (2 * 49 - 1) / (2 * 16 - 1)
    expected = ndimage.zoom(old[name], (factor, 1), order=1)
    np.testing.assert_allclose(values(model)[name], expected, atol=1e-6)


def test_fixed_positions_fit_any_size(stored):
    folder, old = stored(position="sincos_2d")
    model = labelled(LABELS, (48, 64), seed=2, position="sincos_2d")
    check(model, old, initialise(model, folder))


def test_a_resnet_takes_nothing_from_a_transformer(stored):
    folder, _ = stored()
    model = tfvit.create_model("bit-r50x1", 3, 32)
    with pytest.raises(UserError, match="another family than bit-r50x1"):
        initialise(model, folder)


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        initialise(labelled(LABELS), tmp_path / "nowhere")
