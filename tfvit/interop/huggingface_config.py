"""config.json and preprocessor_config.json of transformers' ViT, DeiT and DINOv2, both ways.

Source: huggingface/transformers, models/{vit,deit,dinov2,dinov2_with_registers,bit}, configuration and
image processing.
"""

from __future__ import annotations

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SIGMOID, SOFTMAX
from tfvit.architecture import Architecture, name_of

# model_type: what a configuration says by leaving it out.
COMMON = {"hidden_act": "gelu", "num_channels": 3, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
VIT = {**COMMON, "layer_norm_eps": 1e-12, "intermediate_size": 3072}
DINO = {**COMMON, "layer_norm_eps": 1e-6, "mlp_ratio": 4, "layerscale_value": 1.0}
DEFAULTS = {
    "vit": VIT,
    "deit": VIT,
    "dinov2": DINO,
    "dinov2_with_registers": {**DINO, "num_register_tokens": 4},
}
ANTIALIASED = {"dinov2_with_registers": "bicubic_antialias"}
# Of two names of theirs for one of ours, the first is what is written.
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}

# problem_type: how logits become scores.
PROBLEMS = {None: SOFTMAX, "single_label_classification": SOFTMAX}
PROBLEMS["multi_label_classification"] = SIGMOID

CENTRAL = {"resample": 3, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
PROCESSORS = {
    "ViTImageProcessor": {"resample": 2, "do_center_crop": False, "default_to_square": True},
    "BitImageProcessor": {**CENTRAL, "default_to_square": False},
    "DeiTImageProcessor": {**CENTRAL, "default_to_square": True},
}
PROCESSORS["ViTFeatureExtractor"] = PROCESSORS["ViTImageProcessor"]
PROCESSORS["DeiTFeatureExtractor"] = PROCESSORS["DeiTImageProcessor"]
DEFAULT_PROCESSOR = {"vit": "ViTImageProcessor", "deit": "DeiTImageProcessor"}
DEFAULT_PROCESSOR |= dict.fromkeys(("dinov2", "dinov2_with_registers"), "BitImageProcessor")
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
UNDERSTOOD = {"do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"}
UNDERSTOOD |= {"rescale_factor", "do_normalize", "image_mean", "image_std", "do_convert_rgb"}
UNDERSTOOD |= {"default_to_square"}
# Of the library, not of the pictures.
BOOKKEEPING = {"image_processor_type", "feature_extractor_type", "processor_class"}
BOOKKEEPING |= {"_valid_processor_keys", "data_format", "return_tensors", "disable_grouping"}


def architecture(config: dict, pooling: str, teacher: bool) -> Architecture:
    """The architecture of a config.json at its own size, with one class.

    pooling: what the classifier reads.
    teacher: whether it classifies from the distillation token as well. Without, that token of a DeiT
        is one that nothing reads: a register.
    Raises UserError for what we do not have.
    """
    kind = config["model_type"]
    config = {**DEFAULTS[kind], **config}
    if config["hidden_act"] not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"hidden_act {config['hidden_act']!r} is not one of {known}")
    if config["num_channels"] != 3:
        raise UserError(f"num_channels {config['num_channels']!r} is not 3")
    if config.get("use_swiglu_ffn"):
        raise UserError("use_swiglu_ffn: an MLP with SwiGLU is not supported")
    width, depth = config["hidden_size"], config["num_hidden_layers"]
    heads, patch = config["num_attention_heads"], config["patch_size"]
    dino = "mlp_ratio" in DEFAULTS[kind]
    mlp = int(width * config["mlp_ratio"]) if dino else config["intermediate_size"]
    shape = (width, depth, mlp, heads)
    return Architecture(
        name=name_of(shape, patch),
        num_classes=1,
        image_size=config["image_size"],
        patch_size=patch,
        width=width,
        depth=depth,
        mlp_dim=mlp,
        heads=heads,
        pooling=pooling,
        distillation_token=teacher,
        registers=config.get("num_register_tokens", 0)
        if dino
        else int(kind == "deit" and not teacher),
        qkv_bias=config.get("qkv_bias", True),
        layer_norm_epsilon=config["layer_norm_eps"],
        activation=ACTIVATIONS[config["hidden_act"]],
        layer_scale=config["layerscale_value"] if dino else None,
        position_interpolation=ANTIALIASED.get(kind, "bicubic"),
    )


def labels(config: dict) -> tuple[str, ...]:
    """Names of the classes, in order."""
    names = config.get("id2label", COMMON["id2label"])
    return tuple(str(names[str(i)]) for i in range(len(names)))


