"""Position embeddings at another resolution: 2-D interpolation of the grid of learned vectors."""

from __future__ import annotations

import numpy as np


def resize(embedding: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Position embeddings float32 [prefix + h * w, d] of one patch grid for another grid.

    old, new: (h, w) in patches; rows before the last h * w (the class token) are kept as they are.
    Bilinear with aligned corners, that is `scipy.ndimage.zoom(order=1)`, as the paper's code does it
    (google-research/vision_transformer, vit_jax/checkpoint.py); half-pixel resizing differs.
    """
    if tuple(old) == tuple(new):
        return embedding
    prefix = len(embedding) - old[0] * old[1]
    grid = embedding[prefix:].reshape(*old, -1)
    rows, columns = (_aligned_corners(o, n) for o, n in zip(old, new))
    grid = np.einsum("ah,hwd,bw->abd", rows, grid.astype(np.float64), columns)
    grid = grid.reshape(new[0] * new[1], -1).astype(embedding.dtype)
    return np.concatenate([embedding[:prefix], grid])


def _aligned_corners(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] that samples `old` points linearly at `new` points from end to end."""
    at = np.linspace(0, old - 1, new) if new > 1 else np.zeros(1)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    matrix[np.arange(new), low] = 1 - (at - low)
    matrix[np.arange(new), np.minimum(low + 1, old - 1)] += at - low
    return matrix
