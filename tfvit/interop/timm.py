"""timm's ViT, AugReg, DeiT, DeiT-3 and DINOv2: a .safetensors, or a hub folder with config.json beside it.

Source: huggingface/pytorch-image-models, timm/models/{vision_transformer,deit}.py (names and layouts).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from edge_demo.files import decoding, read_json, sha256, write_json
from tfvit import checkpoint
from tfvit.architecture import Architecture
from tfvit.files import atomic_folder
from tfvit.interop import timm_config as configs
from tfvit.interop.imported import Imported
from tfvit.interop.table import Row, convolution, dense, norm, to_ours, to_theirs
from tfvit.model import Model, named_weights, weight_shapes

CONFIG, WEIGHTS = "config.json", "model.safetensors"
POSITION, REGISTERS = "pos_embed", "reg_token"
NOT_READ = ("pytorch_model.bin", "model.pth", "model.bin")


def rows(arch: Architecture, head: bool) -> list[Row]:
    """The table of a model; its positions as ours are, a row for each class token and patch."""
    found = [Row(POSITION, "position/embedding")]
    found += [Row("cls_token", "cls/token")] if arch.pooling == "cls" else []
    found += [Row("dist_token", "distillation/token")] if arch.distillation_token else []
    found += [Row(REGISTERS, "registers/token")] if arch.registers else []
    found += convolution("patch_embed.proj", "embedding")
    for i in range(arch.depth):
        theirs, ours = f"blocks.{i}", f"block_{i}"
        parts = [f"{ours}/attention/{part}" for part in ("query", "key", "value")]
        found.append(Row(f"{theirs}.attn.qkv.weight", tuple(f"{p}/kernel" for p in parts), (1, 0)))
        if arch.qkv_bias:
            found.append(Row(f"{theirs}.attn.qkv.bias", tuple(f"{p}/bias" for p in parts)))
        found += dense(f"{theirs}.attn.proj", f"{ours}/attention/out")
        for j, branch in ((1, "attention"), (2, "mlp")):
            found += norm(f"{theirs}.norm{j}", f"{ours}/norm_{j}")
            found += dense(f"{theirs}.mlp.fc{j}", f"{ours}/mlp/dense_{j}")
            if arch.layer_scale is not None:
                found.append(Row(f"{theirs}.ls{j}.gamma", f"{ours}/{branch}/layer_scale/gamma"))
    found += norm("norm", "norm")
    for theirs, ours in (("head", "head"), ("head_dist", "head_distillation")):
        if head and (ours == "head" or arch.distillation_token):
            found += dense(theirs, ours)
    return found


def read(path: Path) -> Imported:
    """The model of a .safetensors with timm's names, or of a folder with config.json.

    Without config.json, heads, GELU and preprocessing are what `timm_config` takes them to be. A class
    token without a position has one of zero here, and a register with one has it added: both exact.
    Raises UserError for whatever is missing, damaged or not understood.
    """
    config, weights, where = {}, path, path
    if path.is_dir():
        config, weights = read_json(path / CONFIG, "timm model"), path / WEIGHTS
        where = path / CONFIG
        if not weights.exists():
            others = [name for name in NOT_READ if (path / name).exists()]
            there = f" ({others[0]} may hold code and is not read)" if others else ""
            raise UserError(f"{path}: no {WEIGHTS} inside{there}")
    tensors = checkpoint.read_tensors(weights)
    with decoding(where):
        shapes = {name: value.shape for name, value in tensors.items()}
        arch, with_class = configs.architecture(shapes, config)
        spec = configs.preprocess(arch, config)
        names = (config.get("pretrained_cfg") or {}).get("label_names")
        labels = tuple(map(str, names or range(arch.num_classes)))
        if len(labels) != arch.num_classes:
            raise UserError(f"{len(labels)} label_names for {arch.num_classes} classes")
        _to_our_positions(arch, tensors, with_class)
    table = rows(arch, "head.weight" in tensors)
    left = sorted(tensors.keys() - {row.theirs for row in table})
    if left:
        raise UserError(f"{weights}: {left[0]} is not a weight of a ViT of timm")
    return Imported(
        architecture=arch,
        preprocess=spec,
        labels=labels,
        weights=to_ours(table, tensors, weight_shapes(arch).__getitem__, str(weights)),
        reset={},
        dropped={},
        origin={
            "source": str(path),
            "format": "timm",
            "model_type": str(config.get("architecture", "of its weights")),
            "file": weights.name,
            "sha256": sha256(weights),
        },
    )


def write(model: Model, folder: Path) -> None:
    """Writes a folder that timm loads: `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    `read` gives the same weights, to the bit. `position_interpolation` is lost: timm has one of its own.
    Raises UserError, naming the field, for what timm does not have, or if the disk refuses.
    """
    arch = model.architecture
    if not isinstance(arch, Architecture):
        raise UserError(f"timm's ViT cannot hold {arch.name}: it is no Vision Transformer")
    config = configs.config_of(arch, model.preprocess, model.labels)
    weights = {name: w.numpy() for name, w in named_weights(model).items()}
    tensors = to_theirs(rows(arch, head=True), weights)
    if arch.pooling == "cls" and arch.registers:  # they have positions there
        rows_of = np.repeat(arch.class_tokens, arch.registers)
        tensors[POSITION] = np.insert(tensors[POSITION], rows_of, 0, axis=1)
    from safetensors.numpy import save_file

    with atomic_folder(folder) as temporary:
        write_json(temporary / CONFIG, config)
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def _to_our_positions(arch: Architecture, tensors: dict[str, np.ndarray], with_class: bool) -> None:
    """Gives each class token and patch a row of the positions, and no register."""
    position = tensors[POSITION].astype(np.float32)
    if not with_class:
        none = np.zeros((1, arch.class_tokens, arch.width), np.float32)
        tensors[POSITION] = np.concatenate([none, position], 1)
    elif arch.registers:
        classes, registers, patches = np.split(
            position, [arch.class_tokens, arch.prefix_tokens], axis=1
        )
        tensors[REGISTERS] = tensors[REGISTERS].astype(np.float32) + registers
        tensors[POSITION] = np.concatenate([classes, patches], 1)
