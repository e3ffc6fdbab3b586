from __future__ import annotations

import numpy as np

from agfnet.evaluation.answers import Answers
from agfnet.evaluation.comparison_table import _mean_answers


def answers(cases, first):
    p = np.array(first)
    return Answers(list(cases), [f"p{c}" for c in cases], np.zeros(len(p), np.int64), np.stack([p, 1 - p], axis=1))


def test_a_mean_is_of_the_cases_that_all_networks_answered():
    """A network of one view has no answer where that view is absent."""
    mean = _mean_answers([answers("abd", [0.9, 0.5, 0.2]), answers("abc", [0.7, 0.1, 0.8])])
    assert mean.cases == ["a", "b"]
    assert mean.patients == ["pa", "pb"]
    assert np.allclose(mean.probabilities, [[0.8, 0.2], [0.3, 0.7]])
