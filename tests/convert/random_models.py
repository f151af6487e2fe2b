"""Small models with nothing at its initial value."""

from __future__ import annotations

import numpy as np
import tf_keras as keras

from edge_demo.preprocess import PreprocessSpec
from tfvit.architecture import Architecture
from tfvit.model import build, named_weights

SPEC = PreprocessSpec(16, 24, mean=(120.0, 115.0, 100.0), std=(58.0, 57.0, 60.0))


def random_model(**changes):
    """A small model with nothing at its initial value: biases, gains and outlier channels included.

    Queries are small, so that attention scores stay about 100, as in trained models: a softmax of scores
    of 1,000 turns their last bits in single precision into differences of 1e-3.
    """
    keras.utils.set_random_seed(0)
    values = {"patch_size": 8, "width": 48, "depth": 3, "mlp_dim": 80, "heads": 3, **changes}
    return randomised(build(Architecture("small", 5, (16, 24), **values)))


def randomised(model):
    """The model with other weights, nothing at its initial value."""
    rng = np.random.default_rng(0)
    for name, variable in named_weights(model).items():
        value = variable.numpy() + rng.normal(
            0, 0.3 if variable.shape.rank == 1 else 0.08, variable.shape
        )
        if name.endswith("/gamma"):
            value[::7] *= 12
        if "/query/" in name:
            value *= 0.1
        variable.assign(value)
    return model


def weights_of(model):
    return {name: v.numpy() for name, v in named_weights(model).items()}
