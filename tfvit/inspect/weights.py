"""What the weights alone tell: the filters that see the pixels, and the places that positions stand for."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA

from tfvit import posemb, resnet
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.model import Model, named_weights

SHOWN = 28  # principal components in the paper's figure 7


def filters(model: Model, count: int = SHOWN) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of the filters that see the pixels, and the share of the variance of each.

    float32 [k, height, width, 3] of length 1 each, and [k], the largest share first; k is `count`, or as
    many as there are. The filters are those of the patch embedding or, of a ResNet and of a hybrid, of its
    root.
    Source: arXiv 2010.11929, figure 7, left.
    """
    kernel = _kernel(model)  # [h, w, 3, d]
    found = PCA(min(count, kernel.shape[-1], kernel[..., 0].size), svd_solver="full")
    found.fit(kernel.reshape(-1, kernel.shape[-1]).T)
    components = found.components_.reshape(-1, *kernel.shape[:3])
    return components, found.explained_variance_ratio_


def _kernel(model: Model) -> np.ndarray:
    arch, weights = model.architecture, named_weights(model)
    if isinstance(arch, ResNetArchitecture):
        return resnet.standardise(weights["root/conv/kernel"], like_stem=False).numpy()
    if arch.stem is not None:
        return resnet.standardise(weights["stem/root/conv/kernel"], like_stem=True).numpy()
    return weights["embedding/kernel"].numpy()


def positions(model: Model) -> np.ndarray | None:
    """What is added to the patch of each place: float32 [down, across, d]; None if nothing is."""
    arch, weights = model.architecture, named_weights(model)
    kind = arch.position if isinstance(arch, Architecture) else None
    if kind == "learned":
        return weights["position/embedding"].numpy()[0, arch.class_tokens :].reshape(*arch.grid, -1)
    if kind == "learned_2d":
        layer = model.get_layer("position")
        return layer(np.zeros([1, *arch.grid, arch.width], np.float32)).numpy()[0]
    return posemb.sincos_2d(*arch.grid, arch.width) if kind == "sincos_2d" else None


def position_similarity(
    embeddings: np.ndarray,
    rows: np.ndarray | slice = slice(None),
    columns: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """Cosine of the embeddings of places with those of all places: float32 [rows, columns, down, across].

    embeddings: [down, across, d], see `positions`. rows, columns: indices of those that are compared, all
    if none are given. Source: arXiv 2010.11929, figure 7, centre.
    """
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    units = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return np.einsum("rcd,hwd->rchw", units[rows][:, columns], units, optimize=True)
