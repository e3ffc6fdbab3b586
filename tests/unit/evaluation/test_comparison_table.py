from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from agfnet.evaluation.answers import Answers
from agfnet.evaluation.compare import RESULT, Run, run_folder
from agfnet.evaluation.comparison_table import (
    COSTS,
    Result,
    _in_range,
    _judged,
    _mean_answers,
    comparison_notes,
    results_of,
)
from agfnet.evaluation.plan import Claim, ComparisonPlan
from agfnet.files import write_json
from agfnet.metrics.statistics import Interval


def answers(cases, first):
    p = np.array(first)
    return Answers(list(cases), [f"p{c}" for c in cases], np.zeros(len(p), np.int64), np.stack([p, 1 - p], axis=1))


def test_a_mean_is_of_the_cases_that_all_networks_answered():
    """A network of one view has no answer where that view is absent."""
    mean = _mean_answers([answers("abd", [0.9, 0.5, 0.2]), answers("abc", [0.7, 0.1, 0.8])])
    assert mean.cases == ["a", "b"]
    assert mean.patients == ["pa", "pb"]
    assert np.allclose(mean.probabilities, [[0.8, 0.2], [0.3, 0.7]])


def test_a_mean_is_of_the_same_case_in_any_order():
    mean = _mean_answers([answers("ab", [0.9, 0.1]), answers("ba", [0.2, 0.7])])
    assert mean.cases == ["a", "b"]
    assert np.allclose(mean.probabilities[:, 0], [0.8, 0.15])


def test_a_mean_over_folds_is_of_each_fold_by_itself(tmp_path):
    """Every fold answers the same calibration cases: they must not be mixed up."""
    plan = ComparisonPlan(
        base={"data": {"table": "a.csv", "views": {"x": {"kind": "photo"}}}},
        rows={"a": {}, "b": {}, "m": {"mean_of": ["a", "b"]}},
        reference="a",
        seeds=(0,),
        folds=2,
    )
    for row, sure in (("a", 0.9), ("b", 0.7)):
        for fold in (1, 2):
            told = {
                "sets": {"test": answers(f"{fold}", [sure]).as_json()},
                "fitted": answers("yz", [sure / fold, 0.5]).as_json(),
                "focus": None,
                "code": ["c"],
                **dict.fromkeys(COSTS, 1.0),
            }
            write_json(run_folder(tmp_path, Run(row, 0, fold)) / RESULT, told)
    (mean,) = results_of(plan, tmp_path, "m")
    assert mean.sets["test"].cases == ["1", "2"]
    assert mean.fitted.probabilities[:, 0] == pytest.approx([0.8, 0.5, 0.4, 0.5])


def test_an_interval_ends_where_its_figure_does():
    wide = Interval(value=np.array(0.96), low=np.array(-0.1), high=np.array(1.07), defined=np.array(1.0))
    told = _in_range("accuracy", wide)
    assert (told.low, told.value, told.high) == (0.0, 0.96, 1.0)
    assert _in_range("nll", wide).high == pytest.approx(1.07)


def row_of(seeds):
    return {"seeds": seeds}


@pytest.mark.parametrize(("seeds", "said"), [((2, 2), None), ((1, 1), "trainings."), ((2, 1), "as much.")])
def test_rows_with_one_finished_seed_are_told(tmp_path, seeds, said):
    """Whatever was planned."""
    table = tmp_path / "a.csv"
    table.write_text("case_id,patient_id,label,clinical,split\na,a,n,a.png,train\n")
    plan = ComparisonPlan(
        base={"data": {"table": str(table), "views": {"clinical": {"kind": "photo"}}}},
        rows={"a": {}, "b": {}},
        reference="a",
    )
    made = {"code": ["c"], "rows": dict(zip("ab", map(row_of, seeds), strict=True))}
    told = [note for note in comparison_notes(plan, made, complete=True) if "one seed" in note]
    assert [note.endswith(said) for note in told] == ([True] if said else [])


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
    assert np.array(told["by_seed"]) == pytest.approx(np.array([[good], [bad]]))


