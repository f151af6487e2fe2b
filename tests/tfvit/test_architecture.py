from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

import tfvit
from tfvit import UserError, architecture
from tfvit.architecture import VARIANTS, named

# (width, depth, mlp_dim, heads): arXiv 2010.11929 table 1, DeiT table 1, big_vision's models/vit.py.
PUBLISHED_SHAPES = {
    "vit-mu": (32, 1, 128, 2),
    "vit-ti": (192, 12, 768, 3),
    "vit-s": (384, 12, 1536, 6),
    "vit-b": (768, 12, 3072, 12),
    "vit-l": (1024, 24, 4096, 16),
    "vit-h": (1280, 32, 5120, 16),
    "vit-g": (1408, 40, 6144, 16),
    "vit-G": (1664, 48, 8192, 16),
}

# name, classes, pixels, other fields, parameters. The first six are published (google-research/
# vision_transformer, timm); the rest follow from them by hand.
PARAMETERS = [
    ("vit-ti/16", 1000, 224, {}, 5_717_416),
    ("vit-s/16", 1000, 224, {}, 22_050_664),
    ("vit-b/16", 1000, 224, {}, 86_567_656),
    ("vit-b/32", 1000, 224, {}, 88_224_232),
    ("vit-l/16", 1000, 224, {}, 304_326_632),
    ("vit-h/14", 1000, 224, {}, 632_045_800),
    # 380 more rows of position embedding
    ("vit-b/16", 1000, 384, {}, 86_567_656 + (24 * 24 - 14 * 14) * 768),
    # neither a class token nor its position
    ("vit-ti/16", 1000, 224, {"pooling": "gap"}, 5_717_416 - 2 * 192),
    # ImageNet-21k heads, with the hidden layer of pre-training
    ("vit-b/16", 21843, 224, {"representation_size": 768}, 103_186_515),
    ("vit-l/16", 21843, 224, {"representation_size": 1024}, 326_740_307),
]

# name: parameters in millions, to two decimals, with 1000 classes at 224 pixels: timm's tables of results
# (vit_giant_patch14_224, vit_tiny_r_s16_p8_224, resnetv2_50x1_bit, ...).
MILLIONS = {
    "vit-g/14": 1012.61,
    "vit-G/14": 1844.44,
    "r+vit-ti/16": 6.34,
    "r26+vit-s/32": 36.43,
    "r50+vit-l/32": 328.99,
    "bit-r50x1": 25.55,
    "bit-r101x1": 44.54,
    "bit-r152x4": 936.53,
}


def count_by_hand(width, depth, mlp_dim, patch, tokens, classes, representation):
    """Parameters of a ViT with a class token, from the equations of the paper."""
    attention = 4 * (width * width + width)
    mlp = width * mlp_dim + mlp_dim + mlp_dim * width + width
    block = attention + mlp + 2 * 2 * width
    stem = patch * patch * 3 * width + width + width + tokens * width
    hidden = representation or width
    pre_logits = width * hidden + hidden if representation else 0
    return stem + depth * block + 2 * width + pre_logits + hidden * classes + classes


@pytest.mark.parametrize(
    "name, classes, size, changes, expected",
    PARAMETERS,
    ids=[f"{n}-{c}-{s}{''.join(f'-{k}' for k in x)}" for n, c, s, x, _ in PARAMETERS],
)
def test_parameter_counts_are_the_published_ones(name, classes, size, changes, expected):
    with tf.Graph().as_default():  # the real model, without giving its variables memory
        model = tfvit.create_model(name, classes, size, **changes)
        assert model.count_params() == expected


@pytest.mark.parametrize("name", MILLIONS)
def test_parameter_counts_are_the_published_ones_in_millions(name):
    with tf.Graph().as_default():
        assert round(tfvit.create_model(name, 1000, 224).count_params() / 1e6, 2) == MILLIONS[name]


def test_the_hybrid_of_the_paper_has_its_published_parameters():
    with tf.Graph().as_default():  # of google-research/vision_transformer's R50+ViT-B_16
        assert tfvit.create_model("r50+vit-b/16", 1000, 224).count_params() == 98_659_112


