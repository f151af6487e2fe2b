"""What a model is made of: a frozen dataclass per family and tables of the named ones."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Sequence

from edge_demo.errors import UserError

# name: (width, depth, mlp_dim, heads). S, B, L and H as in arXiv 2010.11929 table 1 and DeiT; Ti as in
# DeiT; g and G as in arXiv 2106.04560 table 2; mu as in google-research/big_vision models/vit.py, for tests.
VARIANTS = {
    "vit-mu": (32, 1, 128, 2),
    "vit-ti": (192, 12, 768, 3),
    "vit-s": (384, 12, 1536, 6),
    "vit-b": (768, 12, 3072, 12),
    "vit-l": (1024, 24, 4096, 16),
    "vit-h": (1280, 32, 5120, 16),
    "vit-g": (1408, 40, 6144, 16),
    "vit-G": (1664, 48, 8192, 16),
}
# name: (variant, residual units of each stage of the ResNet stem, patch of its features), as in
# google-research/vision_transformer vit_jax/configs/models.py. The number after the slash is Google's;
# R+Ti/16 in fact has one token per 32 pixels, since a pooling follows its root convolution.
HYBRIDS = {
    "r+vit-ti/16": ("vit-ti", (), 8),
    "r26+vit-s/32": ("vit-s", (2, 2, 2, 2), 1),
    "r50+vit-b/16": ("vit-b", (3, 4, 9), 1),
    "r50+vit-l/32": ("vit-l", (3, 4, 6, 3), 1),
}
# name: (residual units of each stage, width factor), as in arXiv 1912.11370 (BiT).
RESNETS = {
    "bit-r50x1": ((3, 4, 6, 3), 1),
    "bit-r50x3": ((3, 4, 6, 3), 3),
    "bit-r101x1": ((3, 4, 23, 3), 1),
    "bit-r101x3": ((3, 4, 23, 3), 3),
    "bit-r152x2": ((3, 8, 36, 3), 2),
    "bit-r152x4": ((3, 8, 36, 3), 4),
}
POOLINGS = ("cls", "gap", "cls+gap", "map")
POSITIONS = ("learned", "learned_2d", "relative", "sincos_2d", "none")
ACTIVATIONS = ("gelu_tanh", "gelu")
POSITION_INTERPOLATIONS = ("bilinear", "bicubic", "bicubic_antialias")
MAX_PATCHES = 65_536
ROOT_STRIDE = 4  # of a ResNet's root: a convolution and a pooling of stride 2 each


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A Vision Transformer, complete: the same value always builds the same model.

    name: the variant it came from, "vit-b/16".
    num_classes: outputs of the head.
    image_size: (height, width) in pixels, each divisible by `stride`.
    patch_size: in pixels, or in features of the stem.
    width, depth, mlp_dim, heads: D, L, MLP size and k of the paper's table 1.
    stem: of a hybrid (paper, section 3.1): residual units of each stage of a BiT ResNet whose features
        the patches are taken from; () is its root alone, None no hybrid.
    position: "learned", a vector per token; "learned_2d", half a vector per row and half a one per column;
        "relative", a vector per distance in the sequence, which queries attend to as well (these and
        "none": paper, appendix D.4); "sincos_2d", fixed (MoCo v3; arXiv 2205.01580).
    position_interpolation: how learned position embeddings go to another image size: "bilinear" with
        aligned corners (Google's code), "bicubic" as torch has it (DINOv2, Hugging Face) or
        "bicubic_antialias" (timm, DINOv2 with registers); see `tfvit.posemb`.
    pooling: "cls" (a class token), "gap" (mean over the patches), "cls+gap" (both, one behind the other:
        DINOv2's classifier, arXiv 2304.07193) or "map" (multihead attention pooling, arXiv 2106.04560);
        "gap" and "map" without class token.
    distillation_token: a second class token with a head of its own; logits are the mean of both (DeiT,
        arXiv 2012.12877).
    registers: tokens without position or use, after the class token (arXiv 2309.16588).
    representation_size: width of the pre-training head's hidden layer (tanh), None for a single linear
        layer (paper, section 3.1).
    qkv_bias: whether query, key and value have biases.
    layer_norm_epsilon: 1e-6 in Google's code.
    activation: of the MLP: "gelu_tanh", the approximation of flax's `nn.gelu`, or "gelu", the erf form
        (timm, DeiT, DINOv2, Hugging Face).
    layer_scale: initial gain per channel of every residual branch (arXiv 2103.17239; DINOv2), or None.
    dropout: after every dense layer but the q, k, v projections, and after adding the position
        embedding (paper, appendix B.1).
    stochastic_depth: drop rate of the last block's branches, growing linearly from 0 at the first.

    Raises UserError for a value that no model can have.
    """

    name: str
    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
    width: int
    depth: int
    mlp_dim: int
    heads: int
    stem: tuple[int, ...] | None = None
    position: str = "learned"
    position_interpolation: str = "bilinear"
    pooling: str = "cls"
    distillation_token: bool = False
    registers: int = 0
    representation_size: int | None = None
    qkv_bias: bool = True
    layer_norm_epsilon: float = 1e-6
    activation: str = "gelu_tanh"
    layer_scale: float | None = None
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _pixels(self.image_size))
        for field in ("num_classes", "patch_size", "width", "depth", "mlp_dim", "heads"):
            value = getattr(self, field)
            if not _whole(value, 1):
                raise UserError(f"model {self.name}: {field} must be at least 1, not {value!r}")
        if self.stem is not None:
            object.__setattr__(self, "stem", _units(self.stem, "stem", fewest=0))
        self._check_grid()
        if self.width % self.heads:
            raise UserError(
                f"model {self.name}: width {self.width} is not divisible by heads {self.heads}"
            )
        for field, known in (
            ("position", POSITIONS),
            ("pooling", POOLINGS),
            ("activation", ACTIVATIONS),
            ("position_interpolation", POSITION_INTERPOLATIONS),
        ):
            if getattr(self, field) not in known:
                raise UserError(
                    f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}"
                )
        if self.position.endswith("_2d") and self.width % 4:
            raise UserError(f"position {self.position} needs a width divisible by 4")
        for field in ("distillation_token", "qkv_bias"):
            if getattr(self, field) not in (True, False):
                raise UserError(f"{field} {getattr(self, field)!r} is neither true nor false")
            object.__setattr__(self, field, bool(getattr(self, field)))
        if not _whole(self.registers, 0):
            raise UserError(f"registers {self.registers!r} is not a number of tokens")
        hidden = self.representation_size
        if hidden is not None and not _whole(hidden, 1):
            raise UserError(f"representation_size must be at least 1 or none, not {hidden!r}")
        if self.distillation_token and (self.pooling != "cls" or hidden):
            raise UserError("distillation_token needs pooling cls and no representation_size")
        epsilon = self.layer_norm_epsilon
        if not isinstance(epsilon, float) or not 0 < epsilon < 1:
            raise UserError(f"layer_norm_epsilon {epsilon!r} is not in (0, 1)")
        gain = self.layer_scale
        if gain is not None and (not isinstance(gain, (int, float)) or not 0 < gain < math.inf):
            raise UserError(f"layer_scale {gain!r} is not a number above 0, or none")
        for field in ("dropout", "stochastic_depth"):
            rate = getattr(self, field)
            if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
                raise UserError(f"{field} {rate!r} is not in [0, 1)")

    def _check_grid(self) -> None:
        size, stride = self.image_size, self.stride
        uneven = [n for n in size if n % stride]
        if uneven:
            lower = max(stride, uneven[0] // stride * stride)
            what = "patch size" if self.stem is None else "stride"
            raise UserError(
                f"image size {'x'.join(map(str, size))} is not divisible by the {what} "
                f"{stride} of {self.name}; take {lower} or {lower + stride}"
            )
        if self.grid[0] * self.grid[1] > MAX_PATCHES:
            raise UserError(
                f"image size {size[0]}x{size[1]} makes {self.grid[0] * self.grid[1]} patches of "
                f"{stride} pixels; at most {MAX_PATCHES}"
            )

    @property
    def stride(self) -> int:
        """Pixels from one patch to the next."""
        return stride(self.stem, self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return self.image_size[0] // self.stride, self.image_size[1] // self.stride

    @property
    def class_tokens(self) -> int:
        """Tokens that the head reads, at the start of the sequence: 0 without a class token."""
        return (self.pooling in ("cls", "cls+gap")) + self.distillation_token

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: class tokens, then registers."""
        return self.class_tokens + self.registers

    @property
    def tokens(self) -> int:
        """Length of the sequence."""
        return self.grid[0] * self.grid[1] + self.prefix_tokens

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return _to_json(self)


@dataclasses.dataclass(frozen=True)
class ResNetArchitecture:
    """A BiT ResNet v2, the paper's baseline (arXiv 1912.11370): pre-activation, GroupNorm, StdConv.

    units: residual units of each stage. width_factor: of all channels; 64 times it leave the root.
    Raises UserError for a value that no model can have.
    """

    name: str
    num_classes: int
    image_size: tuple[int, int]
    units: tuple[int, ...]
    width_factor: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", _pixels(self.image_size))
        object.__setattr__(self, "units", _units(self.units, "units", fewest=1))
        for field in ("num_classes", "width_factor"):
            value = getattr(self, field)
            if not _whole(value, 1):
                raise UserError(f"model {self.name}: {field} must be at least 1, not {value!r}")

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return _to_json(self)


def stride(stem: tuple[int, ...] | None, patch_size: int) -> int:
    """Pixels from one patch to the next, of a hybrid's stem or None, and its patches."""
    if stem is None:
        return patch_size
    return ROOT_STRIDE * 2 ** max(len(stem) - 1, 0) * patch_size


FAMILIES = {"vit": Architecture, "bit": ResNetArchitecture}
APART = ("name", "num_classes", "image_size")  # of the model asked for, the data and the input


def from_json(values: dict) -> Architecture | ResNetArchitecture:
    """An architecture from its `to_json`; UserError names a missing or unknown field."""
    family = values.get("family")
    if family not in FAMILIES:
        raise UserError(f"architecture: family {family!r} is not one of {', '.join(FAMILIES)}")
    try:
        return FAMILIES[family](**{k: v for k, v in values.items() if k != "family"})
    except TypeError as error:
        raise UserError(f"architecture: {error}") from None


def named(
    name: str, num_classes: int, image_size: int | tuple[int, int] = 224, /, **changes
) -> Architecture | ResNetArchitecture:
    """The architecture of a name: "vit-VARIANT/PATCH", as "vit-ti/4", a hybrid or a ResNet.

    changes: any other field of the architecture: pooling="gap", depth=6, dropout=0.1.
    Raises UserError for an unknown name or field, or an image size that does not fit.
    """
    check_changes(changes, (*APART, "patch_size"))
    values = {"family": "vit", "num_classes": num_classes, "image_size": image_size}
    variant, _, patch = name.rpartition("/")
    variant = variant if variant in VARIANTS else variant.lower()
    if name.lower() in RESNETS:
        values |= {"family": "bit", "name": name.lower()}
        values |= dict(zip(("units", "width_factor"), RESNETS[name.lower()]))
    elif name.lower() in HYBRIDS:
        variant, stem, patch_size = HYBRIDS[name.lower()]
        values |= {"name": name.lower(), "stem": stem, "patch_size": patch_size}
        values |= _shape(variant)
    elif variant in VARIANTS and patch.isdecimal():
        values |= {"name": f"{variant}/{int(patch)}", "patch_size": int(patch), **_shape(variant)}
    else:
        known = ", ".join([f"{v}/PATCH" for v in VARIANTS] + [*HYBRIDS, *RESNETS])
        raise UserError(
            f"unknown model {name!r}: {_guess(name)}known are {known} (PATCH in pixels)"
        )
    return from_json(values | changes)


def check_changes(changes: dict, apart: Sequence[str] = APART) -> None:
    """UserError if one of the changed fields is given apart."""
    taken = sorted(set(apart) & changes.keys())
    if taken:
        raise UserError(f"{taken[0]} is not set as a further field: it is given apart")


def name_of(shape: tuple[int, ...], patch_size: int, stem: tuple[int, ...] | None = None) -> str:
    """The name of a Vision Transformer of (width, depth, mlp_dim, heads): ours, else one of the same form."""
    variant = next((name for name, known in VARIANTS.items() if known == shape), None)
    for name, hybrid in HYBRIDS.items():
        if hybrid == (variant, stem, patch_size):
            return name
    return f"{variant or f'vit-{shape[0]}x{shape[1]}'}/{patch_size}"


def _shape(variant: str) -> dict[str, int]:
    return dict(zip(("width", "depth", "mlp_dim", "heads"), VARIANTS[variant]))


def _guess(name: str) -> str:
    """The known name that is meant, as a question; nothing if it is like none."""
    name = name.lower()
    whole = "+" in name or name.startswith("bit")
    forms = {n: n for n in (*HYBRIDS, *RESNETS)} if whole else {v: f"{v}/16" for v in VARIANTS}
    wanted = name if whole else name.split("/")[0]
    close = difflib.get_close_matches(wanted, forms, n=1, cutoff=0.5)
    return f"did you mean {forms[close[0]]}? " if close else ""


def _to_json(arch: Architecture | ResNetArchitecture) -> dict:
    family = next(name for name, kind in FAMILIES.items() if isinstance(arch, kind))
    values = dataclasses.asdict(arch).items()
    return {"family": family} | {k: list(v) if isinstance(v, tuple) else v for k, v in values}


def _pixels(size: int | tuple[int, int]) -> tuple[int, int]:
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or not all(_whole(n, 1) for n in size):
        raise UserError(f"image size {size} is not a height and a width in pixels")
    return size


def _units(values: tuple[int, ...], field: str, fewest: int) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or len(values) < fewest:
        raise UserError(f"{field} {values!r} is not a list of numbers of residual units")
    if not all(_whole(n, 1) for n in values):
        raise UserError(f"{field} {values!r} holds what is no number of residual units")
    return tuple(values)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
