from __future__ import annotations

import math

import numpy as np
import pytest

from agfnet.evaluation.fitting import fit_certainty, fit_reference
from agfnet.prediction.refer import Reference, ReferRule, disagreement
from agfnet.types import Reason


def draw(n, rng):
    """A calibrated network of two classes: of the cases with certainty c, a share c is right."""
    certainty = rng.uniform(0.5, 1.0, n)
    right = rng.uniform(size=n) < certainty
    labels = rng.integers(0, 2, n)
    top = np.where(right, labels, 1 - labels)
    p = np.where(np.arange(2)[None] == top[:, None], certainty[:, None], 1 - certainty[:, None])
    return labels, p


def test_the_wanted_risk_is_kept():
    """Of many calibrations, at most one in twenty answers with a true risk above the wanted one."""
    rng = np.random.default_rng(0)
    risks, answered = [], []
    for _ in range(200):
        threshold = fit_certainty(*draw(2000, rng), risk=0.15)
        # Certainty is uniform on (0.5, 1) and the error at certainty c is 1 - c: above t it is (1 - t) / 2 on average.
        risks.append((1 - min(threshold, 1.0)) / 2)
        answered.append((1 - min(threshold, 1.0)) / 0.5)
    assert np.mean(np.array(risks) > 0.15) <= 0.05
    assert np.mean(answered) > 0.35  # 0.6 would be exact


def test_a_risk_that_cannot_be_kept_answers_nothing():
    labels, p = draw(20, np.random.default_rng(1))
    threshold = fit_certainty(labels, p, risk=0.001)
    assert (p.max(1) < threshold).all()
    assert threshold > 1.0


def test_one_error_among_the_surest_does_not_refer_everything():
    """Of 400 cases of which one in 40 is wrong, also the surest one."""
    certainty = np.linspace(0.99, 0.51, 400)
    p = np.stack([certainty, 1 - certainty], axis=1)
    labels = (np.arange(400) % 40 == 0).astype(int)
    assert fit_certainty(labels, p, risk=0.1) == pytest.approx(0.51)
    # Of 100 cases a fifth is too few for that: they are asked about without any error.
    assert fit_certainty(labels[:100], p[:100], risk=0.1) > 1.0


def test_a_network_that_is_always_right_answers_everything():
    p = np.tile([0.9, 0.1], (500, 1))
    assert fit_certainty(np.zeros(500, int), p, risk=0.1) == 0.9


def test_cases_of_equal_certainty_are_answered_together_or_not_at_all():
    """The first 40 are right and the other 60 wrong: in this order the surest 40 would pass."""
    p = np.tile([0.9, 0.1], (100, 1))
    assert fit_certainty(np.repeat([0, 1], [40, 60]), p, risk=0.1) > 1.0


def test_disagreement():
    sure, other, even = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5])
    assert disagreement([sure]) == 0.0
    assert disagreement([sure, sure]) == 0.0
    assert disagreement([sure, other]) == pytest.approx(np.log(2))
    assert 0 < disagreement([sure, even]) < np.log(2)


def test_distance_is_that_of_mahalanobis():
    rng = np.random.default_rng(0)
    covariance, mean = np.array([[2.0, 0.03], [0.03, 0.005]]), np.array([8.0, -3.0])
    statistics = rng.multivariate_normal(mean, covariance, 6000).astype(np.float32)
    fitted = fit_reference(statistics[:5000], statistics[5000:, None], false_refers=0.05)
    point = np.array([[7.0, -2.8]], np.float32)
    gap = point[0] - mean
    assert fitted.distance(point)[0] == pytest.approx(np.sqrt(gap @ np.linalg.inv(covariance) @ gap), rel=0.05)
    new = rng.multivariate_normal(mean, covariance, 4000).astype(np.float32)
    assert (fitted.distance(new) > fitted.limit).mean() == pytest.approx(0.05, abs=0.02)


def test_of_several_images_the_farthest_counts():
    """Also where the limit is fitted: cases of four images lie farther than those of one, and no more are strange."""
    rng = np.random.default_rng(0)
    draw_images = lambda n: rng.standard_normal((n, 4, 3)).astype(np.float32)  # noqa: E731
    fitted = fit_reference(draw_images(2000)[:, 0], draw_images(2000), false_refers=0.05)
    strange = [fitted.farthest(images) > fitted.limit for images in draw_images(4000)]
    assert np.mean(strange) == pytest.approx(0.05, abs=0.02)
    assert fitted.farthest(np.float32([[0, 0, 0], [9, 0, 0]])) == pytest.approx(9, rel=0.1)


def test_every_reason_is_given():
    reference = Reference(np.zeros(2, np.float32), np.eye(2, dtype=np.float32), 3.0)
    rule = ReferRule(0.3, {"clinical": reference})
    everything = (Reason("unsure"), Reason("disagree"), Reason("strange", "clinical"))
    assert rule.reasons(sure=True, disagreement=0.1, distances={"clinical": 1.0}) == ()
    assert rule.reasons(sure=False, disagreement=0.4, distances={"clinical": 9.0}) == everything
    assert rule.reasons(sure=False, disagreement=math.nan, distances={"clinical": math.nan}) == everything
    assert [str(reason) for reason in everything] == [
        "unsure",
        "views disagree",
        "clinical: unlike the training images",
    ]
