"""timm's weights: what timm would write is read as the model that it computes, and back."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from huggingface_folders import write_raw
from safetensors.numpy import load as parse
from safetensors.numpy import save_file
from scipy.special import erf
from small_models import small

from tfvit import interop

WIDTH, DEPTH, MLP, PATCH, SIZE, CLASSES = 128, 2, 96, 8, 32, 3
HEADS = WIDTH // 64
PATCHES = (SIZE // PATCH) ** 2
IMAGENET = {
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "std": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
HALF = {"mean": (127.5,) * 3, "std": (127.5,) * 3}


def tensors_of(*, tokens=("cls_token",), registers=0, rows=None, scale=False, bias=True, head=True):
    """Random weights by timm's names, in its layouts. rows: of the tokens before the patches."""
    rng = np.random.default_rng(0)
    weights = {}

    def add(name, *shape, scale=0.3, offset=0.0):
        weights[name] = (offset + scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(name, out, width, bias=True):
        add(f"{name}.weight", out, width, scale=width**-0.5)
        if bias:
            add(f"{name}.bias", out)

    def norm(name):
        add(f"{name}.weight", WIDTH, offset=1.0)
        add(f"{name}.bias", WIDTH)

    for token in tokens:
        add(token, 1, 1, WIDTH)
    if registers:
        add("reg_token", 1, registers, WIDTH)
    rows = len(tokens) + registers if rows is None else rows
    add("pos_embed", 1, rows + PATCHES, WIDTH)
    add("patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH, scale=(3 * PATCH**2) ** -0.5)
    add("patch_embed.proj.bias", WIDTH)
    for i in range(DEPTH):
        norm(f"blocks.{i}.norm1")
        dense(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH, bias)
        dense(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
        norm(f"blocks.{i}.norm2")
        dense(f"blocks.{i}.mlp.fc1", MLP, WIDTH)
        dense(f"blocks.{i}.mlp.fc2", WIDTH, MLP)
        if scale:
            add(f"blocks.{i}.ls1.gamma", WIDTH)
            add(f"blocks.{i}.ls2.gamma", WIDTH)
    norm("norm")
    for name in ("head", "head_dist")[: 1 + ("dist_token" in tokens)] if head else ():
        dense(name, CLASSES, WIDTH)
    return weights


def computed(weights, images, heads=HEADS):
    """What timm computes, float64 [n, classes]: features without a head; images: [n, h, w, 3].

    Follows timm's vision_transformer.py and deit.py.
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    width, _, patch, _ = w["patch_embed.proj.weight"].shape

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    n, height, across, _ = images.shape
    x = images.reshape(n, height // patch, patch, across // patch, patch, 3)
    x = np.einsum("nyaxbc,ocab->nyxo", x, w["patch_embed.proj.weight"])
    x = x.reshape(n, -1, width) + w["patch_embed.proj.bias"]
    tokens = [w[t] for t in ("cls_token", "dist_token", "reg_token") if t in w]
    tokens = [np.repeat(token, n, axis=0) for token in tokens]
    prefix = sum(token.shape[1] for token in tokens)
    with_positions = w["pos_embed"].shape[1] > x.shape[1]
    x = x if with_positions else x + w["pos_embed"]
    x = np.concatenate([*tokens, x], axis=1)
    x = x + w["pos_embed"] if with_positions else x
    for i in range(1 + max(int(m[1]) for m in map(re.compile(r"blocks\.(\d+)").match, w) if m)):
        block = f"blocks.{i}"
        qkv = dense(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        qkv = qkv.reshape(n, x.shape[1], 3, heads, -1).transpose(2, 0, 3, 1, 4)
        scores = np.exp(qkv[0] @ qkv[1].swapaxes(2, 3) * (width // heads) ** -0.5)
        y = (scores / scores.sum(-1, keepdims=True) @ qkv[2]).swapaxes(1, 2)
        y = dense(y.reshape(n, -1, width), f"{block}.attn.proj")
        x = x + y * w.get(f"{block}.ls1.gamma", 1)
        y = dense(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
        y = dense(0.5 * y * (1 + erf(y / np.sqrt(2))), f"{block}.mlp.fc2")
        x = x + y * w.get(f"{block}.ls2.gamma", 1)
    x = norm(x, "norm")
    if "head.weight" not in w:
        return x[:, 0]
    if "dist_token" in w:
        return (dense(x[:, 0], "head") + dense(x[:, 1], "head_dist")) / 2
    return dense(x[:, 0] if "cls_token" in w else x[:, prefix:].mean(axis=1), "head")


def pictures(height=SIZE, width=SIZE):
    return np.random.default_rng(1).standard_normal((3, height, width, 3)).astype(np.float32)


TWO = ("cls_token", "dist_token")
# what it is -> (its weights, mean and std that they reveal)
MODELS = {
    "ViT": ({}, HALF),
    "ViT without biases": ({"bias": False}, HALF),
    "DeiT, distilled": ({"tokens": TWO}, IMAGENET),
    "DeiT-3": ({"scale": True, "rows": 0}, IMAGENET),
    "DINOv2": ({"scale": True}, IMAGENET),
    "DINOv2 with registers": ({"scale": True, "registers": 4, "rows": 0}, IMAGENET),
    "registers with positions": ({"registers": 4}, HALF),
    "mean of the patches": ({"tokens": (), "registers": 2, "rows": 0}, HALF),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_file_of_weights_computes_its_logits(tmp_path, kind, dtype):
    changes, normalised = MODELS[kind]
    tensors = {name: value.astype(dtype) for name, value in tensors_of(**changes).items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    model, report = interop.load(tmp_path / "weights.safetensors")
    expected = computed(tensors, pictures())
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(model(pictures()).numpy(), expected, atol=2e-5)
    assert not (report.resized or report.reset or report.dropped)
    assert model.preprocess.resize == "crop" and model.preprocess.interpolation == "bicubic"
    for name, values in normalised.items():
        np.testing.assert_allclose(getattr(model.preprocess, name), values)


def test_without_a_head_there_is_one_class(tmp_path):
    tensors = tensors_of(scale=True, head=False)
    save_file(tensors, tmp_path / "weights.safetensors")
    model, report = interop.load(tmp_path / "weights.safetensors")
    import tf_keras as keras

    features = keras.Model(model.input, model.get_layer("pool").output)(pictures())
    np.testing.assert_allclose(features.numpy(), computed(tensors, pictures()), atol=2e-5)
    assert set(report.reset) == {"head/kernel", "head/bias"}


CONFIG = {
    "architecture": "vit_small_patch16_224",
    "num_classes": CLASSES,
    "global_pool": "token",
    "model_args": {"num_heads": 4},
    "pretrained_cfg": {
        "input_size": [3, SIZE, SIZE],
        "interpolation": "bilinear",
        "crop_pct": 0.8,
        "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "label_names": ["tench", "shark", "cock"],
    },
}


def write_folder(root, tensors=None, pretrained=(), **changes):
    """A folder of timm's; a value of None leaves out."""
    root.mkdir()
    config = {**CONFIG, **changes}
    config["pretrained_cfg"] = {**CONFIG["pretrained_cfg"], **dict(pretrained)}
    (root / "config.json").write_text(json.dumps(config))
    save_file(tensors or tensors_of(), root / "model.safetensors")
    return root


def test_a_folder_says_heads_preprocessing_and_labels(tmp_path):
    model, _ = interop.load(write_folder(tmp_path / "there"))
    expected = computed(tensors_of(), pictures(), heads=4)
    np.testing.assert_allclose(model(pictures()).numpy(), expected, atol=2e-5)
    assert model.labels == ("tench", "shark", "cock")
    spec = model.preprocess
    assert (spec.crop_fraction, spec.interpolation, spec.resize) == (0.8, "bilinear", "crop")
    np.testing.assert_allclose(spec.mean, (25.5, 51, 76.5))
    np.testing.assert_allclose(spec.std, (102, 127.5, 153))


@pytest.mark.parametrize(
    "name, heads, activation",
    [
        ("vit_base_patch16_224", 2, "gelu"),
        ("vit_base_patch16_gap_224", 16, "gelu"),
        ("vit_base_patch32_siglip_gap_256", 2, "gelu_tanh"),
    ],
)
def test_what_weights_do_not_say_is_in_the_name(tmp_path, name, heads, activation):
    changes = {"model_args": None, "architecture": name, "global_pool": None}
    model, _ = interop.load(write_folder(tmp_path / "there", tensors_of(tokens=()), **changes))
    assert model.architecture.heads == heads
    assert model.architecture.activation == activation
    assert model.architecture.pooling == "gap"


def test_an_oblong_grid_is_that_of_the_input_size(tmp_path):
    folder = write_folder(tmp_path / "there", pretrained={"input_size": [3, 16, 64]})
    model, _ = interop.load(folder)
    expected = computed(tensors_of(), pictures(16, 64), heads=4)
    np.testing.assert_allclose(model(pictures(16, 64)).numpy(), expected, atol=2e-5)


GELU = {"activation": "gelu"}
EXPORTED = {
    "ViT": GELU,
    "oblong": {**GELU, "image_size": (24, 40), "qkv_bias": False},
    "gap": {**GELU, "pooling": "gap"},
    "gap with registers": {**GELU, "pooling": "gap", "registers": 2, "layer_scale": 1e-5},
    "distilled": {**GELU, "distillation_token": True},
    "registers": {**GELU, "registers": 3, "layer_scale": 1e-5},
}


@pytest.mark.parametrize("kind", EXPORTED)
def test_what_is_exported_computes_the_same_and_comes_back(tmp_path, kind):
    fields = dict(EXPORTED[kind])
    model = small(CLASSES, fields.pop("image_size", SIZE), **fields)
    folder = tmp_path / "there"
    interop.save(model, "timm", folder)
    tensors = parse((folder / "model.safetensors").read_bytes())
    images = pictures(*model.architecture.image_size)
    expected = computed(tensors, images, heads=3)
    np.testing.assert_allclose(model(images).numpy(), expected, atol=2e-5)
    again, report = interop.load(folder)
    assert not (report.resized or report.reset or report.dropped or report.not_finite)
    for one, other in zip(model.weights, again.weights):
        assert one.name == other.name
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert again.labels == model.labels
    changed = {"name": "", "position_interpolation": "bicubic"}  # these are not kept
    kept = dataclasses.replace(model.architecture, **changed)
    assert dataclasses.replace(again.architecture, **changed) == kept
    for field in ("resize", "interpolation", "mean", "std"):
        assert getattr(again.preprocess, field) == getattr(model.preprocess, field)


ONES = np.ones(WIDTH, np.float32)
# what is wrong -> (weights, config, part of the message)
BAD = {
    "fc_norm": ({"fc_norm.weight": ONES}, {}, "a norm after the pooling is not supported"),
    "norm_pre": ({"norm_pre.weight": ONES}, {}, "a norm before the first block is not supported"),
    "attention pooling": ({"attn_pool.latent": ONES}, {}, "attention pooling is not supported"),
    "SwiGLU": ({"blocks.0.mlp.fc1_g.weight": ONES}, {}, "an MLP with SwiGLU is not supported"),
    "packed SwiGLU": (
        {"blocks.0.mlp.fc1.weight": np.ones((2 * MLP, WIDTH), np.float32)},
        *({}, "an MLP with SwiGLU is not supported"),
    ),
    "norm of queries": ({"blocks.1.attn.q_norm.weight": ONES}, {}, "queries and keys"),
    "leftover": ({"decoder.weight": ONES}, {}, "decoder.weight is not a weight"),
    "depth": ({f"blocks.{10**12}.norm1.bias": ONES}, {}, "blocks before blocks.1000000000000 are"),
    "missing": ({"blocks.1.norm2.bias": None}, {}, "weight blocks.1.norm2.bias is missing"),
    "no positions": ({"pos_embed": None}, {}, "pos_embed of 0 tokens"),
    "odd positions": ({"pos_embed": np.ones((1, 19, WIDTH))}, {}, "pos_embed of 19 tokens"),
    "shape": ({"norm.bias": ONES[:3]}, {}, "weight norm.bias is (3,); norm/beta"),
    "grey": ({"patch_embed.proj.weight": np.ones((WIDTH, 1, 8, 8))}, {}, "patches of 1 channels"),
    "patches of two axes": ({"patch_embed.proj.weight": np.ones((9, 9))}, {}, "no convolution"),
    "architecture": ({}, {"architecture": "resnet50"}, "resnet50 is not a ViT or DeiT"),
    "argument": ({}, {"model_args": {"pre_norm": True}}, "model_args pre_norm True"),
    "pooling": ({}, {"global_pool": "avg"}, "global_pool 'avg' is not supported"),
    "activation": ({}, {"model_args": {"act_layer": "silu"}}, "act_layer 'silu'"),
    "heads": ({}, {"model_args": {"num_heads": 5}}, "not divisible by heads 5"),
    "interpolation": ({}, {"pretrained": {"interpolation": "lanczos"}}, "interpolation 'lanczos'"),
    "crop mode": ({}, {"pretrained": {"crop_mode": "border"}}, "crop_mode 'border'"),
    "squash": ({}, {"pretrained": {"crop_mode": "squash"}}, "crop_pct 0.8, which is not 1"),
    "labels": ({}, {"pretrained": {"label_names": ["a"]}}, "1 label_names for 3 classes"),
    "size": ({}, {"pretrained": {"input_size": "big"}}, "config.json: damaged"),
    "size of two": ({}, {"pretrained": {"input_size": [3, 32]}}, "config.json: damaged"),
    "mean": ({}, {"pretrained": {"mean": [1]}}, "mean must be three numbers"),
}


@pytest.mark.parametrize("weights, config, message", BAD.values(), ids=BAD)
def test_what_is_not_understood_is_one_line(tmp_path, tfvit_cli, weights, config, message):
    tensors = {**tensors_of(), **weights}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    assert_refused(tfvit_cli, write_folder(tmp_path / "there", tensors, **config), message)


DAMAGE = {
    "cut": (lambda f: f.write_bytes(f.read_bytes()[:-100]), "damaged"),
    "no safetensors": (lambda f: f.write_bytes(b"GIF89a" * 99), "damaged"),
    "4 GB of zeros declared": (
        lambda f: write_raw(f, {"pos_embed": ("F32", [2**30], 2**32)}, bytes(16)),
        "damaged",
    ),
    "a header without end": (lambda f: f.write_bytes((2**62).to_bytes(8, "little")), "damaged"),
    "gone": (lambda f: f.unlink(), "no model.safetensors inside"),
    "pickle": (
        lambda f: f.rename(f.with_name("pytorch_model.bin")),
        "pytorch_model.bin may hold code and is not read",
    ),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_one_line(tmp_path, tfvit_cli, damage, message):
    folder = write_folder(tmp_path / "there")
    damage(folder / "model.safetensors")
    assert_refused(tfvit_cli, folder, message)


@pytest.mark.parametrize("kind", ["cut", "no safetensors", "a header without end"])
def test_a_damaged_file_is_one_line(tmp_path, tfvit_cli, kind):
    path = tmp_path / "weights.safetensors"
    save_file(tensors_of(), path)
    DAMAGE[kind][0](path)
    assert_refused(tfvit_cli, path, "weights.safetensors: damaged")


def test_values_that_are_no_numbers_are_a_warning(tmp_path, tfvit_cli):
    path = tmp_path / "weights.safetensors"
    save_file({**tensors_of(), "norm.bias": ONES * np.nan}, path)
    done = tfvit_cli("import", path, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "warning  norm/beta holds values that are no numbers" in done.out


def assert_refused(tfvit_cli, path, message):
    out = path.with_name("out")
    done = tfvit_cli("import", path, "--out", out)
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not out.exists()
