from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tfvit import posemb
from tfvit.architecture import POSITION_INTERPOLATIONS

GRIDS = [
    ((14, 14), (24, 24)),
    ((24, 24), (14, 14)),
    ((14, 14), (7, 7)),
    ((14, 14), (15, 13)),
    ((3, 5), (6, 4)),
    ((8, 2), (3, 11)),
    ((1, 5), (4, 2)),
    ((5, 1), (2, 4)),
    ((1, 1), (3, 3)),
    ((3, 3), (1, 1)),
    ((2, 7), (1, 3)),
    ((2, 2), (37, 37)),
]


def embedding(grid, prefix, width=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((prefix + grid[0] * grid[1], width)).astype(np.float32)


def zoomed(grid_rows, old, new):
    """As google-research/vision_transformer does it, vit_jax/checkpoint.py, and channel by channel."""
    grid = grid_rows.astype(np.float64).reshape(*old, -1)
    together = ndimage.zoom(grid, (new[0] / old[0], new[1] / old[1], 1), order=1)
    factors = (new[0] / old[0], new[1] / old[1])
    channels = [ndimage.zoom(grid[..., i], factors, order=1) for i in range(grid.shape[-1])]
    np.testing.assert_array_equal(together, np.stack(channels, axis=-1))
    return together.reshape(new[0] * new[1], -1)


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("old, new", GRIDS, ids=lambda grid: "x".join(map(str, grid)))
def test_resizing_is_scipys_zoom_and_keeps_the_rows_before_the_patches(old, new, prefix):
    rows = embedding(old, prefix)
    resized = posemb.resize(rows, old, new, "bilinear")
    assert resized.dtype == np.float32
    assert resized.shape == (prefix + new[0] * new[1], rows.shape[1])
    np.testing.assert_array_equal(resized[:prefix], rows[:prefix])
    np.testing.assert_allclose(resized[prefix:], zoomed(rows[prefix:], old, new), atol=1e-6)


def test_the_corners_stay_where_they_are():
    rows = embedding((6, 9), 0)
    before = rows.reshape(6, 9, -1)
    after = posemb.resize(rows, (6, 9), (13, 5), "bilinear").reshape(13, 5, -1)
    for y in (0, -1):
        for x in (0, -1):
            np.testing.assert_allclose(after[y, x], before[y, x], atol=1e-6)


# old grid, its values in rows, new grid, what torch 2.13's `interpolate(mode="bicubic",
# align_corners=False)` makes of them
TORCH = [
    (
        (3, 4),
        [1, 4, 2, 2, 4, 1, 0, 1, 4, 2, 2, 4],
        (5, 2),
        [2.6965, 1.9475, 2.621875, 1.080125, 2.59375, 0.40625, 2.835625, 1.892375, 3.039, 3.249],
    ),
    (
        (2, 3),
        [1, 4, 2, 2, 4, 0],
        (4, 2),
        [1.661011, 2.725449, 1.941162, 2.200165, 2.402588, 1.334991, 2.682739, 0.809708],
    ),
    ((1, 5), [1, 4, 2, 2, 4], (2, 3), [2.055556, 2.0, 3.37037] * 2),
]


@pytest.mark.parametrize("prefix", [0, 1])
@pytest.mark.parametrize("old, values, new, expected", TORCH)
def test_bicubic_is_torchs(old, values, new, expected, prefix):
    rows = np.array([7.0] * prefix + values, np.float32)[:, np.newaxis] * [1, -2]
    resized = posemb.resize(rows.astype(np.float32), old, new, "bicubic")
    assert resized.dtype == np.float32
    expected = np.array([7.0] * prefix + expected)[:, np.newaxis] * [1, -2]
    np.testing.assert_allclose(resized, expected, atol=2e-6)


@pytest.mark.parametrize("old, new", GRIDS, ids=lambda grid: "x".join(map(str, grid)))
def test_antialiased_bicubic_is_pillows(old, new):
    rows = embedding(old, 1)
    resized = posemb.resize(rows, old, new, "bicubic_antialias")
    np.testing.assert_array_equal(resized[0], rows[0])
    for channel in range(rows.shape[1]):
        image = Image.fromarray(rows[1:, channel].reshape(old))
        expected = np.asarray(image.resize(new[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_allclose(resized[1:, channel].reshape(new), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", POSITION_INTERPOLATIONS)
@pytest.mark.parametrize("grid", [(14, 14), (3, 7), (1, 1)])
def test_the_same_grid_leaves_every_bit(grid, interpolation):
    rows = embedding(grid, 1)
    np.testing.assert_array_equal(posemb.resize(rows, grid, list(grid), interpolation), rows)


@pytest.mark.parametrize("interpolation", POSITION_INTERPOLATIONS)
@pytest.mark.parametrize("old, new", GRIDS, ids=lambda grid: "x".join(map(str, grid)))
def test_a_constant_stays_one(old, new, interpolation):
    rows = np.full((old[0] * old[1], 2), 3.0, np.float32)
    resized = posemb.resize(rows, old, new, interpolation)
    np.testing.assert_allclose(resized, np.full((new[0] * new[1], 2), 3.0), atol=1e-6)


@pytest.mark.parametrize("interpolation", POSITION_INTERPOLATIONS)
def test_the_given_embedding_is_not_changed(interpolation):
    rows = embedding((4, 4), 1)
    copy = rows.copy()
    posemb.resize(rows, (4, 4), (8, 8), interpolation)
    np.testing.assert_array_equal(rows, copy)
