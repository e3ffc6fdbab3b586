from __future__ import annotations

import numpy as np
import pytest

from agfnet.evaluation.fitting import fit_usual
from agfnet.prediction.drift import Drift, stability_index


def cases(rng, n, *, alpha=(4.0, 2.0, 1.0), far=0.0):
    return rng.dirichlet(alpha, n), rng.gamma(9.0, 1.0, n) + far


@pytest.fixture
def usual():
    probabilities, distances = cases(np.random.default_rng(0), 4000)
    return fit_usual(probabilities, {"ultrasound": distances})


def filled(usual, **kind):
    drift = Drift(usual, window=500)
    for p, distance in zip(*cases(np.random.default_rng(1), 900, **kind), strict=True):
        drift.add(p, {"ultrasound": distance})
    return drift


def test_the_same_population_shows_no_drift(usual):
    drift = filled(usual)
    assert drift.cases == 500
    assert drift.inputs()["ultrasound"] < 0.1
    assert max(drift.outputs().values()) < 0.1


def test_other_images_show_in_the_inputs_alone(usual):
    drift = filled(usual, far=3.0)
    assert drift.inputs()["ultrasound"] > 0.25
    assert max(drift.outputs().values()) < 0.1


def test_other_diagnoses_show_in_the_outputs_alone(usual):
    drift = filled(usual, alpha=(1.0, 2.0, 4.0))
    assert drift.inputs()["ultrasound"] < 0.1
    assert drift.outputs()["predicted"] > 0.25


def test_a_view_that_is_rarely_there_is_judged_over_the_cases_that_have_it(usual):
    """Of the last cases, not of a time long ago; and how few they are is told."""
    drift = Drift(usual, window=500)
    for i, (p, distance) in enumerate(zip(*cases(np.random.default_rng(1), 1000), strict=True)):
        drift.add(p, {"ultrasound": distance + 100.0 * (i < 500)} if i % 10 == 0 else {})
    assert (drift.cases, drift.cases_with()) == (500, {"ultrasound": 50})
    assert drift.inputs()["ultrasound"] < 0.5  # ten bins of 50 cases are noisy; those before lay all in the last bin


def test_without_a_case_there_is_a_number(usual):
    drift = Drift(usual)
    assert drift.cases == 0
    assert drift.inputs()["ultrasound"] == pytest.approx(0.0, abs=1e-9)
    assert drift.outputs()["predicted"] == pytest.approx(0.0, abs=1e-9)  # though classes are not equally frequent


def test_the_index_by_hand():
    # 30.5 and 10.5 of 41 against one half each
    a, b = 30.5 / 41, 10.5 / 41
    assert stability_index([30, 10], [0.5, 0.5]) == pytest.approx(
        (a - 0.5) * np.log(a / 0.5) + (b - 0.5) * np.log(b / 0.5)
    )
