"""Hugging Face folders of a ViT or DINOv2: config.json, preprocessor_config.json, model.safetensors.

Source: huggingface/transformers, models/vit and models/dinov2 (configuration, modeling, image processing).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit import checkpoint, posemb
from tfvit.architecture import VARIANTS, Architecture
from tfvit.model import Model, build, named_weights
from tfvit.transfer import Transfer, grid_text

CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"

# Orders of axes that turn their array into ours.
VECTOR, TOKENS = (0,), (0, 1, 2)
DENSE = (1, 0)  # [out, in] -> [in, out]
CONVOLUTION = (2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]


def _dense(theirs: str, ours: str) -> tuple:
    return (f"{theirs}.weight", f"{ours}/kernel", DENSE), (f"{theirs}.bias", f"{ours}/bias", VECTOR)


def _norm(theirs: str, ours: str) -> tuple:
    return (f"{theirs}.weight", f"{ours}/gamma", VECTOR), (f"{theirs}.bias", f"{ours}/beta", VECTOR)


# (their name, our name, order of axes); BLOCK: below encoder.layer.{i} and block_{i}
EMBEDDINGS = (
    ("embeddings.cls_token", "cls/token", TOKENS),
    ("embeddings.position_embeddings", "position/embedding", TOKENS),
    ("embeddings.patch_embeddings.projection.weight", "embedding/kernel", CONVOLUTION),
    ("embeddings.patch_embeddings.projection.bias", "embedding/bias", VECTOR),
    *_norm("layernorm", "norm"),
)
ATTENTION = (
    *_dense("attention.attention.query", "attention/query"),
    *_dense("attention.attention.key", "attention/key"),
    *_dense("attention.attention.value", "attention/value"),
    *_dense("attention.output.dense", "attention/out"),
)
BLOCK = {
    "vit": (
        *_norm("layernorm_before", "norm_1"),
        *ATTENTION,
        *_norm("layernorm_after", "norm_2"),
        *_dense("intermediate.dense", "mlp/dense_1"),
        *_dense("output.dense", "mlp/dense_2"),
    ),
    "dinov2": (
        *_norm("norm1", "norm_1"),
        *ATTENTION,
        ("layer_scale1.lambda1", "attention/layer_scale/gamma", VECTOR),
        *_norm("norm2", "norm_2"),
        *_dense("mlp.fc1", "mlp/dense_1"),
        *_dense("mlp.fc2", "mlp/dense_2"),
        ("layer_scale2.lambda1", "mlp/layer_scale/gamma", VECTOR),
    ),
}
HEAD = {"vit": _dense("classifier", "head"), "dinov2": ()}  # dinov2's reads other features
UNUSED = ("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias")
QKV_BIASES = tuple(f"attention/{part}/bias" for part in ("query", "key", "value"))

# What a configuration says by leaving it out.
COMMON = {"hidden_act": "gelu", "num_channels": 3, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
DEFAULTS = {
    "vit": {**COMMON, "layer_norm_eps": 1e-12, "intermediate_size": 3072},
    "dinov2": {**COMMON, "layer_norm_eps": 1e-6, "mlp_ratio": 4, "layerscale_value": 1.0},
}
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}

PROCESSORS = {
    "ViTImageProcessor": {"resample": 2, "do_center_crop": False, "default_to_square": True},
    "BitImageProcessor": {"resample": 3, "do_center_crop": True, "default_to_square": False},
}
PROCESSORS["ViTFeatureExtractor"] = PROCESSORS["ViTImageProcessor"]
DEFAULT_PROCESSOR = {"vit": "ViTImageProcessor", "dinov2": "BitImageProcessor"}
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
UNDERSTOOD = {"do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"}
UNDERSTOOD |= {"rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"}
UNDERSTOOD |= {"default_to_square"}
# Of the library, not of the pictures.
BOOKKEEPING = {"image_processor_type", "feature_extractor_type", "processor_class"}
BOOKKEEPING |= {"_valid_processor_keys", "data_format", "return_tensors", "disable_grouping"}


def load(folder: Path, image_size: tuple[int, int] | None = None) -> tuple[Model, Transfer]:
    """The model of a Hugging Face folder, and what became of its weights.

    image_size: position embeddings are interpolated to it; None is the size of the preprocessing
        where the patch divides it, else that of config.json.
    Without a classifier the head is zero and knows one class.
    Raises UserError for whatever is missing, damaged or not understood.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    config = _read_json(folder / CONFIG)
    kind = config.get("model_type")
    if kind not in BLOCK:
        raise UserError(f"{folder / CONFIG}: model_type {kind!r} is not one of {', '.join(BLOCK)}")
    tensors = _read_weights(folder)
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in tensors) else ""
    has_head = bool(HEAD[kind]) and HEAD[kind][0][0] in tensors
    arch, labels = _described(folder / CONFIG, lambda: _architecture(config, kind, has_head))
    processor = _read_json(folder / PREPROCESSOR)
    spec = _described(folder / PREPROCESSOR, lambda: _preprocess(processor, kind))
    result = Transfer([], {}, {}, {})
    weights = {}
    rows = _table(kind, prefix, arch.depth, has_head)
    for theirs, ours, axes in rows:
        if not config.get("qkv_bias", True) and ours.endswith(QKV_BIASES):
            weights[ours] = np.zeros(arch.width, np.float32)
            result.reset[ours] = "without bias there, zero"
        else:
            weights[ours] = _array(folder / WEIGHTS, tensors, theirs, axes)
            result.loaded.append(ours)
    known = {theirs for theirs, _, _ in rows}
    for name, value in tensors.items():
        if name.removeprefix(prefix) in UNUSED:
            result.dropped[name] = f"{value.shape}"
        elif name not in known:
            raise UserError(f"{folder / WEIGHTS}: {name} is not a weight of a {kind} of this depth")
    model = _build(folder, config, arch, spec, labels, image_size)
    _resize_position(folder / WEIGHTS, weights, arch, model.architecture, result)
    if not has_head:
        for name in ("head/kernel", "head/bias"):
            variable = named_weights(model)[name]
            weights[name] = np.zeros(variable.shape, np.float32)
            result.reset[name] = "no classifier there: one class, zero"
    checkpoint.assign(model, weights, str(folder / WEIGHTS))
    return model, result


