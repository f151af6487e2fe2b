"""What timm's weights and config.json say of a model, both ways.

Source: huggingface/pytorch-image-models, timm/models/{vision_transformer,deit,_hub}.py, timm/data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit.architecture import Architecture, name_of

Shapes = Mapping[str, tuple[int, ...]]

# What a name in the weights, or of the architecture, stands for that we do not have.
UNSUPPORTED = {
    r"fc_norm\.": "a norm after the pooling",
    r"norm_pre\.": "a norm before the first block",
    r"attn_pool\.": "attention pooling",
    r".*\.mlp\.(fc1_g|fc1_x|w12|norm)\.": "an MLP with SwiGLU",
    r".*\.attn\.[qk]_norm\.": "a norm of queries and keys",
}
# Heads do not show in the weights: they are 64 wide, but for these, by width or by architecture.
HEAD_WIDTH = 64
HEADS = {1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16}
HEADS_BY_NAME = {"vit_base_patch16_gap_": 16}
# Neither does the activation: the erf form of GELU, but for these.
GELU_TANH = ("vit_base_patch32_siglip_gap_", "vit_giantopt_patch16_siglip_gap_")
GELU_TANH += ("vit_large_patch16_siglip_gap_512", "vit_so400m_patch16_siglip_gap_")
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh"}
POOLS = {"cls": "token", "gap": "avg"}  # our pooling: theirs
EPSILON = 1e-6
LAYER_SCALE = 1e-5  # what it began with does not show in the weights
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALF = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
CROP, INTERPOLATIONS = 0.875, ("bilinear", "bicubic")
UNDERSTOOD = {"img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias"}
UNDERSTOOD |= {"class_token", "no_embed_class", "reg_tokens", "init_values", "act_layer"}
UNDERSTOOD |= {"global_pool", "fc_norm", "num_classes", "in_chans", "drop_rate", "drop_path_rate"}
# Our name: timm's, for what it has a name of; others are the nearest of these with its arguments changed.
NAMES = {
    "vit-ti/16": "vit_tiny_patch16_224",
    "vit-s/16": "vit_small_patch16_224",
    "vit-s/32": "vit_small_patch32_224",
    "vit-b/8": "vit_base_patch8_224",
    "vit-b/16": "vit_base_patch16_224",
    "vit-b/32": "vit_base_patch32_224",
    "vit-l/14": "vit_large_patch14_224",
    "vit-l/16": "vit_large_patch16_224",
    "vit-l/32": "vit_large_patch32_224",
    "vit-h/14": "vit_huge_patch14_224",
    "vit-g/14": "vit_giant_patch14_224",
    "vit-G/14": "vit_gigantic_patch14_224",
}
DISTILLED = {
    "vit-ti/16": "deit_tiny_distilled_patch16_224",
    "vit-s/16": "deit_small_distilled_patch16_224",
    "vit-b/16": "deit_base_distilled_patch16_224",
}
FALLBACK = "vit-b/16"


def architecture(shapes: Shapes, config: dict) -> tuple[Architecture, bool]:
    """The architecture of weights, by their shapes, and whether class tokens have positions.

    config: config.json; empty where there is none, then the GELU is the erf form.
    Raises UserError for what is not a ViT that we have.
    """
    name, changes = str(config.get("architecture", "vit")), config.get("model_args") or {}
    if not name.startswith(("vit", "deit")):
        raise UserError(f"architecture {name} is not a ViT or DeiT")
    other = [key for key in changes if key not in UNDERSTOOD]
    if other:
        raise UserError(f"model_args {other[0]} {changes[other[0]]!r} is not understood")
    for pattern, what in UNSUPPORTED.items():
        if any(re.match(pattern, theirs) for theirs in shapes):
            raise UserError(f"{what} is not supported")
    width, channels, patch, across = _four(shapes, "patch_embed.proj.weight")
    if channels != 3 or patch != across:
        raise UserError(f"patches of {channels} channels and {patch}x{across} pixels are no ViT's")
    hidden = shapes.get("blocks.0.mlp.fc1.weight", (0,))[0]
    if shapes.get("blocks.0.mlp.fc2.weight", (0, hidden))[-1] * 2 == hidden:
        raise UserError("an MLP with SwiGLU is not supported")
    has_class, distilled = "cls_token" in shapes, "dist_token" in shapes
    pool = config.get("global_pool") or changes.get("global_pool")
    if pool not in (None, "", "token" if has_class else "avg"):
        raise UserError(f"global_pool {pool!r} is not supported for this model")
    registers = shapes.get("reg_token", (1, 0))[1]
    prefix = has_class + distilled + registers
    size = (config.get("pretrained_cfg") or {}).get("input_size")
    grid, with_class = _grid(shapes.get("pos_embed", (1, 0))[1], prefix, size, patch)
    depth = 1 + max([int(m[1]) for m in map(re.compile(r"blocks\.(\d+)\.").match, shapes) if m])
    if depth > len(shapes):  # before there is a table of that depth
        raise UserError(f"blocks before blocks.{depth - 1} are missing")
    heads = changes.get("num_heads") or _heads(name, width)
    tanh = name.startswith(GELU_TANH)
    activation = changes.get("act_layer") or ("gelu_tanh" if tanh else "gelu")
    if activation not in ACTIVATIONS:
        raise UserError(f"act_layer {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    shape = (width, depth, hidden, heads)
    return (
        Architecture(
            name=name_of(shape, patch),
            num_classes=shapes.get("head.weight", (1,))[0],
            image_size=(grid[0] * patch, grid[1] * patch),
            patch_size=patch,
            width=width,
            depth=depth,
            mlp_dim=hidden,
            heads=heads,
            pooling="cls" if has_class else "gap",
            distillation_token=distilled,
            registers=registers,
            qkv_bias="blocks.0.attn.qkv.bias" in shapes,
            layer_norm_epsilon=EPSILON,
            activation=activation,
            layer_scale=LAYER_SCALE if "blocks.0.ls1.gamma" in shapes else None,
            position_interpolation="bicubic_antialias",
        ),
        with_class,
    )


def _four(shapes: Shapes, name: str) -> tuple[int, ...]:
    if len(shapes.get(name, ())) != 4:
        raise UserError(f"weight {name} {shapes.get(name, 'is missing')} is no convolution")
    return shapes[name]


def _heads(name: str, width: int) -> int:
    named = [heads for start, heads in HEADS_BY_NAME.items() if name.startswith(start)]
    return named[0] if named else HEADS.get(width) or max(1, width // HEAD_WIDTH)


def _grid(rows: int, prefix: int, size: object, patch: int) -> tuple[tuple[int, int], bool]:
    """(Patches down, across), and whether the tokens before them have rows as well.

    It is the grid of `size`, (channels, height, width), where it has that many patches, else a square.
    """
    grids = [(size[1] // patch, size[2] // patch)] if size else []
    grids += [(math.isqrt(n), math.isqrt(n)) for n in (rows, rows - prefix) if n > 0]
    for down, across in grids:
        for count in (0, prefix):
            if down * across and down * across + count == rows:
                return (down, across), count > 0
    raise UserError(f"pos_embed of {rows} tokens is no square and {prefix} tokens before it")


def preprocess(arch: Architecture, config: dict) -> PreprocessSpec:
    """The preprocessing of config.json, in grey levels; without it, what the weights reveal.

    Mean and std are then ImageNet's for a DeiT or DINOv2 (a distillation token or LayerScale is there),
    else 0.5 as in AugReg: models that need another one cannot be told apart.
    """
    values = config.get("pretrained_cfg") or {}
    of_imagenet = arch.distillation_token or arch.layer_scale is not None
    values = {**(IMAGENET if of_imagenet else HALF), **values}
    size = values.get("input_size") or (3, *arch.image_size)
    interpolation = values.get("interpolation") or "bicubic"
    if interpolation not in INTERPOLATIONS:
        raise UserError(f"interpolation {interpolation!r} is not {' or '.join(INTERPOLATIONS)}")
    mode = values.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise UserError(f"crop_mode {mode!r} is neither center nor squash")
    share = values.get("crop_pct") or CROP
    if mode == "squash" and share != 1:
        raise UserError(f"crop_mode squash with crop_pct {share!r}, which is not 1")
    return PreprocessSpec(
        int(size[1]),
        int(size[2]),
        resize="crop" if mode == "center" else "squash",
        crop_fraction=share,
        interpolation=interpolation,
        mean=tuple(255 * level for level in values["mean"]),
        std=tuple(255 * level for level in values["std"]),
    )


def config_of(arch: Architecture, spec: PreprocessSpec, labels: tuple[str, ...]) -> dict:
    """config.json of an architecture; what only training has (dropout, stochastic depth) is left out.

    Raises UserError, naming the field, for what timm does not have.
    """
    fixed = {"stem": None, "position": "learned", "representation_size": None}
    fixed["layer_norm_epsilon"] = EPSILON
    unlike = [field for field, value in fixed.items() if getattr(arch, field) != value]
    unlike += ["pooling"] if arch.pooling not in POOLS else []
    unlike += ["registers"] if arch.distillation_token and arch.registers else []
    if unlike:
        value = getattr(arch, unlike[0])
        raise UserError(f"timm cannot hold {unlike[0]} {value!r} of {arch.name}")
    names = DISTILLED if arch.distillation_token else NAMES
    pool = POOLS[arch.pooling]
    ratio = arch.mlp_dim / arch.width
    if int(arch.width * ratio) != arch.mlp_dim:  # rounded down there
        ratio = math.nextafter(ratio, math.inf)
    squash = spec.resize == "squash"
    return {
        "architecture": names.get(arch.name, names[FALLBACK]),
        "num_classes": arch.num_classes,
        "num_features": arch.width,
        "global_pool": pool,
        "model_args": {
            "img_size": list(arch.image_size),
            "patch_size": arch.patch_size,
            "embed_dim": arch.width,
            "depth": arch.depth,
            "num_heads": arch.heads,
            "mlp_ratio": ratio,
            "qkv_bias": arch.qkv_bias,
            "class_token": arch.pooling == "cls",
            "no_embed_class": arch.pooling == "gap",
            "reg_tokens": arch.registers,
            "init_values": arch.layer_scale,
            "act_layer": arch.activation,
            "global_pool": pool,
            "fc_norm": False,
        },
        "pretrained_cfg": {
            "input_size": [3, *arch.image_size],
            "fixed_input_size": True,
            "interpolation": spec.interpolation,
            "crop_pct": 1.0 if squash else spec.crop_fraction,
            "crop_mode": "squash" if squash else "center",
            "mean": [level / 255 for level in spec.mean],
            "std": [level / 255 for level in spec.std],
            "num_classes": arch.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": ["head", "head_dist"] if arch.distillation_token else "head",
            "label_names": list(labels),
        },
    }
