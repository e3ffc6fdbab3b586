"""Do the intervals hold what they promise? Simulation with a known truth.

Each band is the nominal figure, minus what is known to be lost at this number of patients, plus or minus four
standard errors of the simulation: a correct implementation fails about once in 10,000 runs, and the seeds are
fixed besides.
"""

from __future__ import annotations

import numpy as np
import pytest

from agfnet.metrics.calibration import classwise_ece, ece, simulate_calibrated
from agfnet.metrics.ranking import binary_auc
from agfnet.metrics.significance import delong
from agfnet.metrics.statistics import bootstrap, paired_difference

FULL = pytest.mark.full


def mean_of(values):
    return lambda w: {"mean": (w @ values) / w.sum(axis=-1)}


def four_errors(rate, replicates):
    return 4 * np.sqrt(rate * (1 - rate) / replicates)


def clustered_hits(rng, n_patients, per_patient, spread=1.0):
    """Right or wrong for each case; each patient has an own rate (Beta with mean 0.7, strongly clustered)."""
    rates = rng.beta(0.7 * spread, 0.3 * spread, n_patients)
    hits = rng.random((n_patients, per_patient)) < rates[:, None]
    return hits.ravel().astype(float), np.repeat(np.arange(n_patients), per_patient)


def accuracy_coverage(replicates, draws, *, clustered_as):
    """How often the interval of the accuracy holds 0.7: 60 patients with 5 cases each."""
    held = 0
    for replicate in range(replicates):
        hits, patients = clustered_hits(np.random.default_rng([7, replicate]), 60, 5)
        owners = patients if clustered_as == "patients" else np.arange(hits.size)
        interval = bootstrap(mean_of(hits), owners.tolist(), draws=draws, seed=replicate)["mean"]
        held += interval.low <= 0.7 <= interval.high
    return held / replicates


@pytest.mark.parametrize(
    ("replicates", "draws"), [(300, 300), pytest.param(2000, 2000, marks=FULL)], ids=["small", "full"]
)
def test_patient_bootstrap_covers_clustered_data_and_naive_does_not(replicates, draws):
    ours = accuracy_coverage(replicates, draws, clustered_as="patients")
    naive = accuracy_coverage(replicates, draws, clustered_as="cases")
    # A percentile interval of a mean of 60 is about sqrt(59/60) of a t interval's 1.96/2.00: some 94 %, and a
    # few hundred draws cost another half point.
    assert abs(ours - 0.94) < four_errors(0.94, replicates) + 0.01
    # Cases of one patient correlate by 1/(spread + 1) = 0.5: the true variance is 1 + 4 * 0.5 = 3 times the
    # naive one, which makes a 95 % interval one of 2 Phi(1.96 / sqrt(3)) - 1 = 74 %.
    assert abs(naive - 0.74) < four_errors(0.74, replicates) + 0.02


def scores_of_two_models(rng, n, gain_a, gain_b, shared=0.5):
    y = np.arange(n) % 2 == 1
    common = rng.normal(size=n)
    a, b = (np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=n) + gain * y for gain in (gain_a, gain_b))
    return y, a, b


@pytest.mark.parametrize(
    ("replicates", "draws"), [(200, 300), pytest.param(1000, 2000, marks=FULL)], ids=["small", "full"]
)
def test_bootstrap_of_an_auc_covers(replicates, draws):
    truth = 0.76025  # Phi(1 / sqrt 2) for two normals one standard deviation apart
    held = 0
    for replicate in range(replicates):
        y, a, _ = scores_of_two_models(np.random.default_rng([11, replicate]), 120, 1.0, 1.0)
        metric = lambda w, y=y, a=a: {"auc": binary_auc(y, a, w)}  # noqa: E731
        interval = bootstrap(metric, range(120), draws=draws, seed=replicate)["auc"]
        held += interval.low <= truth <= interval.high
    assert abs(held / replicates - 0.94) < four_errors(0.94, replicates) + 0.015


@pytest.mark.parametrize(
    ("replicates", "draws"), [(200, 199), pytest.param(1000, 1999, marks=FULL)], ids=["small", "full"]
)
def test_paired_p_is_right_under_the_null_and_agrees_with_delong(replicates, draws):
    """Two equally good models: p falls under 0.05 in about 5 % of the data sets."""
    rejected, delong_rejected, gaps = 0, 0, []
    for replicate in range(replicates):
        y, a, b = scores_of_two_models(np.random.default_rng([13, replicate]), 100, 1.0, 1.0)
        first = lambda w, y=y, s=a: {"auc": binary_auc(y, s, w)}  # noqa: E731
        second = lambda w, y=y, s=b: {"auc": binary_auc(y, s, w)}  # noqa: E731
        ours = paired_difference(first, second, range(100), draws=draws, seed=replicate)["auc"]
        theirs = delong(y, a, b, range(100))
        assert ours.value == pytest.approx(theirs.difference)
        rejected += ours.p <= 0.05
        delong_rejected += theirs.p <= 0.05
        gaps.append(abs(ours.p - theirs.p))
    allowed = four_errors(0.05, replicates) + 0.015
    assert abs(rejected / replicates - 0.05) < allowed
    assert abs(delong_rejected / replicates - 0.05) < allowed
    assert np.median(gaps) < 0.05