@pytest.mark.parametrize(
    ("bound", "relative", "p"), [(0.0, False, 1.0), (-0.03, False, 0.02), (-0.05, True, 0.02), (None, False, None)]
)
def test_the_p_of_a_claim_is_of_its_own_bound(bound, relative, p):
    """Two rows that answer alike: no difference, and surely none of three points."""
    patients = [f"p{i}" for i in range(400)]
    labels = np.arange(400) % 2
    same = np.where(labels[:, None] == np.arange(2), 0.9, 0.1)
    answered = Answers(patients, patients, labels, same)
    results = {row: [Result({"test": answered}, answered, {}, [], {}, frozenset())] for row in "ab"}
    claim = Claim(says="no worse", row="a", than="b", figure="accuracy", bound=bound, relative=relative)
    told = _judged(claim, results, draws=99)
    assert told["p"] == p
    assert told["holds"] == (bound is None or bound < 0)


@pytest.mark.parametrize(("figure", "cases"), [("accuracy", "external"), ("focus/clinical/attention", "test")])
def test_a_claim_that_was_added_since_the_runs_is_not_judged(figure, cases):
    patients = [f"p{i}" for i in range(4)]
    answered = Answers(patients, patients, np.arange(4) % 2, np.full((4, 2), 0.5))
    results = {"a": [Result({"test": answered}, answered, {}, [], {}, frozenset())]}
    claim = Claim(says="new", row="a", than="a", figure=figure, cases=cases)
    assert _judged(claim, results, draws=99)["holds"] is None


def test_a_claim_on_a_map_that_a_network_lacks_is_not_defined():
    patients = [f"p{i}" for i in range(4)]
    answered = Answers(patients, patients, np.arange(4) % 2, np.full((4, 2), 0.5))
    focus = {"clinical": {"attention": [None] * 4, "centre": [0.2] * 4}}
    results = {"a": [Result({"test": answered}, answered, focus, patients, {}, frozenset())]}
    claim = Claim(
        says="looks", row="a", than="a", figure="focus/clinical/attention", than_figure="focus/clinical/centre"
    )
    told = _judged(claim, results, draws=99)
    assert (told["values"], told["gain"]["value"], told["p"], told["holds"]) == ([None, 0.2], None, None, None)


@pytest.mark.parametrize("paired", [False, True])
def test_trainings_of_one_seed_are_compared_with_each_other_where_the_claim_says_so(paired):
    """Seeds lie far apart, but with each the first row is 0.02 higher; one has a seed that the other lacks."""
    patients = [f"p{i}" for i in range(20)]
    answered = Answers(patients, patients, np.arange(20) % 2, np.full((20, 2), 0.5))

    def trained(seed, focus):
        maps = {"scan": {"attention": [focus] * 20}}
        return Result({"test": answered}, answered, maps, patients, {}, frozenset(), seed)

    results = {
        "a": [trained(seed, 0.22 + 0.1 * seed) for seed in range(3)],
        "b": [trained(seed, 0.2 + 0.1 * seed) for seed in range(4)],
    }
    claim = Claim(says="looks", row="a", than="b", figure="focus/scan/attention", paired=paired)
    told = _judged(claim, results, draws=99)
    assert told["holds"] == paired
    assert told["seeds"] == ([3, 3] if paired else [3, 4])
    assert told["gain"]["value"] == pytest.approx(0.02 if paired else -0.03)
    apart = _judged(claim, {"a": results["a"][:1], "b": results["b"][1:]}, draws=99)
    assert apart["holds"] is (None if paired else False)


def test_two_maps_of_the_same_trainings_are_compared_training_by_training():
    """Trainings lie far apart, but in each the attention is 0.02 above the control: so is the difference, surely."""
    patients = [f"p{i}" for i in range(20)]
    answered = Answers(patients, patients, np.arange(20) % 2, np.full((20, 2), 0.5))
    results = {
        "a": [
            Result(
                {"test": answered},
                answered,
                {"scan": {"attention": [v + 0.02] * 20, "centre": [v] * 20}},
                patients,
                {},
                frozenset(),
            )
            for v in (0.2, 0.3, 0.4)
        ]
    }
    claim = Claim(
        says="looks", row="a", than="a", figure="focus/scan/attention", than_figure="focus/scan/centre", bound=0.0
    )
    told = _judged(claim, results, draws=99)
    assert (told["gain"]["low"], told["gain"]["value"], told["gain"]["high"]) == pytest.approx((0.02, 0.02, 0.02))
    assert told["values"] == pytest.approx([0.32, 0.3])
    assert told["holds"]
