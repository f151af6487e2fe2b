"""Outlier channels of the residual stream, brought to the size of the others: exact, for int8's sake.

Trained ViTs have a few channels that are ten times as large as the rest. One scale per tensor then leaves
the rest a few of 255 steps, and their squares, of which every norm takes the mean, round to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from convert import edge_graph, fold, sites
from convert.fold import Weights
from tfvit.architecture import Architecture

MOST = 127  # of a channel's weight in the mean, over the least: what an int8 kernel can hold


def outliers(
    weights: Weights,
    arch: Architecture,
    batches: Iterable[tf.Tensor],
    advance: Callable[[], object],
) -> np.ndarray:
    """How far each channel of the residual stream goes beyond its median channel: [width], 1 and more.

    batches: grey levels [b, h, w, 3]. The furthest of all places in the graph counts.
    """

    first = sites.first_residual(arch)

    def extent(name: str, x: tf.Tensor) -> tf.Tensor | None:
        if name == first or name.endswith("/residual"):
            return tf.reduce_max(tf.abs(tf.reshape(x, [-1, arch.width])), axis=0)
        return None

    extents: dict[str, np.ndarray] = {}
    for seen in edge_graph.observe(weights, arch, batches, extent, advance):
        for name, found in seen.items():
            extents[name] = np.maximum(extents.get(name, 0), found)
    ratios = [extent / max(np.median(extent), 1e-12) for extent in extents.values()]
    return np.maximum(np.max(ratios, axis=0), 1.0)


def equalise(weights: Weights, arch: Architecture, beyond: np.ndarray) -> Weights:
    """The same function with every channel of the residual stream divided by about `beyond` (`outliers`).

    With x' = a x, what writes x gives a x, what reads its norm has its rows divided by a, and the mean
    of x^2 is the mean of n x'^2 with n = 1 / a^2. The n are whole numbers up to MOST, times one
    constant, so that an int8 kernel holds them without error: `residual/mean` [width, 1].
    """
    excess = np.minimum(np.square(beyond, dtype=np.float64), MOST)
    unit = MOST / excess.max()
    number = np.clip(np.round(excess * unit), 1, MOST)
    a = np.sqrt(unit / number)
    w = dict(weights)
    for name in fold.residual_writers(w, arch):
        w[name] = w[name] * a
    for dense in fold.norm_readers(arch):
        kernel = w[f"{dense}/kernel"]  # several class tokens lie one behind the other
        w[f"{dense}/kernel"] = kernel / np.resize(a, len(kernel))[:, np.newaxis]
    if "features/gamma" in w:
        w["features/gamma"] = w["features/gamma"] / np.resize(a, len(w["features/gamma"]))
    w["residual/mean"] = number[:, np.newaxis] / (unit * arch.width)
    return {name: np.asarray(value, np.float32) for name, value in w.items()}
