from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from tfvit import UserError
from tfvit.data.mix import beta_quantile, mix

BATCH, SIDE = 4, 16


def batch():
    """Pictures of one level each, 10 x their number, and one-hot targets."""
    levels = 10 * np.arange(BATCH, dtype=np.uint8)
    pixels = np.broadcast_to(levels[:, None, None, None], (BATCH, SIDE, 2 * SIDE, 3))
    return tf.constant(pixels), tf.one_hot(range(BATCH), BATCH)


@pytest.fixture(scope="module")
def mixed():
    """mixed(count, mixup=, cutmix=): the batch mixed with `count` seeds, compiled by XLA."""

    def run(count, **how):
        function = tf.function(lambda seed: mix(*batch(), seed, **how), jit_compile=True)
        return [[x.numpy() for x in function(tf.constant([7, i]))] for i in range(count)]

    return run


def blended(pixels, targets):
    """The share kept, if every pixel of every picture is the same blend as its target; else None."""
    kept = targets[0, 0]
    expected = 10 * (targets @ np.arange(BATCH))
    same = np.allclose(pixels, expected[:, None, None, None], atol=1e-3)
    return kept if same else None


@pytest.mark.parametrize("concentration", [0.1, 0.2, 0.8, 1.0, 5.0])
def test_the_shares_are_beta_distributed(concentration):
    probability = np.concatenate([[0.0, 1e-4], np.linspace(0.005, 0.995, 199)]).astype(np.float32)
    quantile = tf.function(lambda p: beta_quantile(p, concentration), jit_compile=True)
    expected = scipy.stats.beta.ppf(probability, concentration, concentration)
    np.testing.assert_allclose(quantile(tf.constant(probability)), expected, atol=1e-3)


def test_mixup_blends_each_picture_with_its_partner_and_the_targets_alike(mixed):
    shares = [blended(*one) for one in mixed(40, mixup=0.8, cutmix=0.0)]
    assert None not in shares
    assert scipy.stats.kstest(shares, scipy.stats.beta(0.8, 0.8).cdf).pvalue > 0.01
    _, targets = mixed(1, mixup=0.8, cutmix=0.0)[0]
    np.testing.assert_allclose(targets, targets[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)


def test_cutmix_pastes_a_box_of_the_partner_and_targets_count_its_pixels(mixed):
    areas = []
    for pixels, targets in mixed(40, mixup=0.0, cutmix=1.0):
        own = batch()[0].numpy()
        foreign = pixels != own
        np.testing.assert_array_equal(pixels[foreign], own[::-1][foreign])
        rows, columns = np.nonzero(foreign[0, :, :, 0])
        if len(rows):  # all of the rectangle around them
            assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        np.testing.assert_allclose(targets[0, 0], 1 - foreign[0].mean(), atol=1e-6)
        areas.append(foreign[0].mean())
    assert min(areas) < 0.15 and max(areas) > 0.5


def test_with_both_each_has_half_of_the_batches_and_a_seed_decides(mixed):
    both = {"mixup": 0.8, "cutmix": 1.0}
    first, again = mixed(60, **both), mixed(60, **both)
    for one, other in zip(first, again):
        for x, y in zip(one, other):
            np.testing.assert_array_equal(x, y)
    assert 15 < sum(blended(*one) is not None for one in first) < 45


def test_without_either_nothing_changes():
    pixels, targets = batch()
    same = mix(pixels, targets, tf.constant([0, 0]), mixup=0, cutmix=0)
    np.testing.assert_array_equal(same[0], pixels)
    np.testing.assert_array_equal(same[1], targets)
    with pytest.raises(UserError, match="mixup -1"):
        mix(pixels, targets, tf.constant([0, 0]), mixup=-1, cutmix=0)
