"""Any .tflite, on random input of its own shapes: for timing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def load(path: str, threads: int | None) -> Callable[[], None]:
    """A function that runs a .tflite once; ValueError or RuntimeError, of the runtime, if it does not load.

    Inputs of a size that is not fixed are taken at their smallest. Loads the file in this process,
    which a bad file can abort: see `runner.bare`.
    """
    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    details = interpreter.get_input_details()
    inputs = [(d["index"], _random(rng, d["shape"], d["dtype"])) for d in details]

    def run() -> None:
        for index, values in inputs:
            interpreter.set_tensor(index, values)
        interpreter.invoke()

    return run


def _random(rng: np.random.Generator, shape: np.ndarray, dtype: type) -> np.ndarray:
    """Numbers 0-1, grey levels, or zeros where it may be an index."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.random(tuple(shape)).astype(kind)
    if kind in (np.uint8, np.int8):
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max, tuple(shape), kind, endpoint=True)
    return np.zeros(tuple(shape), kind)
