"""What logits say, and how far apart that is, against SciPy."""

import numpy as np
import pytest
from scipy.special import expit, rel_entr, softmax

from convert import answers

RNG = np.random.default_rng(0)
REFERENCE, FOUND = RNG.normal(0, 3, (2, 20, 5))


def test_divergence_of_one_label_each():
    p, q = softmax(REFERENCE, axis=1), softmax(FOUND, axis=1)
    found = answers.divergence(REFERENCE, FOUND, "softmax").numpy()
    np.testing.assert_allclose(found, rel_entr(p, q).sum(axis=1))


def test_divergence_of_any_number_of_labels():
    p, q = expit(REFERENCE), expit(FOUND)
    expected = (rel_entr(p, q) + rel_entr(1 - p, 1 - q)).sum(axis=1)
    found = answers.divergence(REFERENCE, FOUND, "sigmoid").numpy()
    np.testing.assert_allclose(found, expected)
    same = answers.divergence(REFERENCE, REFERENCE, "sigmoid").numpy()
    np.testing.assert_allclose(same, 0, atol=1e-12)


def test_agreement_is_of_all_decisions():
    one, other = np.array([[2.0, -1, -1], [-1, -2, -3]]), np.array([[3.0, 1, -1], [-1, -9, -3]])
    assert answers.agreement(one, other, "softmax") == 1
    assert answers.agreement(one, other, "sigmoid") == 0.5


def test_an_answer_is_as_sure_as_of_what_the_other_decides_otherwise():
    labels, one, other = ("a", "b", "c"), np.array([9.0, 1, -2]), np.array([9.0, -1, 3])
    found = answers.answer(one, other, labels, "sigmoid")
    assert found == {"label": "a, b", "score": pytest.approx(1 - expit(-2.0))}
    back = answers.answer(other, one, labels, "sigmoid")
    assert back == {"label": "a, c", "score": pytest.approx(expit(3.0))}
    none = answers.answer(np.array([-1.0, -1, -1]), other, labels, "sigmoid")
    assert none["label"] == "none"


def test_the_power_of_a_signal_has_its_mean_where_scores_do():
    constant, worse = np.full((4, 3), 5.0), np.full((4, 3), 5.5)
    assert answers.difference(worse, constant, "sigmoid")["snr_db"] == pytest.approx(20)
    assert answers.difference(worse, constant, "softmax")["snr_db"] < -100
