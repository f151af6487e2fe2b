"""Our own files: what is measured against the peers."""

from __future__ import annotations

import numpy as np
from random_vit import RandomViT

from convert import edge_graph, equalise, qat, tflite
from convert.schemes import SCHEMES


def ours(model: RandomViT, images: np.ndarray) -> dict[str, bytes]:
    """Scheme -> .tflite that takes grey levels; calibrated, where it must be, on uint8 [n, h, w, 3].

    No fine-tuning: the weights are as random as they were, and the peers' are not tuned either.
    """
    arch = model.architecture
    folded = edge_graph.fold(model.weights, arch, model.preprocess)
    batches = [images[i : i + 8] for i in range(0, len(images), 8)]
    equal = equalise.equalise(folded, arch, equalise.outliers(folded, arch, batches, lambda: None))
    ranges = qat.calibrate(equal, arch, batches, "minmax", lambda: None)
    return {
        name: tflite.write(scheme, equal if scheme.calibrated else folded, arch, ranges)
        for name, scheme in SCHEMES.items()
    }