def scores(config: dict) -> str:
    """How logits become scores. Raises UserError for a problem that is no classification."""
    problem = config.get("problem_type")
    if problem not in tuple(PROBLEMS):  # whatever its type
        known = ", ".join(filter(None, PROBLEMS))
        raise UserError(f"problem_type {problem!r} is not one of {known}")
    return PROBLEMS[problem]


def model_type(arch: Architecture) -> str:
    """The model_type that computes what an architecture does.

    Raises UserError, naming the field, if none does.
    """
    fixed = {"stem": None, "position": "learned", "representation_size": None}
    for field, value in fixed.items():
        _need(getattr(arch, field) == value, field, arch)
    dino = arch.layer_scale is not None
    _need(arch.pooling in (("cls", "cls+gap") if dino else ("cls",)), "pooling", arch)
    if not dino:
        _need(arch.registers <= (not arch.distillation_token), "registers", arch)
        return "deit" if arch.distillation_token or arch.registers else "vit"
    _need(not arch.distillation_token, "distillation_token", arch)
    _need(arch.mlp_dim % arch.width == 0, "mlp_dim", arch)
    _need(arch.image_size[0] == arch.image_size[1], "image_size", arch)
    return "dinov2_with_registers" if arch.registers else "dinov2"


def _need(holds: bool, field: str, arch: Architecture) -> None:
    if not holds:
        value = getattr(arch, field)
        raise UserError(f"a Hugging Face folder cannot hold {field} {value!r} of {arch.name}")


def config_of(
    arch: Architecture, names: tuple[str, ...], scores: str, transformers_class: str
) -> dict:
    """config.json of an architecture; what only training has (dropout, stochastic depth) is left out."""
    kind = model_type(arch)
    square = arch.image_size[0] == arch.image_size[1]
    theirs = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    values = {
        "architectures": [transformers_class],
        "model_type": kind,
        "image_size": arch.image_size[0] if square else list(arch.image_size),
        "patch_size": arch.patch_size,
        "num_channels": 3,
        "hidden_size": arch.width,
        "num_hidden_layers": arch.depth,
        "num_attention_heads": arch.heads,
        "hidden_act": theirs[arch.activation],
        "layer_norm_eps": arch.layer_norm_epsilon,
        "qkv_bias": arch.qkv_bias,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    if scores == SIGMOID:
        values["problem_type"] = "multi_label_classification"
    if arch.layer_scale is None:
        return values | {"intermediate_size": arch.mlp_dim}
    values |= {"mlp_ratio": arch.mlp_dim // arch.width, "layerscale_value": float(arch.layer_scale)}
    return values | ({"num_register_tokens": arch.registers} if arch.registers else {})


def preprocess(values: dict, kind: str) -> tuple[PreprocessSpec, str]:
    """The preprocessing of a preprocessor_config.json, mean and std in grey levels, and a remark or "".

    DeiT's processor squashes a picture to a square and crops that; here it is the shorter side that is
    resized, as facebookresearch/deit does, and the remark says so.
    """
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
    size = values["size"]
    if not isinstance(size, dict):
        square = {"height": size, "width": size}
        size = square if values["default_to_square"] else {"shortest_edge": size}
    remark = ""
    if processor.startswith("DeiT") and size.get("height") == size.get("width", 0):
        remark = f"there squashed to {size['height']}x{size['width']} before the crop"
        size = {"shortest_edge": size["height"]}
    spec = PreprocessSpec(
        **_resize(values, size),
        interpolation=RESAMPLE[values["resample"]],
        mean=tuple(level / rescale for level in mean),
        std=tuple(level / rescale for level in std),
    )
    return spec, remark


def _resize(values: dict, size: dict) -> dict:
    """Height, width and resize mode of a PreprocessSpec."""
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


def preprocessor_of(spec: PreprocessSpec) -> dict:
    """preprocessor_config.json of a preprocessing; what a crop is cut from is of whole pixels there.

    Raises UserError for a crop that is not square.
    """
    size = {"height": spec.height, "width": spec.width}
    values = {
        "do_resize": True,
        "resample": next(n for n, name in RESAMPLE.items() if name == spec.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [level / 255 for level in spec.mean],
        "image_std": [level / 255 for level in spec.std],
    }
    if spec.resize == "squash":
        return {"image_processor_type": "ViTImageProcessor", "size": size, **values}
    if spec.height != spec.width:
        raise UserError(f"a Hugging Face folder cannot hold a crop of {spec.height}x{spec.width}")
    edge = round(spec.height / spec.crop_fraction)
    crop = {"do_center_crop": True, "crop_size": size}
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": edge},
        **crop,
        **values,
    }
