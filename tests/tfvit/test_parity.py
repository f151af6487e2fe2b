"""transformers and timm compute what we compute: with their weights here, and with ours there.

They have an environment of their own, which `make parity` builds; `torch_client.py` runs there. Another
Python that has them is named by TORCH_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras
from small_models import small

from tfvit import interop

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("TORCH_PYTHON", ROOT / ".venv-torch/bin/python"))
CLIENT = Path(__file__).with_name("torch_client.py")
LIMIT = 2e-5  # of the spread of the logits

CONFIG = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
VIT = {**CONFIG, "intermediate_size": 96, "num_labels": 5}
DINO = {**CONFIG, "mlp_ratio": 2}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
TIMM |= {"mlp_ratio": 2, "num_classes": 5}
DEIT3 = {"no_embed_class": True, "init_values": 1e-6}
# name: (class, configuration, name of timm's)
THEIRS = {
    "ViT": ("ViTForImageClassification", VIT, None),
    "ViT, oblong": ("ViTForImageClassification", {**VIT, "image_size": [16, 40]}, None),
    "ViT, no biases": ("ViTForImageClassification", {**VIT, "qkv_bias": False}, None),
    "ViT, tanh GELU": ("ViTForImageClassification", {**VIT, "hidden_act": "gelu_new"}, None),
    "ViT, no head": ("ViTModel", VIT, None),
    "DeiT": ("DeiTForImageClassification", VIT, None),
    "DeiT with teacher": ("DeiTForImageClassificationWithTeacher", VIT, None),
    "DINOv2": ("Dinov2Model", DINO, None),
    "DINOv2, classifier": ("Dinov2ForImageClassification", {**DINO, "num_labels": 5}, None),
    "DINOv2 with registers, classifier": (
        *("Dinov2WithRegistersForImageClassification",),
        {**DINO, "num_register_tokens": 3, "num_labels": 5},
        None,
    ),
    "DINOv2 with registers": ("Dinov2WithRegistersModel", {**DINO, "num_register_tokens": 3}, None),
    "timm ViT": ("timm", TIMM, "vit_tiny_patch16_224"),
    "timm ViT, no biases": ("timm", {**TIMM, "qkv_bias": False}, "vit_tiny_patch16_224"),
    "timm ViT, no head": ("timm", {**TIMM, "num_classes": 0}, "vit_tiny_patch16_224"),
    "timm gap": ("timm", TIMM, "vit_medium_patch16_gap_256"),
    "timm registers with positions": ("timm", {**TIMM, "reg_tokens": 2}, "vit_tiny_patch16_224"),
    "timm DeiT distilled": ("timm", TIMM, "deit_tiny_distilled_patch16_224"),
    "timm DeiT-3": ("timm", {**TIMM, **DEIT3}, "deit3_small_patch16_224"),
    "timm DINOv2": ("timm", TIMM, "vit_small_patch14_dinov2"),
    "timm DINOv2 reg4": ("timm", TIMM, "vit_small_patch14_reg4_dinov2"),
}
# name of theirs: a size to resize its positions to
RESIZED = {
    "ViT": (48, 24),
    "DeiT with teacher": (24, 48),
    "DINOv2": (16, 64),  # as many patches in another shape
    "DINOv2 with registers": (48, 16),
    "timm ViT": (64, 16),
    "timm DeiT distilled": (48, 48),
    "timm DINOv2 reg4": (16, 48),
}
ERF = {"activation": "gelu"}
SCALED = {**ERF, "layer_scale": 1.0}
# name: (class, format, fields of our model)
OURS = {
    "ViT": ("ViTForImageClassification", "huggingface", {}),
    "ViT, square": ("ViTForImageClassification", "huggingface", {"image_size": 32, **ERF}),
    "DeiT": ("DeiTForImageClassification", "huggingface", {"registers": 1}),
    "DeiT with teacher": (
        *("DeiTForImageClassificationWithTeacher", "huggingface"),
        {"distillation_token": True, "qkv_bias": False},
    ),
    "DINOv2": ("Dinov2ForImageClassification", "huggingface", {"image_size": 32, **SCALED}),
    "DINOv2 with registers": (
        *("Dinov2WithRegistersForImageClassification", "huggingface"),
        {"image_size": 32, "registers": 3, **SCALED},
    ),
    "DINOv2, cls+gap": (
        *("Dinov2ForImageClassification", "huggingface"),
        {"image_size": 32, "pooling": "cls+gap", **SCALED},
    ),
    "DINOv2 with registers, cls+gap": (
        *("Dinov2WithRegistersForImageClassification", "huggingface"),
        {"image_size": 32, "registers": 3, "pooling": "cls+gap", **SCALED},
    ),
    "timm ViT": ("timm", "timm", {}),
    "timm gap": ("timm", "timm", {"pooling": "gap", **ERF}),
    "timm gap with registers": ("timm", "timm", {"pooling": "gap", "registers": 2, "mlp_dim": 100}),
    "timm DeiT distilled": ("timm", "timm", {"distillation_token": True, **ERF}),
    "timm DINOv2 with registers": ("timm", "timm", {"registers": 3, "qkv_bias": False, **SCALED}),
}


def pictures(height, width):
    rng = np.random.default_rng(1)
    return rng.standard_normal((4, height, width, 3)).astype(np.float32)


def run_client(folder: Path, jobs: dict) -> dict[str, np.ndarray]:
    """Name -> what the client computes of each job."""
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON}: `make parity` builds it")
    work = []
    for i, job in enumerate(jobs.values()):
        images = folder / f"images{i}.npy"
        np.save(images, pictures(*job.pop("size")).transpose(0, 3, 1, 2))
        work.append({**job, "images": str(images), "logits": str(folder / f"logits{i}.npy")})
    (folder / "jobs.json").write_text(json.dumps(work))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [PYTHON, CLIENT, folder / "jobs.json"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    print(done.stdout.splitlines()[-1])
    return {name: np.load(job["logits"]) for name, job in zip(jobs, work)}


def named_folder(root: Path, name: str) -> str:
    return str(root / name.replace(" ", "-").replace(",", ""))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Name -> a folder that their library wrote, and what it computes."""
    root = tmp_path_factory.mktemp("theirs")
    jobs = {}
    for name, (kind, config, architecture) in THEIRS.items():
        size = config.get("image_size") or config["img_size"]
        job = {"class": kind, "config": config, "size": (size, size) if size == 32 else size}
        jobs[name] = {**job, "name": architecture, "folder": named_folder(root, name)}
    folders = {name: Path(job["folder"]) for name, job in jobs.items()}
    return {name: (folders[name], found) for name, found in run_client(root, jobs).items()}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Name -> a model of ours, the folder it was exported to, and what their library computes of it."""
    root = tmp_path_factory.mktemp("ours")
    models, jobs = {}, {}
    for name, (kind, format_, fields) in OURS.items():
        model = small(**fields)
        folder = named_folder(root, name)
        interop.save(model, format_, Path(folder))
        models[name] = model, Path(folder)
        jobs[name] = {"class": kind, "folder": folder, "size": model.architecture.image_size}
    return {name: (*models[name], found) for name, found in run_client(root, jobs).items()}


@pytest.fixture(scope="module")
def resized(tmp_path_factory, theirs):
    """Name -> what their library computes at another size."""
    jobs = {
        name: {
            "class": THEIRS[name][0],
            "folder": str(theirs[name][0]),
            "size": size,
            "resize": True,
        }
        for name, size in RESIZED.items()
    }
    return run_client(tmp_path_factory.mktemp("resized"), jobs)


def assert_same(name, found, expected):
    spread = np.ptp(expected)
    difference = np.abs(found - expected).max() / spread
    print(f"{name}: {difference:.1e} of the spread {spread:.2f}")
    assert expected.std(axis=0).min() > 1e-3 * spread  # the pictures matter, in every class
    assert difference < LIMIT


def computed(folder, size):
    """What our model of a folder computes, features without a head, and what became of its weights."""
    if not (folder / "preprocessor_config.json").exists():
        values = {"image_processor_type": "ViTImageProcessor", "size": 32}
        values |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
    model, report = interop.load(folder, size)
    headless = "head/kernel" in report.reset
    output = model.get_layer("pool").output if headless else model.output
    return keras.Model(model.input, output)(pictures(*size)).numpy(), report


@pytest.mark.parametrize("name", THEIRS)
def test_their_model_computes_the_same_here(theirs, name):
    folder, expected = theirs[name]
    kind, config, _ = THEIRS[name]
    size = config.get("image_size", 32)
    found, report = computed(folder, (size, size) if size == 32 else tuple(size))
    assert_same(name, found, expected)
    assert ("head/kernel" in report.reset) == ("no head" in name or kind.endswith("Model"))
    assert not report.resized


@pytest.mark.parametrize("name", RESIZED)
def test_their_model_computes_the_same_at_another_size(theirs, resized, name):
    found, report = computed(theirs[name][0], RESIZED[name])
    assert_same(name, found, resized[name])
    assert "position/embedding" in report.resized


@pytest.mark.parametrize("name", OURS)
def test_our_model_computes_the_same_there(ours, name):
    model, _, found = ours[name]
    expected = model(pictures(*model.architecture.image_size)).numpy()
    assert_same(name, found, expected)


@pytest.mark.parametrize("name", OURS)
def test_our_model_comes_back_to_the_bit(ours, name):
    model, folder, _ = ours[name]
    again, report = interop.load(folder)
    for one, other in zip(model.weights, again.weights):
        assert one.name == other.name
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert not (report.resized or report.reset)
    assert all(name.endswith("mask_token") for name in report.dropped)
