"""Recipe: everything that decides how a model is trained, but for the model and the data."""

from __future__ import annotations

import dataclasses

from edge_demo.errors import UserError
from tfvit.data.augment import Augmentation

DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}  # name: tf_keras policy


@dataclasses.dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up and cosine decay, and what is done to the images.

    steps, warmup_steps: optimizer steps, in all and of the warm-up.
    batch_size: global, over all devices.
    clip_norm: largest global norm of the gradient; None does not clip.
    dtype: "float32" or "bfloat16", of the computation; weights are float32 always.
    eval_every: steps between evaluations, each followed by a checkpoint.
    """

    steps: int
    warmup_steps: int
    batch_size: int
    eval_every: int
    learning_rate: float
    weight_decay: float
    clip_norm: float | None
    label_smoothing: float
    augmentation: Augmentation
    dtype: str
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} {getattr(self, name)} must be more than 0")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"label smoothing {self.label_smoothing} is not in [0, 1)")
        if self.weight_decay < 0 or self.warmup_steps < 0:
            raise UserError("weight decay and warm-up cannot be negative")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> Recipe:
        """A recipe from `to_json`'s dictionary."""
        try:
            return cls(**{**values, "augmentation": Augmentation(**values["augmentation"])})
        except (TypeError, KeyError) as error:
            raise UserError(f"recipe: {error}") from None