@pytest.mark.parametrize("name, classes, size, changes, expected", PARAMETERS)
def test_the_published_counts_follow_from_the_papers_equations(
    name, classes, size, changes, expected
):
    variant, patch = name.split("/")
    width, depth, mlp_dim, _ = PUBLISHED_SHAPES[variant]
    tokens = (size // int(patch)) ** 2 + 1
    representation = changes.get("representation_size")
    count = count_by_hand(width, depth, mlp_dim, int(patch), tokens, classes, representation)
    assert count - (2 * width if changes.get("pooling") == "gap" else 0) == expected


def test_every_variant_has_its_published_shape():
    assert VARIANTS == PUBLISHED_SHAPES


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_forward(variant):
    _, depth, _, _ = VARIANTS[variant]
    _runs_forward(variant, depth=min(depth, 2))


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_forward_at_its_full_depth(variant):
    _runs_forward(variant)


def _runs_forward(variant, **changes):
    model = tfvit.create_model(f"{variant}/8", 3, (16, 24), **changes)
    head = next(layer for layer in model.layers if layer.name == "head")
    head.kernel.assign(tf.random.stateless_normal(head.kernel.shape, [1, 2]))
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 16, 24, 3)).astype(np.float32)
    logits = model(pixels).numpy()
    assert logits.shape == (2, 3)
    assert np.isfinite(logits).all()
    assert np.abs(logits[0] - logits[1]).max() > 1e-3  # it looks at the picture
    width, depth, mlp_dim, heads = PUBLISHED_SHAPES[variant]
    arch = model.architecture
    assert (arch.width, arch.mlp_dim, arch.heads) == (width, mlp_dim, heads)
    assert arch.depth == changes.get("depth", depth)


@pytest.mark.parametrize(
    "name, size, grid",
    [("ViT-B/16", 224, (14, 14)), ("vit-ti/4", (32, 48), (8, 12)), ("vit-h/14", 518, (37, 37))],
)
def test_a_name_and_a_size_give_patch_and_grid(name, size, grid):
    arch = named(name, 10, size)
    assert arch.name == name.lower()
    assert arch.patch_size == int(name.split("/")[1])
    assert arch.grid == grid
    assert arch.tokens == grid[0] * grid[1] + 1
    assert named(name, 10, size, pooling="gap").tokens == grid[0] * grid[1]


def test_any_field_can_be_changed():
    values = {
        "width": 60,
        "depth": 3,
        "heads": 5,
        "mlp_dim": 70,
        "pooling": "gap",
        "representation_size": 11,
        "layer_norm_epsilon": 1e-5,
        "activation": "gelu",
        "layer_scale": 1e-4,
        "position_interpolation": "bicubic",
        "dropout": 0.1,
        "stochastic_depth": 0.2,
    }
    arch = named("vit-ti/8", 10, 32, **values)
    assert {field: getattr(arch, field) for field in values} == values


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_architecture_survives_json(variant):
    arch = named(f"{variant}/8", 7, (32, 64), pooling="gap", dropout=0.1)
    assert architecture.from_json(json.loads(json.dumps(arch.to_json()))) == arch


def test_an_architecture_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        named("vit-ti/16", 10).width = 3


@pytest.mark.parametrize(
    "name, parts",
    [
        ("vit-t/16", ["vit-t/16", "did you mean vit-ti/16?"]),
        ("vit_b/16", ["vit_b/16", "did you mean vit-b/16?"]),
        ("vit-ti", ["did you mean vit-ti/16?"]),
        ("vitl/32", ["did you mean vit-l/16?"]),
        ("resnet50", ["resnet50", "vit-ti/PATCH"]),
        ("", ["unknown model ''"]),
        ("vit-b/x", ["did you mean vit-b/16?"]),
        ("vit-b/-16", ["vit-b/-16"]),
        ("vit-b/0", ["patch_size", "at least 1"]),
    ],
)
def test_an_unknown_name_is_one_line_with_what_is_known(name, parts):
    _refused(parts, name)


