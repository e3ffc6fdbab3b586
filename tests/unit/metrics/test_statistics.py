"""Bootstrap, paired differences, DeLong, McNemar and Holm: exact results, refusals, edges."""

from __future__ import annotations

import math
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from agfnet.metrics.patients import patient_draws, patient_index
from agfnet.metrics.scores import all_scores, shares_of
from agfnet.metrics.significance import delong, holm, mcnemar
from agfnet.metrics.statistics import Interval, bootstrap, paired_difference


def mean_of(values):
    values = np.asarray(values, dtype=float)
    return lambda w: {"mean": (w @ values) / w.sum(axis=-1)}


def test_a_patient_is_drawn_with_all_its_cases():
    patients = ["a", "b", "a", "c", "b", "a"]
    weights = np.concatenate(list(patient_draws(patients, draws=500, seed=1)))
    assert weights.shape == (500, 6)
    for same in ([0, 2, 5], [1, 4]):
        assert (weights[:, same] == weights[:, same[:1]]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()  # as many patients as there are
    # 500 draws of 3 patients: each is drawn once on average, standard error sqrt(2/3/500) = 0.037.
    np.testing.assert_allclose(weights[:, [0, 1, 3]].mean(axis=0), 1, atol=0.15)


def test_draws_repeat_by_seed_and_do_not_depend_on_the_blocks(monkeypatch):
    patients = [i // 2 for i in range(20)]
    whole = np.concatenate(list(patient_draws(patients, draws=50, seed=3)))
    monkeypatch.setattr("agfnet.metrics.patients.block_size", lambda _: 7)
    blocks = list(patient_draws(patients, draws=50, seed=3))
    assert [len(block) for block in blocks] == [7] * 7 + [1]
    assert np.array_equal(np.concatenate(blocks), whole)
    assert not np.array_equal(np.concatenate(list(patient_draws(patients, draws=50, seed=4))), whole)


@pytest.mark.parametrize("patients", [["a", None], ["a", ""], ["a", math.nan]])
def test_a_case_without_a_patient_is_refused(patients):
    with pytest.raises(ValueError, match="case 1 has no patient"):
        patient_index(patients)


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="no cases"):
        patient_index([])
    with pytest.raises(ValueError, match="draws"):
        bootstrap(mean_of([1, 2]), ["a", "b"], draws=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap(mean_of([1, 2]), ["a", "b"], level=95)
    with pytest.raises(ValueError, match="no metrics"):
        bootstrap([], ["a", "b"])
    with pytest.raises(ValueError, match="in common"):
        paired_difference(mean_of([1, 2]), lambda w: {"other": w.sum(axis=-1)}, ["a", "b"])


def test_interval_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(0).normal(size=80)
    ours = bootstrap(mean_of(values), range(80), draws=4000)["mean"]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    # Monte-Carlo error of a 2.5 % point from 4,000 draws of sd 0.11 is about 0.005.
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)
    assert ours.value == pytest.approx(values.mean())
    assert ours.defined == 1


def test_per_class_figures_keep_their_shape_and_tell_how_often_they_are_defined():
    y = np.array([0] * 10 + [1] * 10 + [2])
    p = np.tile([0.5, 0.3, 0.2], (21, 1))
    interval = bootstrap(lambda w: all_scores(y, p, w), range(21), draws=500)["sensitivity"]
    assert interval.low.shape == (3,)
    # The one case of class 2 is left out of a draw with probability (20/21)^21 = 0.36.
    assert interval.defined[2] == pytest.approx(1 - (20 / 21) ** 21, abs=0.1)
    assert interval.value.tolist() == [1, 0, 0]


@pytest.mark.parametrize("counted", [0.0, 1.0])
def test_a_share_of_none_or_all_has_an_exact_interval_over_its_patients(counted):
    """As scipy's, of the 6 patients of the 12 cases that count; draws alone would give it no width."""
    of = np.arange(20) < 12
    patients = [f"P{i // 2}" for i in range(20)]

    def share(weights):
        return {"share": (weights @ (of * counted)) / (weights @ of.astype(float))}

    found = bootstrap(share, patients, shares={"share": of})["share"]
    exact = stats.binomtest(round(6 * counted), 6).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    bare = bootstrap(share, patients)["share"]
    assert bare.low == bare.high == counted


def test_shares_of_many_keep_the_bootstraps_interval():
    y, p = np.array([0, 1] * 20), np.tile([0.6, 0.4], (40, 1))  # 20 of 40 patients right: enough for draws
    with_shares, without = (
        bootstrap(partial(all_scores, y, p), range(40), draws=200, shares=own) for own in (shares_of(y, p), None)
    )
    assert with_shares["accuracy"].as_json() == without["accuracy"].as_json()
    assert with_shares["sensitivity"].low == pytest.approx([0.025 ** (1 / 20), 0.0])
    assert with_shares["sensitivity"].high == pytest.approx([1.0, 1.0 - 0.025 ** (1 / 20)])


def test_one_more_miss_makes_no_share_surer():
    """12 of 12 is at least 0.735: 11 of 12 may not have a higher lower end, nor reach 1 as it would by draws."""

    def found(hits: int, of: int) -> Interval:
        hit = np.arange(of) < hits
        return bootstrap(mean_of(hit), range(of), shares={"mean": np.ones(of, bool)}, draws=500)["mean"]

    for hits, of in ((11, 12), (39, 40), (1, 12)):
        exact = stats.binomtest(hits, of).proportion_ci(method="exact")
        assert found(hits, of).low <= exact.low + 1e-9
        assert found(hits, of).high >= exact.high - 1e-9
    assert found(11, 12).low < found(12, 12).low
    assert found(39, 40).low < found(40, 40).low


def test_an_undefined_figure_has_no_interval():
    interval = bootstrap(lambda w: {"x": w.sum(axis=-1) * np.nan}, ["a", "b"], draws=50)["x"]
    assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert interval.defined == 0


def test_one_patient_gives_no_interval():
    interval = bootstrap(mean_of([0, 1, 1]), ["a"] * 3, draws=50)["mean"]
    assert interval.value == pytest.approx(2 / 3)
    assert np.isnan(interval.low)
    assert np.isnan(interval.high)
    for seeds in (1, 2):
        apart = paired_difference([mean_of([1, 1, 1])] * seeds, [mean_of([0, 1, 0])] * seeds, ["a"] * 3, draws=50)
        assert np.isnan(apart["mean"].p)


def test_identical_models_do_not_differ():
    values = np.random.default_rng(0).random(30)
    difference = paired_difference(mean_of(values), mean_of(values), range(30), draws=200)["mean"]
    assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_a_constant_gain_is_seen_whatever_the_noise():
    values = np.random.default_rng(0).normal(scale=10, size=30)
    difference = paired_difference(mean_of(values + 1), mean_of(values), range(30), draws=199)["mean"]
    assert difference.low == pytest.approx(1)
    assert difference.high == pytest.approx(1)
    assert difference.p == pytest.approx(2 / 200)


def test_difference_turns_its_sign_with_the_models():
    rng = np.random.default_rng(2)
    a, b = rng.random(40), rng.random(40)
    one = paired_difference(mean_of(a), mean_of(b), range(40), draws=300)["mean"]
    other = paired_difference(mean_of(b), mean_of(a), range(40), draws=300)["mean"]
    assert one.value == pytest.approx(-other.value)
    assert one.low == pytest.approx(-other.high)
    assert one.p == pytest.approx(other.p)


def test_undefined_differences_have_no_p():
    nothing = lambda w: {"mean": w.sum(axis=-1) * np.nan}  # noqa: E731
    assert np.isnan(paired_difference(nothing, mean_of([1, 2]), ["a", "b"], draws=20)["mean"].p)


def test_constant_figures_leave_the_t_interval_of_the_seeds():
    scores = [0.70, 0.72, 0.77, 0.75]
    seeds = [mean_of([score] * 10) for score in scores]
    interval = bootstrap(seeds, range(10), draws=50)["mean"]
    expected = stats.t.interval(0.95, 3, loc=np.mean(scores), scale=stats.sem(scores))
    assert (interval.low, interval.high) == pytest.approx(expected)
    difference = paired_difference(seeds, [mean_of([0.7] * 10)] * 3, range(10), draws=50)["mean"]
    assert difference.p == pytest.approx(stats.ttest_1samp(scores, 0.7).pvalue)
    assert difference.value == pytest.approx(np.mean(scores) - 0.7)


def test_two_models_whose_seeds_alone_differ_are_compared_by_welch():
    one, other = [0.70, 0.72, 0.77], [0.81, 0.75, 0.79, 0.80, 0.78]
    seeds = [[mean_of([score] * 10) for score in scores] for scores in (one, other)]
    difference = paired_difference(*seeds, range(10), draws=50)["mean"]
    welch = stats.ttest_ind(one, other, equal_var=False)
    assert difference.p == pytest.approx(welch.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(welch.confidence_interval()))
    # The p of another difference than 0 agrees with the interval's end.
    at_the_end = paired_difference(*seeds, range(10), draws=50, null=float(difference.high))["mean"]
    assert at_the_end.p == pytest.approx(0.05)


def test_a_model_of_one_seed_is_taken_to_vary_as_the_other():
    scores = [0.70, 0.72, 0.77, 0.75]
    difference = paired_difference([mean_of([s] * 10) for s in scores], mean_of([0.7] * 10), range(10), draws=50)[
        "mean"
    ]
    error = np.std(scores, ddof=1) * np.sqrt(1 / 4 + 1)
    assert difference.p == pytest.approx(2 * stats.t.sf((np.mean(scores) - 0.7) / error, 3))


def test_what_nothing_changes_has_the_least_p_that_draws_can_tell():
    apart = paired_difference([mean_of([1.0] * 10)] * 2, [mean_of([0.7] * 10)] * 2, range(10), draws=199)["mean"]
    assert (apart.low, apart.high) == pytest.approx((0.3, 0.3))
    assert apart.p == pytest.approx(2 / 200)


def test_figures_that_draws_cannot_judge_have_no_interval():
    figures = lambda w: mean_of([0, 1, 1])(w) | {"other": mean_of([1, 0, 1])(w)["mean"]}  # noqa: E731
    told = bootstrap(figures, ["a", "b", "c"], draws=50, without=["other"])
    assert told["other"].value == pytest.approx(2 / 3)
    assert np.isnan([told["other"].low, told["other"].high]).all()
    assert np.isfinite(told["mean"].low)
    apart = paired_difference(figures, mean_of([1, 1, 1]), ["a", "b", "c"], draws=50, without=["mean"])["mean"]
    assert np.isnan([apart.low, apart.high, apart.p]).all()


def test_seeds_that_all_say_the_same_leave_the_spread_of_patients():
    values = np.random.default_rng(4).normal(size=400)
    several = bootstrap([mean_of(values)] * 3, range(400), draws=4000)["mean"]
    error = np.std(values) / np.sqrt(400)
    assert (several.high - several.low) / 2 == pytest.approx(1.966 * error, rel=0.04)  # t of 399 degrees of freedom


def test_a_seed_that_is_undefined_leaves_the_mean_undefined():
    broken = lambda w: {"mean": w.sum(axis=-1) * np.nan}  # noqa: E731
    interval = bootstrap([mean_of([1, 1]), broken, mean_of([1, 1])], ["a", "b"], draws=20)["mean"]
    assert np.isnan([interval.value, interval.low, interval.high]).all()
    assert interval.defined == 0


def delong_by_hand(y, a, b):
    """Straight from the 1988 paper: all pairs, covariance matrices."""
    v10, v01 = [], []
    for s in (a, b):
        pairs = (s[y == 1][:, None] > s[y == 0]) + 0.5 * (s[y == 1][:, None] == s[y == 0])
        v10.append(pairs.mean(axis=1))
        v01.append(pairs.mean(axis=0))
    cov = np.cov(v10) / (y == 1).sum() + np.cov(v01) / (y == 0).sum()
    difference = np.mean(v10[0]) - np.mean(v10[1])
    error = np.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
    return difference, error, 2 * stats.norm.sf(abs(difference / error))


@pytest.mark.parametrize("decimals", [6, 1])
def test_delong_agrees_with_all_pairs(decimals):
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    a, b = np.round(rng.normal(size=(2, 80)) + y, decimals)
    difference, error, p = delong_by_hand(y, a, b)
    result = delong(y, a, b, range(80))
    assert result.difference == pytest.approx(difference)
    assert result.standard_error == pytest.approx(error)
    assert result.p == pytest.approx(p)
    assert result.low == pytest.approx(difference - 1.959964 * error, abs=1e-6)
    assert result.first - result.second == pytest.approx(difference)


def test_delong_without_variance():
    y = [0, 0, 1, 1]
    assert delong(y, [1, 2, 3, 4], [1, 2, 3, 4], range(4)).p == 1
    assert math.isnan(delong(y, [1, 2, 3, 4], [4, 3, 2, 1], range(4)).p)


def test_tests_for_independent_cases_refuse_repeated_patients():
    with pytest.raises(ValueError, match=r"one lesion per patient.*'a'.*paired_difference"):
        delong([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 4, 3], ["b", "a", "a", "c"])
    with pytest.raises(ValueError, match="one lesion per patient"):
        mcnemar([1, 0], [0, 1], ["a", "a"])
    with pytest.raises(ValueError, match="one id for each"):
        mcnemar([1, 0], [0, 1], ["a"])


def test_delong_refuses_what_it_cannot_tell():
    with pytest.raises(ValueError, match="two positives"):
        delong([0, 0, 1], [1, 2, 3], [1, 2, 3], range(3))
    with pytest.raises(ValueError, match="level"):
        delong([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 4, 3], range(4), level=2)


def test_what_neither_patients_nor_seeds_change_has_an_interval_of_no_width():
    """Also where the variance is 0 to the last digit, and Student's t has no degrees of freedom."""

    def constant(value):
        return lambda w: {"accuracy": np.full(w.shape[:-1], value)}

    patients = list(range(20))
    right, wrong = [constant(0.75)] * 3, [constant(0.25)] * 3
    found = bootstrap(right, patients, draws=50)["accuracy"]
    assert (found.low, found.value, found.high) == (0.75, 0.75, 0.75)
    apart = paired_difference(right, wrong, patients, draws=50)["accuracy"]
    assert (apart.low, apart.value, apart.high, apart.p) == (0.5, 0.5, 0.5, 2 / 51)
    assert paired_difference(right, right, patients, draws=50)["accuracy"].p == 1.0
    assert paired_difference(right, wrong, patients, draws=50, null=0.5)["accuracy"].p == 1.0


def rights(only_first, only_second, both=5):
    first = [1] * only_first + [0] * only_second + [1] * both
    second = [0] * only_first + [1] * only_second + [1] * both
    return first, second, range(len(first))


@pytest.mark.parametrize(("b", "c"), [(0, 5), (3, 9), (12, 2), (800, 900)])
def test_exact_mcnemar_is_the_binomial_test(b, c):
    result = mcnemar(*rights(b, c))
    assert (result.only_first, result.only_second) == (b, c)
    twice_the_smaller_tail = 2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c)
    assert result.p == pytest.approx(twice_the_smaller_tail)


def test_mcnemar_edges():
    assert mcnemar(*rights(0, 0)).p == 1
    assert mcnemar(*rights(4, 4)).p == 1
    with pytest.raises(ValueError, match="same cases"):
        mcnemar([1], [1, 0], ["a"])
    with pytest.raises(ValueError, match="True and False"):
        mcnemar([2], [1], ["a"])


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_agrees_with_rejecting_step_by_step(p_values):
    adjusted = holm(p_values)
    for alpha in (0.01, 0.05, 0.5):
        rejected, remaining = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
        while remaining and p_values[remaining[0]] * len(remaining) <= alpha:
            rejected.add(remaining.pop(0))
        assert {i for i, p in enumerate(adjusted) if p <= alpha} == rejected
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


@pytest.mark.parametrize("bad", [[0.1, math.nan], [1.2], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(bad):
    with pytest.raises(ValueError):
        holm(bad)


def test_a_validation_set_takes_about_a_second():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 5, 203), rng.dirichlet(np.ones(5), 203)
    start = time.process_time()
    bootstrap(lambda w: all_scores(y, p, w, malignant=[0, 1]), range(203))
    assert time.process_time() - start < 3  # 0.2 s on one core of the development machine
