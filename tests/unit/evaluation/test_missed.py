"""The count of malignant cases that are answered as benign, against counting by hand and a known exact interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from agfnet.evaluation.missed import missed_malignant, missed_text


def test_by_hand():
    # Classes: 0 benign, 1 and 2 malignant. Two lesions of patient a are missed, one of b is referred, c is right, d is
    # taken for the other malignant class, e is benign and wrong.
    labels = [1, 2, 1, 1, 1, 0]
    answers = [0, 0, 0, 1, 2, 1]
    answered = [True, True, False, True, True, True]
    found = missed_malignant(labels, np.eye(3)[answers], answered, list("aabcde"), [1, 2])
    assert (found["cases"], found["of_cases"], found["patients"], found["of_patients"]) == (2, 5, 1, 4)
    exact = binomtest(1, 4).proportion_ci()
    assert found["share"]["value"] == 0.25
    assert (found["share"]["low"], found["share"]["high"]) == pytest.approx((exact.low, exact.high))
    assert "2 of 5; of patients with a malignant case, 1 of 4: 25.0 %" in missed_text(found)


@pytest.mark.parametrize("answer", [0, 1])
def test_none_missed_is_not_certainty(answer):
    found = missed_malignant([1], np.eye(2)[[answer]], [True], ["a"], [1])
    exact = binomtest(1 - answer, 1).proportion_ci()
    assert (found["share"]["low"], found["share"]["high"]) == pytest.approx((exact.low, exact.high))
    assert exact.high - exact.low > 0.9


def test_no_malignant_case():
    assert missed_malignant([0], [[1.0, 0.0]], [True], ["a"], [1]) is None
    assert "no case here is malignant" in missed_text(None)
