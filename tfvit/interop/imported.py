"""A model of another library, read: from there to a model of ours it is the same way for all."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SOFTMAX
from tfvit import checkpoint, posemb
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.model import Model, build, named_weights
from tfvit.transfer import Transfer, grid_text


@dataclasses.dataclass(frozen=True)
class Imported:
    """Everything of a model of another library but the image size it is wanted at.

    weights: ours, float32 by name, at the architecture's own image size; a head may be missing.
    preprocess: of the size that the library would give it.
    reset, dropped: what became of weights that were not just loaded: name, remark.
    origin: where it comes from: "source", "format", "sha256" and what else is known; JSON types.
    scores: how logits become scores, a name of `edge_demo.scores.SCORES`.
    """

    architecture: Architecture | ResNetArchitecture
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    weights: dict[str, np.ndarray]
    reset: dict[str, str]
    dropped: dict[str, str]
    origin: dict
    scores: str = SOFTMAX


def finish(
    read: Imported, image_size: tuple[int, int] | None, where: Path
) -> tuple[Model, Transfer]:
    """The model at an image size (None: its preprocessing's where it fits), and what became of what.

    Position embeddings are interpolated to it; a missing head is zero. The weights leave `read`.
    Raises UserError if weights are missing or do not fit.
    """
    old = read.architecture
    if image_size is None:
        wanted = (read.preprocess.height, read.preprocess.width)
        stride = getattr(old, "stride", 1)
        image_size = old.image_size if any(n % stride for n in wanted) else wanted
    new = dataclasses.replace(old, image_size=image_size)
    model = build(
        new,
        labels=read.labels,
        preprocess=read.preprocess.at(*image_size),
        scores=read.scores,
        provenance={"imported": read.origin},
    )
    weights, result = read.weights, Transfer([], {}, dict(read.reset), dict(read.dropped))
    if isinstance(new, Architecture) and old.grid != new.grid:
        for name in posemb.at_grid(weights, old, new):
            result.resized[name] = f"{grid_text(old)} -> {grid_text(new)}"
    for name, variable in named_weights(model).items():
        if name.startswith("head") and name not in weights:
            weights[name] = np.zeros(variable.shape, np.float32)
            result.reset[name] = "no classifier there: one class, zero"
    result.loaded.extend(n for n in weights if n not in result.reset | result.resized)
    result.not_finite.extend(n for n, value in weights.items() if not np.isfinite(value).all())
    checkpoint.assign(model, weights, str(where))
    return model, result
