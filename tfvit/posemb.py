"""Position embeddings at another resolution: 2-D interpolation of the grid of learned vectors."""

from __future__ import annotations

import numpy as np

CUBIC = -0.75  # torch's; Pillow and tf.image have -0.5


def resize(
    embedding: np.ndarray, old: tuple[int, int], new: tuple[int, int], interpolation: str
) -> np.ndarray:
    """Position embeddings float32 [prefix + h * w, d] of one patch grid for another grid.

    old, new: (h, w) in patches; rows before the last h * w (the class token) are kept as they are.
    interpolation: what the checkpoint's family does, `Architecture.position_interpolation`:
        "bilinear" with aligned corners, that is `scipy.ndimage.zoom(order=1)`
        (google-research/vision_transformer, vit_jax/checkpoint.py);
        "bicubic" with half-pixel centres, not antialiased, that is torch's `interpolate`
        (transformers, models/dinov2/modeling_dinov2.py).
    """
    if tuple(old) == tuple(new):
        return embedding
    prefix = len(embedding) - old[0] * old[1]
    grid = embedding[prefix:].reshape(*old, -1)
    rows, columns = (_MATRICES[interpolation](o, n) for o, n in zip(old, new))
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


def _half_pixel_cubic(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] of cubic convolution (Keys, a = -0.75) with the border points repeated."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    low = np.floor(at).astype(int)
    matrix = np.zeros((new, old))
    for point in range(-1, 3):
        x = np.abs(at - low - point)
        near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
        far = CUBIC * (((x - 5) * x + 8) * x - 4)
        points = np.clip(low + point, 0, old - 1)
        np.add.at(matrix, (np.arange(new), points), np.where(x <= 1, near, far))
    return matrix


_MATRICES = {"bilinear": _aligned_corners, "bicubic": _half_pixel_cubic}
