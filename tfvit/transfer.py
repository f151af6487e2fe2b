"""Starting from another checkpoint: another image size, other classes, another pooling."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from tfvit import checkpoint, posemb
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.model import Model, named_weights

VIT = ("stem", "position", "width", "depth", "mlp_dim", "heads", "layer_norm_epsilon")
VIT += ("qkv_bias", "activation", "layer_scale", "position_interpolation")
Arch = Architecture | ResNetArchitecture
SAME = {Architecture: VIT, ResNetArchitecture: ("units", "width_factor")}


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What became of the weights: names by outcome, and a remark on each that was not just loaded.

    not_finite: those that hold a value which is no number.
    """

    loaded: list[str]
    resized: dict[str, str]
    reset: dict[str, str]
    dropped: dict[str, str]
    not_finite: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """The report as people read it."""
        lines = [f"  loaded   {len(self.loaded)} weights"]
        for what in ("resized", "reset", "dropped"):
            for name, remark in getattr(self, what).items():
                lines.append(f"  {what:<8} {name}  {remark}")
        for name in self.not_finite:
            lines.append(f"  warning  {name} holds values that are no numbers")
        return lines


def initialise(model: Model, folder: str | Path) -> Transfer:
    """Gives a model the weights of a checkpoint, as the paper fine-tunes (section 3.2).

    Position embeddings are interpolated in 2-D to the new grid, and the patch embedding is resampled to
    another patch size (`posemb.resample_patches`). The head is set to zero, unless both know the same
    labels in the same order and read the same features. What the model does not have is dropped.
    Raises UserError if the checkpoint is of another shape than the model.
    """
    config = checkpoint.read_config(folder)
    weights = checkpoint.read_weights(folder, config)
    old, new = config["architecture"], model.architecture
    check(folder, old, new)
    result = Transfer([], {}, {}, {})
    if isinstance(new, Architecture):
        for name in posemb.at_grid(weights, old, new):
            result.resized[name] = f"{grid_text(old)} -> {grid_text(new)}"
        if old.patch_size != new.patch_size and "embedding/kernel" in weights:
            kernel = posemb.resample_patches(weights["embedding/kernel"], new.patch_size)
            weights["embedding/kernel"] = kernel
            result.resized["embedding/kernel"] = f"patch {old.patch_size} -> {new.patch_size}"
    same_head = (config["labels"], _features(old)) == (model.labels, _features(new))
    variables = named_weights(model)
    for name, variable in variables.items():
        shape = tuple(variable.shape)
        if name.startswith("head") and not same_head:
            variable.assign(np.zeros(shape, np.float32))
            result.reset[name] = f"{old.num_classes} -> {new.num_classes} classes, zero"
        elif name not in weights:
            result.reset[name] = "not in the checkpoint, initial value"
        elif weights[name].shape != shape:  # a pre-logits layer of another width, other registers
            result.reset[name] = f"{weights[name].shape} -> {shape}, initial value"
        else:
            variable.assign(weights[name])
            if name not in result.resized:
                result.loaded.append(name)
    result.dropped.update(
        {name: f"{value.shape}" for name, value in weights.items() if name not in variables}
    )
    return result


def check(folder: str | Path, old: Arch, new: Arch) -> None:
    """UserError if weights of one architecture, which are in a folder, do not fit another."""
    if type(old) is not type(new):
        raise UserError(f"{folder}: is {old.name}, of another family than {new.name}")
    for field in SAME[type(new)]:
        if getattr(old, field) != getattr(new, field):
            raise UserError(
                f"{folder}: is {old.name} with {field} {getattr(old, field)}, "
                f"which does not fit {new.name} with {field} {getattr(new, field)}"
            )


def _features(arch: Arch) -> tuple:
    """What a head of the same weights must agree on."""
    pooling = getattr(arch, "pooling", None)
    fields = ("representation_size", "distillation_token")
    own = pooling if pooling in ("cls+gap", "map") else None  # a class token is near the mean
    return own, *(getattr(arch, field, None) for field in fields)


def grid_text(arch: Architecture) -> str:
    """A model's tokens in words: "class token + 16x16 patches"."""
    prefix = ("", "class token + ", "2 class tokens + ")[arch.class_tokens]
    return f"{prefix}{arch.grid[0]}x{arch.grid[1]} patches"
