"""Our own files: what is measured against the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from random_vit import RandomViT

from convert import equalise, fold, qat, tflite
from convert.fold import Weights
from convert.schemes import SCHEMES, Scheme
from convert.sites import Range


def prepared(
    model: RandomViT, images: np.ndarray
) -> Callable[[Scheme], tuple[Weights, dict[str, Range]]]:
    """What each scheme starts from: weights, and ranges calibrated on uint8 [n, h, w, 3] if it has any."""
    arch = model.architecture
    folded = fold.fold(model.weights, arch, model.preprocess)
    batches = [images[i : i + 8] for i in range(0, len(images), 8)]
    equal = equalise.equalise(folded, arch, equalise.outliers(folded, arch, batches, lambda: None))
    ranges = qat.calibrate(equal, arch, batches, "minmax", lambda: None)
    return lambda scheme: (equal, ranges) if scheme.calibrated else (folded, {})


def ours(
    model: RandomViT, images: np.ndarray, schemes: Iterable[str] = tuple(SCHEMES)
) -> dict[str, bytes]:
    """Scheme -> .tflite that takes grey levels; calibrated, where it must be, on uint8 [n, h, w, 3].

    No fine-tuning: the weights are as random as they were, and the peers' are not tuned either.
    """
    start = prepared(model, images)
    arch = model.architecture
    files = {}
    for name in schemes:
        weights, ranges = start(SCHEMES[name])
        files[name] = tflite.write(SCHEMES[name], weights, arch, ranges)
    return files