def _table(kind: str, prefix: str, depth: int, has_head: bool) -> list[tuple]:
    """All rows of a model, their names in full."""
    rows = [(prefix + theirs, ours, axes) for theirs, ours, axes in EMBEDDINGS]
    for i in range(depth):
        for theirs, ours, axes in BLOCK[kind]:
            rows.append((f"{prefix}encoder.layer.{i}.{theirs}", f"block_{i}/{ours}", axes))
    return rows + list(HEAD[kind] if has_head else ())


def _architecture(config: dict, kind: str, has_head: bool) -> tuple[Architecture, tuple[str, ...]]:
    """The architecture at the size of config.json, and the labels."""
    config = {**DEFAULTS[kind], **config}
    if config["hidden_act"] not in ACTIVATIONS:
        raise UserError(
            f"hidden_act {config['hidden_act']!r} is not one of {', '.join(ACTIVATIONS)}"
        )
    if config["num_channels"] != 3:
        raise UserError(f"num_channels {config['num_channels']!r} is not 3")
    if config.get("use_swiglu_ffn"):
        raise UserError("use_swiglu_ffn: an MLP with SwiGLU is not supported")
    labels = ("0",)
    if has_head:
        names = config["id2label"]
        labels = tuple(str(names[str(i)]) for i in range(len(names)))
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    heads, patch = config["num_attention_heads"], config["patch_size"]
    mlp = config["intermediate_size"] if kind == "vit" else int(width * config["mlp_ratio"])
    known = {shape: name for name, shape in VARIANTS.items()}
    variant = known.get((width, depth, mlp, heads), f"vit-{width}x{depth}")
    arch = Architecture(
        name=f"{variant}/{patch}",
        num_classes=len(labels),
        image_size=config["image_size"],
        patch_size=patch,
        width=width,
        depth=depth,
        mlp_dim=mlp,
        heads=heads,
        layer_norm_epsilon=config["layer_norm_eps"],
        activation=ACTIVATIONS[config["hidden_act"]],
        layer_scale=config["layerscale_value"] if kind == "dinov2" else None,
        position_interpolation="bicubic",
    )
    return arch, labels


def _preprocess(values: dict, kind: str) -> PreprocessSpec:
    """The preprocessing of an image processor's configuration, its mean and std in grey levels."""
    processor = values.get("image_processor_type") or values.get("feature_extractor_type")
    processor = processor.removesuffix("Fast") if processor else DEFAULT_PROCESSOR[kind]
    if processor not in PROCESSORS:
        raise UserError(f"image processor {processor} is not one of {', '.join(PROCESSORS)}")
    unknown = [key for key in values if key not in UNDERSTOOD | BOOKKEEPING and values[key]]
    if unknown:
        raise UserError(f"{unknown[0]} {values[unknown[0]]!r} is not understood")
    values = {**PROCESSORS[processor], **values}
    if not values.get("do_resize", True):
        raise UserError("do_resize is false: pictures of any size are not supported")
    if values["resample"] not in RESAMPLE:
        raise UserError(f"resample {values['resample']!r} is neither 2 (bilinear) nor 3 (bicubic)")
    rescale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1
    normalise = values.get("do_normalize", True)
    mean, std = (values["image_mean"], values["image_std"]) if normalise else ([0] * 3, [1] * 3)
    return PreprocessSpec(
        **_resize(values),
        interpolation=RESAMPLE[values["resample"]],
        mean=tuple(level / rescale for level in mean),
        std=tuple(level / rescale for level in std),
    )


