"""Random textures that weather is made of: grey levels 0-1, of any size, a function of the generator."""

from __future__ import annotations

import cv2
import numpy as np

NEEDLES = 60  # ice crystals in a square of 224 pixels
BRANCHES = 14  # of a crystal, on both sides


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A cloudy height map by the diamond-square algorithm: [size, size], 0-1; its edges fit each other.

    size: a power of two. decay: of the random displacement from one scale to the next of half the size;
    squared, as ImageNet-C's fog has it.
    """
    heights, step, amplitude = np.zeros((1, 1)), size, 1.0
    while step > 1:  # twice as many points a turn, in each direction
        n = len(heights)
        noise = amplitude * rng.uniform(-1, 1, (3, n, n))
        right, down = np.roll(heights, -1, axis=1), np.roll(heights, -1, axis=0)
        centre = (heights + right + down + np.roll(right, -1, axis=0)) / 4 + noise[0]
        across = (heights + right + centre + np.roll(centre, 1, axis=0)) / 4 + noise[1]
        along = (heights + down + centre + np.roll(centre, 1, axis=1)) / 4 + noise[2]
        finer = np.empty((2 * n, 2 * n))
        finer[::2, ::2], finer[1::2, 1::2] = heights, centre
        finer[::2, 1::2], finer[1::2, ::2] = across, along
        heights, step, amplitude = finer, step // 2, amplitude / decay**2
    heights -= heights.min()
    return heights / heights.max()


def frost(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Ice on a window, RGB [height, width, 3], 0-1: a veil, denser towards an edge, and feathery crystals.

    ImageNet-C cuts it out of photos, which are not ours to give away: this is drawn, and no copy of them.
    """
    size = 1 << (max(height, width) - 1).bit_length()
    veil = plasma(size, 1.4, rng)[:height, :width]
    ridges = 1 - np.abs(2 * plasma(size, 1.25, rng)[:height, :width] - 1)
    side = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    towards = np.clip(0.55 + 0.35 * (x * np.cos(side) + y * np.sin(side)), 0.15, 1)
    ice = np.zeros((height, width), np.uint8)
    for _ in range(max(1, round(NEEDLES * height * width / 224**2))):
        _crystal(ice, rng)
    crystals = cv2.GaussianBlur(ice, (0, 0), 0.7) / 255
    grey = np.clip(towards * (0.5 * veil + 0.4 * ridges**3 + 0.75 * crystals) + 0.15, 0, 1)
    return grey[..., np.newaxis] ** np.array([1.1, 1.0, 0.9])  # a little blue in the thin of it


def _crystal(ice: np.ndarray, rng: np.random.Generator) -> None:
    """Draws a needle with branches at 60 degrees, which are the shorter the nearer the tip."""
    height, width = ice.shape
    foot = np.array([rng.uniform(0, width), rng.uniform(0, height)])
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(20, 70)
    level = int(rng.integers(120, 256))

    def line(start: np.ndarray, angle: float, length: float) -> np.ndarray:
        end = start + length * np.array([np.cos(angle), np.sin(angle)])
        points = [tuple(np.rint(16 * point).astype(int).tolist()) for point in (start, end)]
        cv2.line(ice, *points, level, 1, cv2.LINE_AA, shift=4)
        return end - start

    needle = line(foot, angle, length)
    for along in np.arange(1, BRANCHES + 1) / (BRANCHES + 1):
        for turn in (-np.pi / 3, np.pi / 3):
            line(foot + along * needle, angle + turn, 0.35 * (1 - along) * length)
