"""Smoothing on series whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from edge_demo.smoothing import Smoother, Smoothing


def labels(series, **options):
    """The chosen class of each row of scores, ten rows a second."""
    smoother = Smoother(Smoothing(**options))
    return [smoother(np.array(row), number / 10)[1] for number, row in enumerate(series)]


def test_scores_fade_as_an_exponential_average_of_whatever_steps():
    rng = np.random.default_rng(0)
    values, times = rng.random((50, 3)), np.cumsum(rng.random(50))
    smoother = Smoother(Smoothing(seconds=2.0))
    found = [smoother(row, time)[0] for row, time in zip(values, times)]
    weights = np.exp((times - times[-1]) / 2)
    shares = np.append(weights[0], weights[1:] * (1 - np.exp(-np.diff(times) / 2)))
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(found[-1], shares @ values)


def test_a_label_does_not_flicker_and_a_real_change_comes_through():
    flicker = [[0.52, 0.48], [0.48, 0.52]] * 20
    assert set(labels(flicker, seconds=0.5)) == {0}
    assert len(set(labels(flicker))) == 2  # as it is without
    change = [[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 20
    found = labels(change, seconds=0.5)
    assert found[:20] == [0] * 20 and found[-1] == 1
    assert np.count_nonzero(np.diff(found)) == 1
    assert 3 <= found.index(1) - 20 <= 6  # half a second of old scores


def test_what_is_below_the_threshold_is_unknown_and_needs_more_to_be_known_again():
    series = [[0.9, 0.1], [0.55, 0.45], [0.65, 0.35], [0.75, 0.25]]
    assert labels(series, threshold=0.6) == [0, None, 0, 0]  # pictures of their own
    found = labels(series, threshold=0.6, seconds=1e-3)
    assert found == [0, None, None, 0]
    assert labels([[1.0, 0.0]], threshold=1.0) == [0]


def test_pictures_without_a_time_stand_for_themselves():
    smoother = Smoother(Smoothing(seconds=10))
    for row in ([0.9, 0.1], [0.1, 0.9]):
        scores, chosen = smoother(np.array(row), None)
        assert scores.tolist() == row and chosen == int(np.argmax(row))
    smoother(np.array([1.0, 0.0]), 5.0)
    assert smoother(np.array([0.0, 1.0]), 4.0)[1] == 1  # a video that begins again
