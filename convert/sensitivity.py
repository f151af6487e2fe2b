"""What rounding each layer costs on its own."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from convert import answers, edge_graph, qat, sites
from convert.model import Model
from convert.schemes import INTEGER
from convert.tune import Quantized
from tfvit.progress import progress

BATCH = 32


def measure(model: Model, quantized: Quantized, pixels: np.ndarray) -> dict[str, dict[str, float]]:
    """The cost of rounding one layer alone, all others in float, by layer, the most costly first.

    pixels: uint8 [n, h, w, 3]. Returns kl, the mean Kullback-Leibler divergence from the float graph
    in nats, and changed, the share of images with other labels. Where the whole graph is in integers,
    what is between the layers is measured too: norms, residual sums, tokens, the head.
    """
    arch = model.architecture
    weights = quantized.weights
    parts = _parts(model, quantized)
    names = list(parts)
    place = {site: i for i, (_, held) in enumerate(parts.items()) for site in held}
    round_all = qat.rounding(arch, quantized.scheme, quantized.ranges)

    @tf.function(autograph=False)  # traced once: every layer has its switch
    def forward(batch: tf.Tensor, on: tf.Tensor) -> tf.Tensor:
        def quantize(name: str, x: tf.Tensor) -> tf.Tensor:
            if name not in place:
                return x
            x = tf.convert_to_tensor(x)
            return tf.cond(on[place[name]], lambda: round_all(name, x), lambda: tf.identity(x))

        return edge_graph.forward(weights, tf.cast(batch, tf.float32), arch, quantize)

    batches = [pixels[i : i + BATCH] for i in range(0, len(pixels) - len(pixels) % BATCH, BATCH)]
    batches = batches or [pixels]

    def logits(chosen: list[int]) -> np.ndarray:
        on = tf.constant([i in chosen for i in range(len(names))])
        return np.concatenate([forward(batch, on).numpy() for batch in batches])

    reference = logits([])
    costs = {}
    with progress(len(names), f"sensitivity of {quantized.scheme.name}", "layer") as bar:
        for i, name in enumerate(names):
            costs[name] = _cost(reference, logits([i]), model.scores)
            bar.update()
    return dict(sorted(costs.items(), key=lambda item: -item[1]["kl"]))


def _parts(model: Model, quantized: Quantized) -> dict[str, list[str]]:
    """Layer, or what is between layers -> the sites that are rounded with it.

    What two layers share counts for the first, which writes it.
    """
    arch, scheme = model.architecture, quantized.scheme
    known = set(sites.layers(arch))
    parts: dict[str, list[str]] = {}
    for name, site in sites.rounded(arch, scheme, frozenset()).items():
        layer = site.layers[0] if site.layers else None
        if layer in known:
            parts.setdefault(layer, []).append(name)
        elif scheme.activations == INTEGER:
            owner = name if name.endswith("/residual") else name.rpartition("/")[0] or name
            parts.setdefault(owner, []).append(name)
    return parts


def _cost(reference: np.ndarray, found: np.ndarray, scores: str) -> dict[str, float]:
    reference, found = reference.astype(np.float64), found.astype(np.float64)
    return {
        "kl": float(answers.divergence(reference, found, scores).numpy().mean()),
        "changed": 1 - answers.agreement(found, reference, scores),
    }
