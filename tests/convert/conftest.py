"""Small graphs to quantize, each made once per module."""

import numpy as np
import pytest
import tf_keras as keras

import tfvit
from convert import equalise, fold, qat
from convert import model as models
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.model import named_weights


@pytest.fixture(scope="session")
def digits():
    """Held-out digits as grey levels: digits(count) -> uint8 [count, 32, 32, 3]."""
    split = open_source(DataOptions("digits")).eval
    spec = tfvit.PreprocessSpec(32, 32)
    batch = next(iter(pipeline.eval_batches(split, spec, 64, unreadable={})))
    return lambda count: batch["pixels"].numpy()[:count]


@pytest.fixture(scope="module", params=["cls", "cls+gap"])
def graph(request, digits):
    """(architecture, folded weights, calibrated ranges) of a small model with nothing at zero."""
    keras.utils.set_random_seed(0)
    model = tfvit.create_model(
        "vit-ti/8", 10, 32, width=64, depth=2, mlp_dim=96, heads=2, pooling=request.param
    )
    rng = np.random.default_rng(0)
    weights = {n: v.numpy() + rng.normal(0, 0.08, v.shape) for n, v in named_weights(model).items()}
    folded = fold.fold(weights, model.architecture, model.preprocess)
    batches = [digits(64)]
    ranges = qat.calibrate(folded, model.architecture, batches, "minmax", lambda: None)
    return model.architecture, folded, ranges


@pytest.fixture(scope="module")
def trained(digits_run, digits):
    """(architecture, equalised weights, ranges) of a trained model, whose logits mean something."""
    model = models.read(digits_run / "best")
    arch, pixels = model.architecture, [digits(64)]
    folded = fold.fold(model.weights, arch, model.preprocess)
    beyond = equalise.outliers(folded, arch, pixels, lambda: None)
    equal = equalise.equalise(folded, arch, beyond)
    return arch, equal, qat.calibrate(equal, arch, pixels, "minmax", lambda: None)
