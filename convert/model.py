"""The float model at the resolution that it is exported at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from convert import fold
from edge_demo.preprocess import PreprocessSpec
from tfvit import checkpoint, posemb
from tfvit.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class Model:
    """weights: of the checkpoint, its position embeddings interpolated. sha256: of the checkpoint's."""

    architecture: Architecture
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    scores: str
    weights: fold.Weights
    provenance: dict
    sha256: str

    @property
    def pixel_spec(self) -> PreprocessSpec:
        """The preprocessing of the exported files: their graph takes grey levels as they are."""
        return dataclasses.replace(self.preprocess, **fold.UNIT_SCALE)

    @property
    def size(self) -> str:
        """Of the input, for people and file names: "224", or "128x96" where it is not square."""
        height, width = self.architecture.image_size
        return f"{height}" if height == width else f"{height}x{width}"


def read(folder: Path, image_size: tuple[int, int] | None = None) -> Model:
    """The model of a checkpoint folder for images of `image_size`, or of the size that it has.

    Raises UserError if the folder is not a good checkpoint, or the patch does not divide the size.
    """
    config = checkpoint.read_config(folder)
    weights = checkpoint.read_weights(folder, config)
    arch, spec = config["architecture"], config["preprocess"]
    if image_size:
        weights, arch = posemb.at_resolution(weights, arch, image_size)
        spec = spec.at(*image_size)
    sha256 = config["weights_sha256"]
    labels, scores = config["labels"], config["scores"]
    return Model(arch, spec, labels, scores, weights, config["provenance"], sha256)
