"""What a Vision Transformer is made of: one frozen dataclass and one table of named variants."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re

from edge_demo.errors import UserError

# name: (width, depth, mlp_dim, heads). S, B, L and H as in arXiv 2010.11929 table 1 and DeiT; Ti as in
# DeiT; mu as in google-research/big_vision models/vit.py, for tests.
VARIANTS = {
    "vit-mu": (32, 1, 128, 2),
    "vit-ti": (192, 12, 768, 3),
    "vit-s": (384, 12, 1536, 6),
    "vit-b": (768, 12, 3072, 12),
    "vit-l": (1024, 24, 4096, 16),
    "vit-h": (1280, 32, 5120, 16),
}
POOLINGS = ("cls", "gap")
ACTIVATIONS = ("gelu_tanh", "gelu")
POSITION_INTERPOLATIONS = ("bilinear", "bicubic")
MAX_PATCHES = 65_536


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A Vision Transformer, complete: the same value always builds the same model.

    name: the variant it came from, "vit-b/16".
    num_classes: outputs of the head.
    image_size: (height, width) in pixels, each divisible by patch_size.
    width, depth, mlp_dim, heads: D, L, MLP size and k of the paper's table 1.
    pooling: "cls" (a class token) or "gap" (mean over the patches, no class token).
    representation_size: width of the pre-training head's hidden layer (tanh), None for a single linear
        layer (paper, section 3.1).
    layer_norm_epsilon: 1e-6 in Google's code.
    activation: of the MLP: "gelu_tanh", the approximation of flax's `nn.gelu`, or "gelu", the erf form
        (timm, DeiT, DINOv2, Hugging Face).
    layer_scale: initial gain per channel of every residual branch (arXiv 2103.17239; DINOv2), or None.
    position_interpolation: how position embeddings go to another image size: "bilinear" with aligned
        corners (Google's code) or "bicubic" as torch has it (DINOv2, Hugging Face); see `tfvit.posemb`.
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
    pooling: str = "cls"
    representation_size: int | None = None
    layer_norm_epsilon: float = 1e-6
    activation: str = "gelu_tanh"
    layer_scale: float | None = None
    position_interpolation: str = "bilinear"
    dropout: float = 0.0
    stochastic_depth: float = 0.0

    def __post_init__(self) -> None:
        size = self.image_size
        size = (size, size) if isinstance(size, int) else tuple(size)
        object.__setattr__(self, "image_size", size)
        if len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
            raise UserError(f"image size {size} is not a height and a width in pixels")
        for field in ("num_classes", "patch_size", "width", "depth", "mlp_dim", "heads"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"model {self.name}: {field} must be at least 1, not {value!r}")
        uneven = [n for n in size if n % self.patch_size]
        if uneven:
            lower = max(self.patch_size, uneven[0] // self.patch_size * self.patch_size)
            raise UserError(
                f"image size {'x'.join(map(str, size))} is not divisible by the patch size "
                f"{self.patch_size} of {self.name}; take {lower} or {lower + self.patch_size}"
            )
        if self.grid[0] * self.grid[1] > MAX_PATCHES:
            raise UserError(
                f"image size {size[0]}x{size[1]} makes {self.grid[0] * self.grid[1]} patches of "
                f"{self.patch_size} pixels; at most {MAX_PATCHES}"
            )
        if self.width % self.heads:
            raise UserError(
                f"model {self.name}: width {self.width} is not divisible by heads {self.heads}"
            )
        for field, known in (
            ("pooling", POOLINGS),
            ("activation", ACTIVATIONS),
            ("position_interpolation", POSITION_INTERPOLATIONS),
        ):
            if getattr(self, field) not in known:
                raise UserError(
                    f"{field} {getattr(self, field)!r} is not one of {', '.join(known)}"
                )
        hidden = self.representation_size
        if hidden is not None and (not isinstance(hidden, int) or hidden < 1):
            raise UserError(f"representation_size must be at least 1 or none, not {hidden!r}")
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

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (down, across)."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches: 1 with a class token, else 0."""
        return 1 if self.pooling == "cls" else 0

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
        return {**dataclasses.asdict(self), "image_size": list(self.image_size)}

    @classmethod
    def from_json(cls, values: dict) -> Architecture:
        """An architecture from `to_json`'s dictionary; UserError names a missing or unknown field."""
        try:
            return cls(**values)
        except TypeError as error:
            raise UserError(f"architecture: {error}") from None


def named(
    name: str, num_classes: int, image_size: int | tuple[int, int] = 224, /, **changes
) -> Architecture:
    """The architecture of "vit-VARIANT/PATCH", such as "vit-b/16" or "vit-ti/4".

    changes: any other field of Architecture: pooling="gap", depth=6, dropout=0.1.
    Raises UserError for an unknown name or field, or an image size that the patch does not divide.
    """
    match = re.fullmatch(r"(.+)/(\d+)", name.lower())
    if not match or match[1] not in VARIANTS:
        known = ", ".join(f"{v}/PATCH" for v in VARIANTS)
        close = difflib.get_close_matches(name.lower().split("/")[0], VARIANTS, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}/16? " if close else ""
        raise UserError(f"unknown model {name!r}: {hint}known are {known} (PATCH in pixels)")
    taken = sorted({"name", "num_classes", "image_size", "patch_size"} & changes.keys())
    if taken:
        raise UserError(f"{taken[0]} is not set as a further field: it is given apart")
    width, depth, mlp_dim, heads = VARIANTS[match[1]]
    values = {"width": width, "depth": depth, "mlp_dim": mlp_dim, "heads": heads, **changes}
    return Architecture.from_json(
        {
            "name": name.lower(),
            "num_classes": num_classes,
            "image_size": image_size,
            "patch_size": int(match[2]),
            **values,
        }
    )
