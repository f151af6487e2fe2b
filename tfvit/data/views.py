"""From an encoded picture to the pixels a model is fed: one function for every thread and process.

Python does it: for evaluation with Pillow, exactly as the device will, and for training with OpenCV, whose
resizing, warps and tables take a tenth of the time of TensorFlow's own on a processor.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.python.ops import script_ops

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec, to_pixels
from tfvit.data import cache as caches
from tfvit.data.augment import Augmentation, augment
from tfvit.data.decode import decode

Load = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]

OUTPUTS = (tf.uint8, tf.float32, tf.string)  # pixels, mask, what is wrong with the file
NAME = "tfvit.views"


def augmented(
    spec: PreprocessSpec,
    augmentation: Augmentation,
    seed: int,
    cache: str | None = None,
    *,
    anywhere: bool = False,
) -> Load:
    """The function from some examples to their random views: pixels, label, mask, name and problem.

    Several at once, as a call into Python costs as much as a tenth of a view.
    cache: see `tfvit.data.cache`. anywhere: the graph may run in another process that has imported
    this module, such as `tfvit data-service`.
    """
    values = (spec.to_json(), dataclasses.asdict(augmentation), seed, cache)
    settings = tf.constant(json.dumps(values))

    def load(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = [example["data"], example["name"], example["index"], settings]
        if anywhere:
            done = tf.raw_ops.PyFuncStateless(input=inputs, token=NAME, Tout=OUTPUTS)
        else:
            done = tf.numpy_function(_views, inputs, OUTPUTS, stateful=False)
        return _loaded(example, done, spec)

    return load


def as_the_device_does(spec: PreprocessSpec) -> Load:
    """The function from an example to its pixels without chance: those of `augmented`, else."""

    def whole(data: bytes, name: bytes):
        return _picture(name, spec, lambda: to_pixels(images.decode(data, name.decode()), spec))

    def load(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = [example["data"], example["name"]]
        done = tf.numpy_function(whole, inputs, OUTPUTS, stateful=False)
        return _loaded(example, done, spec)

    return load


def _loaded(example: dict, done, spec: PreprocessSpec) -> dict[str, tf.Tensor]:
    pixels, mask, problem = done
    count = example["index"].shape  # [] of one example
    return {
        "pixels": tf.ensure_shape(pixels, [*count, spec.height, spec.width, 3]),
        "label": example["label"],
        "mask": tf.ensure_shape(mask, count),
        "name": example["name"],
        "problem": tf.ensure_shape(problem, count),
    }


def _views(data: np.ndarray, names: np.ndarray, indices: np.ndarray, settings: bytes):
    done = [_view(*one, settings) for one in zip(data, names, indices)]
    return tuple(np.stack(values) for values in zip(*done))


def _view(data: bytes, name: bytes, index: np.int64, settings: bytes):
    spec, augmentation, seed, cache = _settings(settings)
    at_least = augmentation.decoded_size(spec)

    def view() -> np.ndarray:
        image = caches.cached(cache, data, at_least, lambda: decode(data, name.decode(), at_least))
        return augment(image, (seed, int(index)), spec, augmentation)

    return _picture(name, spec, view)


def _picture(name: bytes, spec: PreprocessSpec, pixels: Callable[[], np.ndarray]):
    """(pixels, 1, ""), or (black, 0, the problem) of a picture that cannot be read."""
    try:
        return pixels(), np.float32(1), b""
    except UserError as error:
        return np.zeros((spec.height, spec.width, 3), np.uint8), np.float32(0), str(error).encode()


@functools.lru_cache(maxsize=8)
def _settings(text: bytes) -> tuple[PreprocessSpec, Augmentation, int, str | None]:
    spec, augmentation, seed, cache = json.loads(text)
    return PreprocessSpec.from_json(spec), Augmentation(**augmentation), seed, cache


# A function given to `tf.numpy_function` is known by a number that its own process made up. Under a name
# that every process gives it, a graph with it can be sent to a data service; TensorFlow has no public way.
script_ops._py_funcs._funcs[NAME] = _views