@pytest.mark.parametrize("replicates", [600, pytest.param(10_000, marks=FULL)], ids=["small", "full"])
def test_delong_standard_error_is_the_spread_of_the_difference(replicates):
    results = [
        delong(*scores_of_two_models(np.random.default_rng([17, r]), 100, 1.0, 0.5), range(100))
        for r in range(replicates)
    ]
    differences = np.array([result.difference for result in results])
    truth = 0.76025 - 0.63816  # Phi(1 / sqrt 2) - Phi(0.5 / sqrt 2)
    claimed = np.sqrt(np.mean([result.standard_error**2 for result in results]))
    assert abs(differences.mean() - truth) < 4 * differences.std() / np.sqrt(replicates)
    # An estimated standard deviation has a relative error of 1 / sqrt(2 replicates).
    assert claimed / differences.std(ddof=1) == pytest.approx(1, abs=4 / np.sqrt(2 * replicates))
    held = np.mean([result.low <= truth <= result.high for result in results])
    assert abs(held - 0.95) < four_errors(0.95, replicates) + 0.01


def trainings(rng, patients, seeds, spread, hardness):
    """Right or wrong, seed by seed: a seed is better or worse on all patients, and lucky or not on single ones."""
    logits = hardness[None] + spread * rng.normal(size=(seeds, 1))
    return list((rng.random((seeds, patients)) < 1 / (1 + np.exp(-logits))).astype(float))


@pytest.mark.parametrize(
    ("patients", "seeds", "spread", "low"),
    [
        pytest.param(300, (2, 2), 0.0, 0.93, id="two seeds, single patients decide"),
        pytest.param(300, (5, 3), 0.1, 0.92, id="seeds and patients"),
        pytest.param(300, (5, 5), 0.5, 0.92, id="five seeds decide"),
        pytest.param(300, (3, 2), 0.5, 0.90, id="few seeds decide"),
        pytest.param(300, (5, 1), 0.3, 0.92, id="one seed beside five"),
    ],
)
@pytest.mark.parametrize("replicates", [200, pytest.param(2000, marks=FULL)], ids=["small", "full"])
def test_difference_of_two_models_over_seeds_and_patients(patients, seeds, spread, low, replicates):
    """Equal models: the interval holds 0 in 95 % of data sets, and is not much wider than it need be."""
    held, values, widths = 0, [], []
    for replicate in range(replicates):
        rng = np.random.default_rng([19, replicate])
        hardness = rng.normal(1.5, 1.5, patients)
        models = [[mean_of(own) for own in trainings(rng, patients, n, spread, hardness)] for n in seeds]
        difference = paired_difference(*models, range(patients), draws=200, seed=replicate)["mean"]
        held += difference.low <= 0 <= difference.high
        assert (difference.p >= 0.05) == (difference.low <= 0 <= difference.high)
        values.append(difference.value)
        widths.append((difference.high - difference.low) / 2)
    slack = four_errors(0.95, replicates)
    assert low - slack < held / replicates < 0.975 + slack
    # The known truth would give 1.96 standard deviations; few seeds need t of few degrees of freedom.
    assert np.median(widths) < 1.96 * np.std(values) * (1.25 if min(seeds) > 2 or not spread else 1.8)


@pytest.mark.parametrize(("n", "replicates"), [(203, 200), pytest.param(1000, 2000, marks=FULL)], ids=["small", "full"])
def test_calibrated_model_scores_what_the_reference_says(n, replicates):
    rng = np.random.default_rng(23)
    observed, classwise, references, inside = [], [], [], 0
    for replicate in range(replicates):
        p = rng.dirichlet(np.ones(4) * 0.7, n)
        y = (rng.random((n, 1)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
        simulated = simulate_calibrated(p, draws=200, seed=replicate)
        observed.append(ece(y, p))
        classwise.append(classwise_ece(y, p))
        references.append((simulated["ece"].mean(), simulated["classwise_ece"].mean()))
        low, high = np.quantile(simulated["ece"], [0.025, 0.975])
        inside += low <= observed[-1] <= high
    for values, expected in zip((observed, classwise), np.mean(references, axis=0), strict=True):
        assert abs(np.mean(values) - expected) < 4 * np.std(values) / np.sqrt(replicates)
        assert expected > 0.01  # far from the 0 that a reader would take for perfect
    assert abs(inside / replicates - 0.945) < four_errors(0.945, replicates) + 0.01


def test_overconfidence_exceeds_the_reference():
    rng = np.random.default_rng(29)
    p = rng.dirichlet(np.ones(4) * 0.7, 400)
    y = (rng.random((400, 1)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1)
    sharper = p**2 / (p**2).sum(axis=1, keepdims=True)
    assert ece(y, sharper) > np.quantile(simulate_calibrated(sharper)["ece"], 0.999)