def _resize(values: dict) -> dict:
    """Height, width and resize mode of a PreprocessSpec."""
    size = values["size"]
    if not isinstance(size, dict):
        square = {"height": size, "width": size}
        size = square if values["default_to_square"] else {"shortest_edge": size}
    crop = values["crop_size"] if values["do_center_crop"] else None
    if crop is not None and not isinstance(crop, dict):
        crop = {"height": crop, "width": crop}
    if size.keys() == {"height", "width"} and crop in (None, size):
        return {**size, "resize": "squash"}
    if size.keys() == {"shortest_edge"} and crop and crop["height"] == crop["width"]:
        share = crop["height"] / size["shortest_edge"]
        return {**crop, "resize": "crop", "crop_fraction": share}
    cropped = f"cropped to {crop}" if crop else "not cropped"
    raise UserError(f"size {size}, {cropped}, is neither an exact size nor a square central crop")


def _build(
    folder: Path,
    config: dict,
    arch: Architecture,
    spec: PreprocessSpec,
    labels: tuple[str, ...],
    image_size: tuple[int, int] | None,
) -> Model:
    """The model at the size it is wanted at, with where it comes from; weights still to be assigned."""
    if image_size is None:
        fits = not (spec.height % arch.patch_size or spec.width % arch.patch_size)
        image_size = (spec.height, spec.width) if fits else arch.image_size
    origin = {
        "source": str(folder),
        "format": "Hugging Face",
        "model_type": config["model_type"],
        "architectures": config.get("architectures"),
        "file": WEIGHTS,
        "sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    }
    return build(
        dataclasses.replace(arch, image_size=image_size),
        labels=labels,
        preprocess=spec.at(*image_size),
        provenance={"imported": origin},
    )


def _resize_position(
    path: Path, weights: dict, old: Architecture, new: Architecture, result: Transfer
) -> None:
    """Interpolates the position embeddings to the new grid, and notes it."""
    name = "position/embedding"
    if weights[name].shape != (1, old.tokens, old.width):
        raise UserError(
            f"{path}: position embeddings {weights[name].shape} do not fit "
            f"{grid_text(old)} of width {old.width}"
        )
    if old.grid != new.grid:
        resized = posemb.resize(weights[name][0], old.grid, new.grid, new.position_interpolation)
        weights[name] = resized[np.newaxis]
        result.loaded.remove(name)
        result.resized[name] = f"{grid_text(old)} -> {grid_text(new)}"


def _array(path: Path, tensors: dict, name: str, axes: tuple[int, ...]) -> np.ndarray:
    """A tensor as our float32 array; UserError if it is missing or cannot be one."""
    if name not in tensors:
        raise UserError(f"{path}: weight {name} is missing")
    value = tensors[name]
    if value.ndim != len(axes):
        raise UserError(f"{path}: weight {name} of shape {value.shape} has not {len(axes)} axes")
    value = value.astype(np.float32).transpose(axes)
    if not np.isfinite(value).all():
        raise UserError(f"{path}: weight {name} is not finite")
    return value


def _read_weights(folder: Path) -> dict[str, np.ndarray]:
    """model.safetensors; UserError says what is there instead."""
    path = folder / WEIGHTS
    if not path.exists():
        if (folder / f"{WEIGHTS}.index.json").exists():
            raise UserError(f"{folder}: weights in several files are not supported; merge them")
        others = sorted(p.name for p in folder.glob("*.bin"))
        there = f" ({others[0]} may hold code and is not read)" if others else ""
        raise UserError(f"{folder}: no {WEIGHTS} inside{there}")
    return checkpoint.read_tensors(path)


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: no {path.name} inside, not a Hugging Face model") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: damaged (not a JSON object)")
    return values


def _described(path: Path, decode: Callable[[], Any]) -> Any:
    """decode(), with the file's name before whatever is wrong with its values."""
    try:
        return decode()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except KeyError as error:
        raise UserError(f"{path}: {error} is missing") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
