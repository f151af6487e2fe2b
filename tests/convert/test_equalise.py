"""Outlier channels of the residual stream: the same function, and far less lost by eight bits."""

import numpy as np
import pytest
import tensorflow as tf

from convert import edge_graph, equalise, fold, qat
from convert.schemes import SCHEMES


@pytest.fixture(scope="module")
def massive(graph):
    """`graph` with three channels of the residual stream thirty times as large as the others."""
    arch, folded, _ = graph
    weights = dict(folded)
    for name in fold.residual_writers(weights, arch):
        weights[name] = weights[name] * np.where(np.arange(arch.width) % 30 == 7, 30, 1)
    return arch, {name: value.astype(np.float32) for name, value in weights.items()}


def simulated(weights, arch, pixels, scheme=None):
    if scheme is None:
        return qat.simulate(weights, arch, lambda name, x: x)(pixels)
    ranges = qat.calibrate(weights, arch, [pixels], "minmax", lambda: None)
    return qat.simulate(weights, arch, qat.rounding(arch, SCHEMES[scheme], ranges))(pixels)


def test_the_function_is_the_same_and_no_channel_stands_out(massive, digits):
    arch, weights = massive
    pixels = digits(32)
    beyond = equalise.outliers(weights, arch, [pixels], lambda: None)
    equal = equalise.equalise(weights, arch, beyond)
    assert (beyond >= 1).all() and beyond[7::30].min() > 3 * np.median(beyond)
    after = equalise.outliers(equal, arch, [pixels], lambda: None)
    assert after.max() < beyond.max() / 4
    expected = simulated(weights, arch, pixels)
    assert np.abs(simulated(equal, arch, pixels) - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_weights_of_the_mean_are_whole_steps_of_int8(massive, digits):
    arch, weights = massive
    beyond = equalise.outliers(weights, arch, [digits(32)], lambda: None)
    mean = equalise.equalise(weights, arch, beyond)["residual/mean"]
    steps = mean / (mean.max() / 127)
    assert mean.shape == (arch.width, 1) and steps.min() >= 0.999
    assert np.allclose(steps, np.round(steps), atol=1e-3)


@pytest.mark.parametrize("scheme, gain", [("int8", 1.5), ("int8-full", 2)])
def test_eight_bits_lose_less(massive, digits, scheme, gain):
    arch, weights = massive
    pixels = digits(64)
    beyond = equalise.outliers(weights, arch, [pixels], lambda: None)
    equal = equalise.equalise(weights, arch, beyond)
    exact = simulated(weights, arch, pixels)
    before, after = (
        np.square(simulated(w, arch, pixels, scheme) - exact).mean() for w in (weights, equal)
    )
    assert gain * after < before


def test_channels_of_one_size_stay_as_they_are(graph):
    arch, folded, _ = graph
    equal = equalise.equalise(folded, arch, np.ones(arch.width))
    for name, value in folded.items():
        assert np.allclose(equal[name], value, rtol=1e-6), name
    assert np.allclose(equal["residual/mean"], 1 / arch.width)
    pixels = tf.zeros([1, 32, 32, 3])
    assert np.allclose(
        edge_graph.forward(equal, pixels, arch), edge_graph.forward(folded, pixels, arch), atol=1e-5
    )
