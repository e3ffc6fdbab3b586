from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from agfnet.evaluation.answers import Answers
from agfnet.evaluation.comparison_table import _judged, _mean_answers
from agfnet.evaluation.plan import Claim


def answers(cases, first):
    p = np.array(first)
    return Answers(list(cases), [f"p{c}" for c in cases], np.zeros(len(p), np.int64), np.stack([p, 1 - p], axis=1))


def test_a_mean_is_of_the_cases_that_all_networks_answered():
    """A network of one view has no answer where that view is absent."""
    mean = _mean_answers([answers("abd", [0.9, 0.5, 0.2]), answers("abc", [0.7, 0.1, 0.8])])
    assert mean.cases == ["a", "b"]
    assert mean.patients == ["pa", "pb"]
    assert np.allclose(mean.probabilities, [[0.8, 0.2], [0.3, 0.7]])


@pytest.mark.parametrize(("figure", "good", "bad", "gain"), [("nll", 0.91, 1.0, 0.09), ("accuracy", 0.88, 0.8, 0.1)])
def test_a_relative_gain_is_of_the_other_rows_figure(monkeypatch, figure, good, bad, gain):
    """Whether more or less is better."""
    patients = [f"p{i}" for i in range(20)]
    answered = Answers(patients, patients, np.zeros(20, np.int64), np.full((20, 2), 0.5))
    results = {
        name: [SimpleNamespace(sets={"test": answered}, value=value)] for name, value in (("a", good), ("b", bad))
    }

    def one_figure(result, _figure, _on, *, log):
        assert log
        return lambda weights: {"figure": np.full(weights.shape[:-1], math.log(result.value))}

    monkeypatch.setattr("agfnet.evaluation.comparison_table._one_figure", one_figure)
    claim = Claim(says="better", row="a", than="b", figure=figure, relative=True)
    told = _judged(claim, results, draws=100)
    assert told["gain"]["value"] == pytest.approx(gain)
    assert told["values"] == pytest.approx([good, bad])
