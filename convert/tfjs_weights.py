"""How a TF.js model holds its kernels: TF.js's own types, one scale for a whole kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Stored = tuple[
    np.ndarray, dict
]  # as written, and what the manifest says of it; `decode` is the inverse


def _as_float16(kernel: np.ndarray) -> Stored:
    with np.errstate(over="ignore"):  # what is too large is infinite, and the logits fail the gate
        return kernel.astype(np.float16), {"dtype": "float16"}


def _as_uint8(kernel: np.ndarray) -> Stored:
    """255 steps from the least to the largest value, 0 on one of them."""
    least, largest = min(0.0, float(kernel.min())), max(0.0, float(kernel.max()))
    scale = (largest - least) / 255 or 1.0
    zero = round(-least / scale)
    steps = np.clip(np.round(kernel / scale) + zero, 0, 255)
    return steps.astype(np.uint8), {"dtype": "uint8", "scale": scale, "min": -zero * scale}


# Name -> how kernels are stored. All else is float32: it is small, and added to what the kernels give.
WEIGHTS: dict[str, Callable[[np.ndarray], Stored]] = {
    "float32": lambda kernel: (kernel, {}),
    "float16": _as_float16,
    "uint8": _as_uint8,
}


def decode(entry: dict, data: bytes | memoryview) -> tuple[np.ndarray, int]:
    """A weight of a manifest as TF.js decodes it, and how many of the bytes are its own, the first ones."""
    how = entry.get("quantization", {})
    stored = np.dtype(how.get("dtype", entry["dtype"]))
    count = math.prod(entry["shape"])
    value = np.frombuffer(data, stored, count)
    if "scale" in how:
        value = value * float(how["scale"]) + float(how["min"])
    return value.astype(entry["dtype"]).reshape(entry["shape"]), count * stored.itemsize
