"""Hugging Face folders that are damaged, or not understood: one line that says so, and nothing written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from huggingface_folders import (
    QUERY,
    shard,
    tensors_of,
    write_raw,
)

# what is wrong -> (kind, weights, config, processor, part of the message)
BAD = {
    "other model": ("vit", {}, {"model_type": "swin"}, {}, "model_type 'swin' is not one of vit"),
    "model type of a list": ("vit", {}, {"model_type": []}, {}, "model_type [] is not one of"),
    "no model type": ("vit", {}, {"model_type": None}, {}, "neither model_type nor architecture"),
    "no registers": (
        *("dinov2", {}, {"model_type": "dinov2_with_registers"}, {}),
        "embeddings.register_tokens is missing",
    ),
    "SwiGLU": ("dinov2", {}, {"use_swiglu_ffn": True}, {}, "use_swiglu_ffn"),
    "activation": ("vit", {}, {"hidden_act": "quick_gelu"}, {}, "hidden_act 'quick_gelu'"),
    "channels": ("vit", {}, {"num_channels": 1}, {}, "num_channels 1 is not 3"),
    "no width": ("vit", {}, {"hidden_size": None}, {}, "'hidden_size' is missing"),
    "width of letters": ("vit", {}, {"hidden_size": "48"}, {}, "config.json: "),
    "another depth": ("vit", {}, {"num_hidden_layers": 3}, {}, "encoder.layer.2"),
    "endless depth": ("vit", {}, {"num_hidden_layers": 10**12}, {}, "encoder.layer.999999999999."),
    "endless width": (
        "vit",
        {},
        {"hidden_size": 3 * 2**40},
        {},
        "config.json: damaged",
    ),
    "endless MLP": ("vit", {}, {"intermediate_size": 2**40}, {}, "takes (1099511627776, 48)"),
    "less depth": ("vit", {}, {"num_hidden_layers": 1}, {}, "encoder.layer.1"),
    "another width": ("vit", {}, {"hidden_size": 60}, {}, "is (1, 1, 48); cls/token"),
    "another patch": ("vit", {}, {"patch_size": 16}, {}, "takes (1, 5, 48)"),
    "another MLP": ("vit", {}, {"intermediate_size": 90}, {}, "takes (90, 48)"),
    "labels missing": (
        "vit",
        {},
        {"id2label": {"0": "a", "1": "b"}},
        {},
        "classifier.weight is (3, 48); head/kernel",
    ),
    "labels uncounted": ("vit", {}, {"id2label": {"1": "a", "2": "b"}}, {}, "'0' is missing"),
    "missing weight": ("vit", {QUERY: None}, {}, {}, f"{QUERY} is missing"),
    "leftover": ("vit", {"decoder.0.weight": np.ones(3)}, {}, {}, "decoder.0.weight is not a"),
    "axes": ("vit", {QUERY: np.ones(3)}, {}, {}, f"{QUERY} is (3,)"),
    "processor": (
        *("vit", {}, {}, {"image_processor_type": "CLIPImageProcessor"}),
        "CLIPImageProcessor is not one of",
    ),
    "unknown step": ("vit", {}, {}, {"do_pad": True}, "do_pad True is not understood"),
    "no resize": ("vit", {}, {}, {"do_resize": False}, "do_resize is false"),
    "filter": ("vit", {}, {}, {"resample": 1}, "resample 1 is neither"),
    "no mean": ("vit", {}, {}, {"image_mean": None}, "'image_mean' is missing"),
    "mean of two": ("vit", {}, {}, {"image_mean": [1, 2]}, "mean must be three numbers"),
    "no crop": ("dinov2", {}, {}, {"do_center_crop": False}, "not cropped"),
    "oblong crop": ("dinov2", {}, {}, {"crop_size": {"height": 32, "width": 40}}, "neither an"),
    "crop of a square": ("vit", {}, {}, {"do_center_crop": True, "crop_size": 24}, "neither an"),
    "crop too large": ("dinov2", {}, {}, {"crop_size": 48}, "crop_fraction 1.2"),
    "factor 0": ("vit", {}, {}, {"rescale_factor": 0}, "preprocessor_config.json: damaged"),
}


@pytest.mark.parametrize("kind, tensors, config, processor, message", BAD.values(), ids=BAD)
def test_what_is_not_understood_is_one_line(
    write, tmp_path, tfvit_cli, kind, tensors, config, processor, message
):
    tensors = {**tensors_of(kind), **tensors}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    folder = write(kind, tensors, config, processor)
    assert_refused(tfvit_cli, folder, tmp_path / "out", message)


def break_json(folder):
    (folder / "config.json").write_text("{")


def lose_shard(folder):
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def shard_outside(folder):
    shard(folder)
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def declare_zeros(folder):
    header = {"a": ("F32", [2**30], 2**32)}
    write_raw(folder / "model.safetensors", header, bytes(16))


def endless_header(folder):
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def wrong_type(folder):
    write_raw(folder / "model.safetensors", {"a": ("F8_E4M3", [1], 1)}, b"0")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json inside"),
    "config of text": (break_json, "config.json: damaged"),
    "config of a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: damaged"),
    "no processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "no preprocessor_config.json inside",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors inside"),
    "a lost part": (lose_shard, "no model-00002-of-00002.safetensors inside"),
    "a part elsewhere": (shard_outside, "secret.safetensors lies outside of the folder"),
    "4 GB of zeros declared": (declare_zeros, "model.safetensors: damaged"),
    "a header without end": (endless_header, "model.safetensors: damaged"),
    "no safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"GIF89a" * 99),
        "model.safetensors: damaged",
    ),
    "a type of eight bits": (wrong_type, "F8_E4M3, which is not supported"),
    "pickle": (pickled, "pytorch_model.bin may hold code and is not read"),
    "half the weights": (cut, "model.safetensors: damaged"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_one_line(write, tmp_path, tfvit_cli, damage, message):
    folder = write("vit", tensors_of("vit"))
    damage(folder)
    assert_refused(tfvit_cli, folder, tmp_path / "out", message)


def test_a_folder_that_is_not_there_is_one_line(tmp_path, tfvit_cli):
    assert_refused(
        tfvit_cli, tmp_path / "nowhere", tmp_path / "out", "nowhere: no such file or folder"
    )


def test_a_size_that_the_patch_does_not_divide_is_one_line(write, tmp_path, tfvit_cli):
    folder = write("vit", tensors_of("vit"))
    message = "image size 30x30 is not divisible by the patch size 8"
    assert_refused(tfvit_cli, folder, tmp_path / "out", message, "--image-size", "30")


def test_nothing_is_overwritten(write, tmp_path, tfvit_cli):
    folder = write("vit", tensors_of("vit"))
    (tmp_path / "out").mkdir()
    done = tfvit_cli("import", folder, "--out", tmp_path / "out")
    assert done.code == 2
    assert "exists already" in done.err
    assert not list((tmp_path / "out").iterdir())


def assert_refused(tfvit_cli, folder, out, message, *options):
    done = tfvit_cli("import", folder, "--out", out, *options)
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not out.exists()