def test_a_name_like_nothing_gets_no_guess():
    with pytest.raises(UserError) as caught:
        named("resnet50", 10)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "size, proposed",
    [
        (100, (96, 112)),
        ((100, 100), (96, 112)),
        ((224, 100), (96, 112)),
        ((100, 224), (96, 112)),
        (8, (16, 32)),
        (225, (224, 240)),
    ],
)
def test_a_size_that_the_patch_does_not_divide_names_both_and_proposes_sizes(size, proposed):
    shown = "x".join(map(str, size if isinstance(size, tuple) else (size, size)))
    _refused([shown, "patch size 16", "vit-b/16", *map(str, proposed)], "vit-b/16", size)


@pytest.mark.parametrize("size", [0, -16, (16, 0), (32, 32, 3), (32,), (), "32", None, 32.0])
def test_a_size_that_is_none_is_one_line(size):
    _refused([], "vit-b/16", size)


@pytest.mark.parametrize(
    "changes, parts",
    [
        ({"heads": 5}, ["vit-ti/8", "width 192", "heads 5"]),
        ({"width": 100}, ["width 100", "heads 3"]),
        ({"depht": 3}, ["depht"]),
        ({"pooling": "max"}, ["'max'", "cls", "gap"]),
        ({"dropout": 1.0}, ["dropout 1.0", "[0, 1)"]),
        ({"dropout": -0.1}, ["dropout -0.1"]),
        ({"dropout": float("nan")}, ["dropout nan"]),
        ({"dropout": "much"}, []),
        ({"stochastic_depth": 1.5}, ["stochastic_depth 1.5"]),
        ({"depth": 0}, ["depth", "at least 1"]),
        ({"width": 0}, ["width", "at least 1"]),
        ({"heads": 0}, ["heads", "at least 1"]),
        ({"mlp_dim": -1}, ["mlp_dim", "at least 1"]),
        ({"depth": 2.5}, ["depth", "2.5"]),
        ({"depth": "two"}, ["depth", "'two'"]),
        ({"patch_size": 0}, ["patch_size"]),
        ({"representation_size": -5}, ["representation_size", "-5"]),
        ({"representation_size": 2.5}, ["representation_size", "2.5"]),
        ({"representation_size": "big"}, ["representation_size", "big"]),
        ({"layer_norm_epsilon": -1.0}, ["layer_norm_epsilon", "-1"]),
        ({"layer_norm_epsilon": "small"}, ["layer_norm_epsilon", "small"]),
        ({"activation": "relu"}, ["activation 'relu'", "gelu_tanh, gelu"]),
        ({"layer_scale": 0.0}, ["layer_scale 0.0"]),
        ({"layer_scale": -1.0}, ["layer_scale -1.0"]),
        ({"layer_scale": float("inf")}, ["layer_scale inf"]),
        ({"layer_scale": "small"}, ["layer_scale 'small'"]),
        ({"position_interpolation": "nearest"}, ["position_interpolation", "bilinear, bicubic"]),
    ],
    ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()) if isinstance(v, dict) else "",
)
def test_a_field_that_no_model_can_have_is_one_line_that_names_it(changes, parts):
    _refused(parts, "vit-ti/8", 32, **changes)


@pytest.mark.parametrize("classes", [0, -1, 2.5, "ten", None])
def test_a_number_of_classes_that_is_none_is_one_line(classes):
    with pytest.raises(UserError, match="num_classes"):
        tfvit.create_model("vit-ti/8", classes, 32)


def test_too_many_patches_are_refused_before_memory_is_asked_for():
    assert named("vit-ti/1", 10, 256).tokens == architecture.MAX_PATCHES + 1
    _refused(["300x300", "90000 patches", "65536"], "vit-ti/1", 300)


@pytest.mark.parametrize(
    "setting",
    ["name=other", "num_classes=3", "image_size=64", "depht=3", "dropout=2", "heads=5", "depth=x"],
)
def test_a_setting_that_does_not_fit_ends_the_command_with_one_line(tfvit_cli, tmp_path, setting):
    done = tfvit_cli(
        *("create", "vit-ti/8", "--classes", "4", "--image-size", "32"),
        *("--set", "depth=1", "--set", setting, "--out", tmp_path / "model"),
    )
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert setting.split("=")[0] in done.err
    assert not any(tmp_path.iterdir())


def _refused(parts, name, size=224, **changes):
    with pytest.raises(UserError) as caught:
        tfvit.create_model(name, 10, size, **changes)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
