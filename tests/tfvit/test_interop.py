"""Whose a file is shows in its content; what may hold code is never opened."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile

import numpy as np
import pytest
from huggingface_folders import CLASSES, SIZE, tensors_of, write_folder
from safetensors.numpy import save_file
from small_models import small

from edge_demo.errors import UserError
from tfvit import checkpoint, interop


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def torch_zip(trap):
    """As torch.save writes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(trap))
    return content.getvalue()


CODE = {
    "model.pth": lambda trap: b"anything",
    "model.PT": lambda trap: b"anything",
    "pytorch_model.bin": torch_zip,
    "model.ckpt": pickle.dumps,
    "model.pkl": lambda trap: pickle.dumps(trap, protocol=0),
    "renamed.safetensors": pickle.dumps,
    "renamed.npz": torch_zip,
    "no-suffix": pickle.dumps,
}


@pytest.mark.parametrize("name", CODE)
def test_what_may_hold_code_is_not_read(tmp_path, name):
    (tmp_path / name).write_bytes(CODE[name](Trap(tmp_path / "ran")))
    with pytest.raises(UserError, match=f"{name}: may hold code and is not read"):
        interop.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_ours_needs_no_import(tmp_path):
    checkpoint.save(small(), tmp_path / "run/best")
    for path in (tmp_path / "run/best", tmp_path / "run"):
        with pytest.raises(UserError, match="needs no import"):
            interop.load(path)


def write_text(path):
    path.write_text("hello")


def write_config(path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"hidden_size": 3}))


def write_gpt(path):
    save_file({"wte.weight": np.zeros((2, 2), np.float32)}, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").rename(path)


def write_only_weights(path):
    write_folder(path.with_name("whole"), "vit", tensors_of("vit", prefix="vit."))
    (path.with_name("whole") / "model.safetensors").rename(path)


def write_deep_json(path):
    path.mkdir()
    (path / "config.json").write_text("[" * 100_000)


def write_deep_header(path):
    path.write_bytes((100_000).to_bytes(8, "little") + b'{"a":' * 20_000)


UNKNOWN = {
    "text": (write_text, "unknown content; known are Google's .npz, a Hugging Face folder, timm's"),
    "nothing": (lambda path: None, "no such file or folder"),
    "empty folder": (lambda path: path.mkdir(), "no config.json inside"),
    "empty file": (lambda path: path.touch(), "unknown content"),
    "other config": (write_config, "neither model_type nor architecture"),
    "other weights": (write_gpt, "unknown weights (wte.weight, ...)"),
    "weights of a folder": (write_only_weights, "give the folder with config.json beside them"),
    "deep JSON": (write_deep_json, "config.json: damaged (nested too deeply)"),
    "deep header": (write_deep_header, "damaged"),
}


@pytest.mark.parametrize("write, message", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_content_is_one_line_that_says_what_is_known(tmp_path, tfvit_cli, write, message):
    write(tmp_path / "there")
    done = tfvit_cli("import", tmp_path / "there", "--out", tmp_path / "out")
    assert done.code == 2, done.out
    assert message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["huggingface", "timm"])
def test_export_and_import_are_commands(tmp_path, tfvit_cli, name):
    checkpoint.save(small(name="vit-ti/8"), tmp_path / "run/best")
    done = tfvit_cli("export", tmp_path / "run", "--format", name, "--out", tmp_path / "there")
    assert done.code == 0, done.err
    done = tfvit_cli("import", tmp_path / "there", "--out", tmp_path / "back")
    assert done.code == 0, done.err
    one, other = (checkpoint.load(tmp_path / path) for path in ("run/best", "back"))
    for a, b in zip(one.weights, other.weights):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    done = tfvit_cli("export", tmp_path / "run", "--format", name, "--out", tmp_path / "there")
    assert done.code == 2
    assert "exists already" in done.err


def test_an_unknown_format_is_one_line(tmp_path):
    with pytest.raises(UserError, match="format 'onnx' is not one of google-npz, huggingface"):
        interop.save(small(), "onnx", tmp_path / "there")


# what a format cannot hold, as the message names it -> a model that has it
NOT_HELD = {
    "huggingface": {
        "stem": {"name": "r+vit-ti/16", "image_size": 64},
        "position 'sincos_2d'": {"position": "sincos_2d"},
        "pooling 'gap'": {"pooling": "gap"},
        "pooling 'cls+gap'": {"pooling": "cls+gap"},
        "pooling 'map'": {"pooling": "map", "layer_scale": 1.0},
        "representation_size 20": {"representation_size": 20},
        "registers 2": {"registers": 2},
        "distillation_token True": {"distillation_token": True, "layer_scale": 1.0},
        "mlp_dim 100": {"mlp_dim": 100, "layer_scale": 1.0},
        "image_size (24, 40)": {"layer_scale": 1.0, "image_size": (24, 40)},
    },
    "timm": {
        "stem": {"name": "r+vit-ti/16", "image_size": 64},
        "position 'none'": {"position": "none"},
        "pooling 'map'": {"pooling": "map"},
        "pooling 'cls+gap'": {"pooling": "cls+gap"},
        "representation_size 20": {"representation_size": 20},
        "layer_norm_epsilon 1e-12": {"layer_norm_epsilon": 1e-12},
        "registers 2": {"registers": 2, "distillation_token": True},
    },
}


@pytest.mark.parametrize("name, field", [(n, field) for n in NOT_HELD for field in NOT_HELD[n]])
def test_what_a_format_cannot_hold_is_one_line_that_names_it(tmp_path, name, field):
    fields = dict(NOT_HELD[name][field])
    model = small(CLASSES, fields.pop("image_size", SIZE), **fields)
    with pytest.raises(UserError, match=f"cannot hold {re.escape(field)}"):
        interop.save(model, name, tmp_path / "there")
    assert not (tmp_path / "there").exists()
