"""Position embeddings, fixed and at another resolution, and the patch embedding at another patch size."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfvit.architecture import Architecture, ResNetArchitecture

CUBIC = -0.75  # torch's
CUBIC_ANTIALIAS = -0.5  # torch's with antialias, Pillow's and tf.image's


def sincos_2d(h: int, w: int, width: int) -> np.ndarray:
    """Fixed position embeddings float32 [h, w, width] of sines and cosines, the column's half first.

    Source: google-research/big_vision, models/vit.py `posemb_sincos_2d` (MoCo v3, arXiv 2104.02057).
    """
    omega = 10_000.0 ** -np.linspace(0, 1, width // 4)
    y, x = np.mgrid[:h, :w]
    y, x = y[..., np.newaxis] * omega, x[..., np.newaxis] * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], -1).astype(np.float32)


def distances(n: int) -> np.ndarray:
    """Row of a relative embedding [2 n - 1, ...] for each pair of tokens (query, key): int [n, n]."""
    return np.arange(n)[:, np.newaxis] - np.arange(n) + n - 1


def at_resolution(
    weights: dict[str, np.ndarray],
    arch: Architecture | ResNetArchitecture,
    image_size: tuple[int, int],
) -> tuple[dict[str, np.ndarray], Architecture | ResNetArchitecture]:
    """The model for another image size: its position embeddings interpolated to the new grid."""
    new = dataclasses.replace(arch, image_size=image_size)
    weights = dict(weights)
    if isinstance(new, Architecture):
        at_grid(weights, arch, new)
    return weights, new


def at_grid(weights: dict[str, np.ndarray], old: Architecture, new: Architecture) -> list[str]:
    """Resizes a model's position embeddings in `weights` for another grid or other class tokens.

    Returns the names of those it changed. A class token that is new has no position of its own, that is
    zeros; distances of "relative" are interpolated along the sequence.
    """
    changed = []

    def put(name: str, value: np.ndarray) -> None:
        changed.append(name)
        weights[name] = value

    if new.position == "learned" and _places(old) != _places(new):
        value = weights["position/embedding"][0]
        value = resize(value, old.grid, new.grid, new.position_interpolation)
        patches = value[old.class_tokens :]
        prefix = np.zeros((new.class_tokens, new.width), np.float32)  # of a token that is new
        kept = value[: min(old.class_tokens, new.class_tokens)]
        prefix[: len(kept)] = kept
        put("position/embedding", np.concatenate([prefix, patches])[np.newaxis])
    elif new.position == "learned_2d":
        for name, axis in (("position/rows", 0), ("position/columns", 1)):
            if old.grid[axis] == new.grid[axis]:
                continue
            matrix = _MATRICES[new.position_interpolation](old.grid[axis], new.grid[axis])
            put(name, (matrix @ weights[name]).astype(np.float32))
    elif new.position == "relative" and old.tokens != new.tokens:
        matrix = _aligned_corners(2 * old.tokens - 1, 2 * new.tokens - 1)
        for i in range(new.depth):
            name = f"block_{i}/attention/relative"
            put(name, (matrix @ weights[name]).astype(np.float32))
    return changed


def _places(arch: Architecture) -> tuple:
    """What learned positions are for: as many patches in another shape are other ones."""
    return arch.grid, arch.class_tokens


def resize(
    embedding: np.ndarray, old: tuple[int, int], new: tuple[int, int], interpolation: str
) -> np.ndarray:
    """Position embeddings float32 [prefix + h * w, d] of one patch grid for another grid.

    old, new: (h, w) in patches; rows before the last h * w (the class token) are kept as they are.
    interpolation: what the checkpoint's family does, `Architecture.position_interpolation`:
        "bilinear" with aligned corners, that is `scipy.ndimage.zoom(order=1)`
        (google-research/vision_transformer, vit_jax/checkpoint.py);
        "bicubic" with half-pixel centres, not antialiased, that is torch's `interpolate`
        (transformers, models/dinov2/modeling_dinov2.py);
        "bicubic_antialias", the same function with antialias=True, which is Pillow's filter
        (timm, layers/pos_embed.py; transformers, models/dinov2_with_registers).
    """
    if tuple(old) == tuple(new):
        return embedding
    prefix = len(embedding) - old[0] * old[1]
    grid = embedding[prefix:].reshape(*old, -1)
    rows, columns = (_MATRICES[interpolation](o, n) for o, n in zip(old, new))
    grid = np.einsum("ah,hwd,bw->abd", rows, grid.astype(np.float64), columns)
    grid = grid.reshape(new[0] * new[1], -1).astype(embedding.dtype)
    return np.concatenate([embedding[:prefix], grid])


def resample_patches(kernel: np.ndarray, size: int) -> np.ndarray:
    """A patch embedding [p, p, c, d] for patches of `size` pixels: PI-resize (FlexiViT, arXiv 2212.08013).

    A patch that is enlarged bilinearly then has the same embedding as before.
    """
    matrix = _half_pixel_linear(kernel.shape[0], size)  # what resizes a patch, [size, p]
    back = np.linalg.pinv(matrix)  # [p, size]
    return np.einsum("pa,pqcd,qb->abcd", back, kernel.astype(np.float64), back).astype(np.float32)


def _half_pixel_linear(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] that samples linearly with half-pixel centres, the border repeated."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.minimum(at.astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), low), 1 - (at - low))
    np.add.at(matrix, (np.arange(new), np.minimum(low + 1, old - 1)), at - low)
    return matrix


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
        points = np.clip(low + point, 0, old - 1)
        np.add.at(matrix, (np.arange(new), points), _keys(at - low - point, CUBIC))
    return matrix


def _antialiased_cubic(old: int, new: int) -> np.ndarray:
    """The matrix [new, old] of cubic convolution with a kernel as wide as the points of the coarser side."""
    centres = (np.arange(new) + 0.5) * old / new
    stretch = max(old / new, 1)
    at = (np.arange(old) + 0.5 - centres[:, np.newaxis]) / stretch
    matrix = _keys(at, CUBIC_ANTIALIAS)
    return matrix / matrix.sum(axis=1, keepdims=True)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic kernel of parameter `a`: 0 from 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


_MATRICES = {
    "bilinear": _aligned_corners,
    "bicubic": _half_pixel_cubic,
    "bicubic_antialias": _antialiased_cubic,
}
