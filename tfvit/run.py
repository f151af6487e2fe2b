"""Run: a training run, complete; the same value gives the same weights on the same machine."""

from __future__ import annotations

import dataclasses

from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.data import DataOptions
from tfvit.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Run:
    """What is trained, on what, and how.

    architecture, preprocess: of the model. recipe: resolved. init: a checkpoint folder to start from.
    options: what the command line said, for `--resume` to compare.
    """

    architecture: Architecture | ResNetArchitecture
    preprocess: PreprocessSpec
    data: DataOptions
    recipe: Recipe
    init: str | None = None
    options: dict = dataclasses.field(default_factory=dict)

    @property
    def command(self) -> str:
        """The command of `tfvit` that it is a run of."""
        return "pretrain" if self.recipe.pretraining else "train"

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return {
            "architecture": self.architecture.to_json(),
            "preprocess": self.preprocess.to_json(),
            "data": dataclasses.asdict(self.data),
            "recipe": self.recipe.to_json(),
            "init": self.init,
            "options": self.options,
        }

    @classmethod
    def from_json(cls, values: dict) -> Run:
        """A run from `to_json`'s dictionary."""
        return cls(
            architecture.from_json(values["architecture"]),
            PreprocessSpec.from_json(values["preprocess"]),
            DataOptions(**values["data"]),
            Recipe.from_json(values["recipe"]),
            values["init"],
            dict(values["options"]),
        )

    def provenance(self, step: int, metrics: dict) -> dict:
        """What a checkpoint of this run says of where its weights come from."""
        return {
            "step": step,
            "metrics": metrics,
            "recipe": self.recipe.to_json(),
            "data": dataclasses.asdict(self.data),
            "init": self.init,
        }
