"""Starting from another checkpoint: another image size, other classes, another pooling."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from tfvit import checkpoint, posemb
from tfvit.architecture import Architecture
from tfvit.vit import VisionTransformer, named_weights

SAME = ("patch_size", "width", "depth", "mlp_dim", "heads", "layer_norm_epsilon")
SAME += ("activation", "layer_scale", "position_interpolation")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What became of the weights: names by outcome, and a remark on each that was not just loaded."""

    loaded: list[str]
    resized: dict[str, str]
    reset: dict[str, str]
    dropped: dict[str, str]

    def lines(self) -> list[str]:
        """The report as people read it."""
        lines = [f"  loaded   {len(self.loaded)} weights"]
        for what in ("resized", "reset", "dropped"):
            for name, remark in getattr(self, what).items():
                lines.append(f"  {what:<8} {name}  {remark}")
        return lines


def initialise(model: VisionTransformer, folder: str | Path) -> Transfer:
    """Gives a model the weights of a checkpoint, as the paper fine-tunes (section 3.2).

    Position embeddings are interpolated in 2-D to the new grid. The head is set to zero, unless both
    know the same labels in the same order and read the same features. A pre-logits layer that the
    model does not have is dropped.
    Raises UserError if the checkpoint is of another shape than the model.
    """
    config = checkpoint.read_config(folder)
    weights = checkpoint.read_weights(folder, config)
    old, new = config["architecture"], model.architecture
    for field in SAME:
        if getattr(old, field) != getattr(new, field):
            raise UserError(
                f"{folder}: is {old.name} with {field} {getattr(old, field)}, "
                f"which does not fit {new.name} with {field} {getattr(new, field)}"
            )
    same_head = (config["labels"], old.representation_size) == (
        model.labels,
        new.representation_size,
    )
    result = Transfer([], {}, {}, {})
    variables = named_weights(model)
    for name, variable in variables.items():
        shape = tuple(variable.shape)
        if name.startswith("head/") and not same_head:
            variable.assign(np.zeros(shape, np.float32))
            result.reset[name] = f"{old.num_classes} -> {new.num_classes} classes, zero"
        elif name not in weights:
            result.reset[name] = "not in the checkpoint, initial value"
        elif name == "position/embedding" and (old.grid, old.pooling) != (new.grid, new.pooling):
            value = _position(weights[name][0], old, new, variable.numpy()[0])
            variable.assign(value[np.newaxis])
            result.resized[name] = f"{grid_text(old)} -> {grid_text(new)}"
        elif weights[name].shape != shape:  # only a pre-logits layer of another width
            result.reset[name] = f"{weights[name].shape} -> {shape}, initial value"
        else:
            variable.assign(weights[name])
            result.loaded.append(name)
    result.dropped.update(
        {name: f"{value.shape}" for name, value in weights.items() if name not in variables}
    )
    return result


def _position(old_rows: np.ndarray, old, new, initial: np.ndarray) -> np.ndarray:
    """Position embeddings [tokens, d] of the new grid; a class token's row is kept, dropped or initial."""
    patches = old_rows[old.prefix_tokens :]
    patches = posemb.resize(patches, old.grid, new.grid, old.position_interpolation)
    rows = old_rows if old.prefix_tokens else initial
    return np.concatenate([rows[: new.prefix_tokens], patches])


def grid_text(arch: Architecture) -> str:
    """A model's tokens in words: "class token + 16x16 patches"."""
    prefix = "class token + " if arch.prefix_tokens else ""
    return f"{prefix}{arch.grid[0]}x{arch.grid[1]} patches"
