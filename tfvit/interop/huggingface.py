"""Hugging Face folders of a ViT, DeiT or DINOv2: config.json, preprocessor_config.json, model.safetensors.

Source: huggingface/transformers, models/{vit,deit,dinov2,dinov2_with_registers}, modeling.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from edge_demo.files import decoding, read_json, sha256, write_json
from tfvit import checkpoint
from tfvit.architecture import Architecture
from tfvit.files import atomic_folder
from tfvit.interop import huggingface_config as configs
from tfvit.interop.imported import Imported
from tfvit.interop.table import Row, convolution, dense, norm, to_ours, to_theirs
from tfvit.model import Model, named_weights, weight_shapes

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
REGISTERS = Row("embeddings.register_tokens", "registers/token")
DISTILLATION = Row("embeddings.distillation_token", "distillation/token")
POSITION = "embeddings.position_embeddings"
UNUSED = ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")


@dataclasses.dataclass(frozen=True)
class Family:
    """What the model types have their own names for.

    norms, mlp: names in a block. scales: of the LayerScale. heads: dense layers, by how many we have.
    classes: names in transformers without a head, with one and with two.
    """

    norms: tuple[str, str]
    mlp: tuple[str, str]
    scales: tuple[str, ...]
    heads: tuple[tuple[str, ...], ...]
    classes: tuple[str, ...]


LAYERNORMS = ("layernorm_before", "layernorm_after")
MLP = ("intermediate.dense", "output.dense")
SCALES = ("layer_scale1.lambda1", "layer_scale2.lambda1")
ONE = ((), ("classifier",))
TWO = (*ONE, ("cls_classifier", "distillation_classifier"))
VIT = ("ViTModel", "ViTForImageClassification")
DEIT = ("DeiTModel", "DeiTForImageClassification", "DeiTForImageClassificationWithTeacher")
DINO = ("Dinov2Model", "Dinov2ForImageClassification")
DINO_REGISTERS = ("Dinov2WithRegistersModel", "Dinov2WithRegistersForImageClassification")
FAMILIES = {
    "vit": Family(LAYERNORMS, MLP, (), ONE, VIT),
    "deit": Family(LAYERNORMS, MLP, (), TWO, DEIT),
    "dinov2": Family(("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"), SCALES, ONE, DINO),
    "dinov2_with_registers": Family(
        ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"), SCALES, ONE, DINO_REGISTERS
    ),
}


def rows(kind: str, arch: Architecture, prefix: str, heads: int) -> list[Row]:
    """The table of a model. prefix: of all names but the heads'. heads: how many there are."""
    family, bias = FAMILIES[kind], arch.qkv_bias
    body = [Row("embeddings.cls_token", "cls/token"), Row(POSITION, "position/embedding")]
    body += [REGISTERS] if arch.registers else []
    body += [DISTILLATION] if arch.distillation_token else []
    body += convolution("embeddings.patch_embeddings.projection", "embedding")
    for i in range(arch.depth):
        layer, block = f"encoder.layer.{i}", f"block_{i}"
        for j in range(2):
            body += norm(f"{layer}.{family.norms[j]}", f"{block}/norm_{j + 1}")
            body += dense(f"{layer}.{family.mlp[j]}", f"{block}/mlp/dense_{j + 1}")
        for part in ("query", "key", "value"):
            attention = f"{layer}.attention.attention.{part}"
            body += dense(attention, f"{block}/attention/{part}", bias)
        body += dense(f"{layer}.attention.output.dense", f"{block}/attention/out")
        for name, branch in zip(family.scales, ("attention", "mlp")):
            body.append(Row(f"{layer}.{name}", f"{block}/{branch}/layer_scale/gamma"))
    body += norm("layernorm", "norm")
    found = [dataclasses.replace(row, theirs=prefix + row.theirs) for row in body]
    for theirs, ours in zip(family.heads[heads], ("head", "head_distillation")):
        found += dense(theirs, ours)
    return found


def read(folder: Path) -> Imported:
    """The model in a Hugging Face folder; what is wrong with its weights alone is left to `finish`.

    A DeiT without its teacher's classifier has a distillation token that nothing reads: here it is a
    register with its position added, which computes the same. The classifier of a DINOv2 reads the class
    token and the mean of the patches, pooling "cls+gap", which is what one without a classifier gets as
    well; with zeros for the mean, as `write` leaves a head of the class token alone, it is "cls".
    Raises UserError for whatever is missing, damaged or not understood.
    """
    config = read_json(folder / CONFIG, "Hugging Face model")
    kind = config.get("model_type")
    if kind not in tuple(FAMILIES):  # whatever its type
        known = ", ".join(FAMILIES)
        raise UserError(f"{folder / CONFIG}: model_type {kind!r} is not one of {known}")
    tensors, digest, where = _read_weights(folder)
    pooling, dropped = _pooling(kind, tensors), {}
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in tensors) else ""
    heads = _heads(kind, tensors)
    with decoding(folder / CONFIG):
        arch = configs.architecture(config, pooling, teacher=heads == 2)
        labels = configs.labels(config) if heads else ("0",)
        scores = configs.scores(config)
        arch = dataclasses.replace(arch, num_classes=len(labels))
    values = read_json(folder / PREPROCESSOR, "Hugging Face model")
    with decoding(folder / PREPROCESSOR):
        spec, remark = configs.preprocess(values, kind)
    last = f"{prefix}encoder.layer.{arch.depth - 1}."
    if not any(name.startswith(last) for name in tensors):  # before there is a table of that depth
        raise UserError(f"{where}: {last}... is missing, of {arch.depth} layers")
    with decoding(folder / CONFIG):  # sizes beyond what a tensor can have
        shapes = weight_shapes(arch)
    if kind == "deit" and not arch.distillation_token:
        _fold_distillation(tensors, prefix)
    table = rows(kind, arch, prefix, heads)
    for name in set(tensors) - {row.theirs for row in table}:
        if name.removeprefix(prefix) not in UNUSED:
            raise UserError(f"{where}: {name} is not a weight of a {kind} of this depth")
        dropped[name] = f"{tensors[name].shape}"
    return Imported(
        architecture=arch,
        preprocess=spec,
        labels=labels,
        weights=to_ours(table, tensors, shapes.__getitem__, str(where)),
        reset={"preprocess": remark} if remark else {},
        dropped=dropped,
        origin={
            "source": str(folder),
            "format": "Hugging Face",
            "model_type": kind,
            "architectures": config.get("architectures"),
            "file": where.name,
            "sha256": digest,
        },
        scores=scores,
    )


