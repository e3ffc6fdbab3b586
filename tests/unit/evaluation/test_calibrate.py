from __future__ import annotations

import numpy as np
import pytest

from agfnet.evaluation.calibrate import LIMITS, fit_temperature
from agfnet.metrics.calibration import nll
from agfnet.prediction.calibration import tempered


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_comes_out(truth):
    rng = np.random.default_rng(0)
    logits = rng.normal(0.0, 2.0, (20_000, 4))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(4, p=p) for p in honest])
    given = tempered(honest, 1 / truth)  # too sure by the factor
    found = fit_temperature(labels, given)
    assert found == pytest.approx(truth, rel=0.04)
    assert nll(labels, tempered(given, found)) <= nll(labels, given)


def test_answers_stay_and_extremes_are_finite():
    p = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]])
    for temperature in (0.1, 1.0, 10.0):
        made = tempered(p, temperature)
        assert np.isfinite(made).all()
        assert made.sum(1) == pytest.approx(1.0)
        assert (made.argmax(1) == p.argmax(1)).all()
    assert tempered(p, 1.0) == pytest.approx(p)
    with pytest.raises(ValueError, match="positive"):
        tempered(p, 0.0)


def test_cases_that_are_all_right_do_not_ask_for_certainty():
    assert LIMITS[0] <= fit_temperature([0, 1], [[0.9, 0.1], [0.1, 0.9]]) < 0.2
    assert 5.0 < fit_temperature([0, 1], [[0.1, 0.9], [0.9, 0.1]]) <= LIMITS[1]