def write(model: Model, folder: Path) -> None:
    """Writes a model as a folder that `transformers` loads; `read` gives the same weights, to the bit.

    It becomes a ViT; a DeiT with two class tokens or with one register; a DINOv2 with LayerScale, whose
    classifier has zeros for the mean of the patches where ours does not read it. A DINOv2 whose head is
    one class of zeros is written without. `position_interpolation` is lost: how positions are resized is
    up to the model_type.
    Raises UserError, naming the field, for what transformers does not have, or if the disk refuses.
    """
    arch = model.architecture
    if not isinstance(arch, Architecture):
        raise UserError(
            f"a Hugging Face folder cannot hold {arch.name}: it is no Vision Transformer"
        )
    kind = configs.model_type(arch)
    weights = {name: w.numpy() for name, w in named_weights(model).items()}
    heads = 1 + arch.distillation_token
    if arch.layer_scale is not None and arch.num_classes == 1:
        heads = int(any(weights[f"head/{part}"].any() for part in ("kernel", "bias")))
    prefix = f"{kind}." if heads else ""
    tensors = to_theirs(rows(kind, arch, prefix, heads), weights)
    if kind == "deit" and not arch.distillation_token:
        _unfold_distillation(tensors, prefix)
    if arch.layer_scale is not None:
        tensors[f"{prefix}embeddings.mask_token"] = np.zeros((1, arch.width), np.float32)
        if heads and arch.pooling == "cls":
            kernel = tensors["classifier.weight"]
            tensors["classifier.weight"] = np.concatenate([kernel, np.zeros_like(kernel)], 1)
    config = configs.config_of(arch, model.labels, model.scores, FAMILIES[kind].classes[heads])
    processor = configs.preprocessor_of(model.preprocess)
    from safetensors.numpy import save_file

    with atomic_folder(folder) as temporary:
        write_json(temporary / CONFIG, config)
        write_json(temporary / PREPROCESSOR, processor)
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def _heads(kind: str, tensors: dict[str, np.ndarray]) -> int:
    """How many heads there are."""
    found = enumerate(FAMILIES[kind].heads)
    return max(n for n, names in found if all(f"{name}.weight" in tensors for name in names))


def _pooling(kind: str, tensors: dict[str, np.ndarray]) -> str:
    """What the head reads. A classifier that makes no use of the patches becomes one of the class token."""
    if kind not in ("dinov2", "dinov2_with_registers"):
        return "cls"
    head = tensors.get("classifier.weight")
    if head is not None and head.ndim == 2:
        of_class, of_patches = np.split(head, [head.shape[1] // 2], axis=1)
        if of_class.any() and not of_patches.any():
            tensors["classifier.weight"] = of_class
            return "cls"
    return "cls+gap"


def _fold_distillation(tensors: dict[str, np.ndarray], prefix: str) -> None:
    """A distillation token with a position -> a register without one."""
    token, position = prefix + DISTILLATION.theirs, prefix + POSITION
    if token in tensors and position in tensors and tensors[position].ndim == 3:
        added = tensors[position][:, 1:2].astype(np.float32)
        tensors[prefix + REGISTERS.theirs] = tensors.pop(token).astype(np.float32) + added
        tensors[position] = np.delete(tensors[position], 1, axis=1)


def _unfold_distillation(tensors: dict[str, np.ndarray], prefix: str) -> None:
    """The inverse of `_fold_distillation`: the position is zero."""
    tensors[prefix + DISTILLATION.theirs] = tensors.pop(prefix + REGISTERS.theirs)
    tensors[prefix + POSITION] = np.insert(tensors[prefix + POSITION], 1, 0, axis=1)


def _read_weights(folder: Path) -> tuple[dict[str, np.ndarray], str, Path]:
    """All tensors, the SHA-256 of their files behind each other, and the file to name in messages."""
    if not (folder / WEIGHTS).exists() and (folder / INDEX).exists():
        where = folder / INDEX
        index = read_json(where, "Hugging Face model")
        with decoding(where):
            files = [folder / name for name in sorted(set(index["weight_map"].values()))]
            outside = [file.name for file in files if file.parent != folder]
            if outside:
                raise UserError(f"{outside[0]} lies outside of the folder")
    else:
        where, files = folder / WEIGHTS, [folder / WEIGHTS]
    tensors: dict[str, np.ndarray] = {}
    for file in files:
        if not file.exists():
            others = sorted(p.name for p in folder.glob("*.bin"))
            there = f" ({others[0]} may hold code and is not read)" if others else ""
            raise UserError(f"{folder}: no {file.name} inside{there}")
        tensors |= checkpoint.read_tensors(file)
    return tensors, sha256(*files), where
