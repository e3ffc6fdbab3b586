from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from agfnet.data.preprocess import ViewSpec
from agfnet.data.table import read_cases
from agfnet.evaluation.faithfulness import (
    READING,
    GradientMaps,
    _Asked,
    _checked,
    faithfulness_of,
    hidden,
    mixed,
    occlusion,
    order_areas,
    rank_correlation,
)
from agfnet.evaluation.focus import centre_prior
from agfnet.prediction.predictor import Predictor

GRID = (4, 6)
PLANTED = (2, 1)
"""The cell whose brightness is all that the network of these tests reads."""


@pytest.fixture
def pixels():
    made = np.full((64, 96, 3), 60, np.uint8)
    made[32:48, 16:32] = 220
    return made


def ask(images):
    return np.array([image[32:48, 16:32].mean() / 50.0 for image in images])


def order(*, first: bool):
    cells = [i for i in range(24) if i != PLANTED[0] * 6 + PLANTED[1]]
    own = PLANTED[0] * 6 + PLANTED[1]
    return np.array([own, *cells] if first else [*cells, own])


def test_planted_evidence_is_found(pixels):
    deleted, inserted = order_areas(ask, pixels, order(first=True), GRID)
    late, early = order_areas(ask, pixels, order(first=False), GRID)
    assert deleted < late - 1.0
    assert inserted > early + 1.0
    cost, everything = occlusion(ask, pixels, GRID)
    assert everything == pytest.approx(float(ask([pixels])[0] - ask([hidden(pixels)])[0]))
    assert np.unravel_index(cost.argmax(), GRID) == PLANTED
    assert np.abs(np.delete(cost.ravel(), cost.argmax())).max() == 0.0


@pytest.mark.parametrize(("true", "sign"), [(True, 1), (False, -1)])
def test_a_true_map_passes_every_check_and_an_inverted_one_none(pixels, true, sign):
    rising = np.arange(24.0).reshape(GRID) / 1000  # no ties
    rising[PLANTED] = 1.0
    heat = rising if true else -rising
    asked = SimpleNamespace(
        log_odds=lambda _view, images: ask(images), frames={"clinical": pixels}, prediction="own",
        evidence=lambda _view, told: heat if told == "own" else -heat,
        predictor=SimpleNamespace(specs={"clinical": ViewSpec("photo", (64, 96), (0.0,) * 3, (1.0,) * 3, None)}),
    )  # fmt: skip
    slopes = np.zeros((3, 64, 96), np.float32)
    slopes[:, 32:48, 16:32] = 1.0
    found = _checked(asked, "clinical", "other", slopes, np.random.default_rng(0))
    assert set(found) == set(READING)
    assert found.pop("randomised") == -1.0
    assert found.pop("everything") > 0.0
    for name in ("occlusion", "gradients"):
        assert abs(found.pop(f"{name}, middle")) < 0.5
    assert all(sign * value > 0.1 for value in found.values()), found


def test_cells_are_taken_from_the_other_image(pixels):
    chosen = np.zeros(GRID, bool)
    chosen[0, 5] = True
    out = mixed(pixels, hidden(pixels) * 0, chosen)
    assert (out[:16, 80:] == 0).all()
    assert (out[16:] == pixels[16:]).all()


def test_a_map_that_never_saw_the_image_gains_nothing_over_its_own_control():
    """In the middle lesions mostly lie: such a map beats random order, and not itself."""
    lesion = np.full((64, 96, 3), 60, np.uint8)
    lesion[16:48, 32:64] = 220
    middle = centre_prior(GRID)
    asked = SimpleNamespace(
        log_odds=lambda _view, images: np.array([image[16:48, 32:64].mean() / 50.0 for image in images]),
        frames={"clinical": lesion}, prediction="own", evidence=lambda *_: middle,
    )  # fmt: skip
    found = _checked(asked, "clinical", "other", None, np.random.default_rng(0))
    assert found["deletion over random"] > 0.1
    assert found["deletion over middle"] == found["insertion over middle"] == 0.0
    assert found["occlusion"] == found["occlusion, middle"] > 0.5


def test_rank_correlation_of_flat_and_of_opposite_maps():
    rising = np.arange(6.0).reshape(2, 3)
    assert rank_correlation(rising, -rising) == -1.0
    assert rank_correlation(rising, np.ones((2, 3))) == 0.0


def test_the_gradient_is_that_of_the_exported_graph(trained, drawn):
    """A small step along the gradient changes the graph's log-odds by what the gradient says."""
    case = next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))
    predictor = Predictor(trained, threads=1)
    asked = _Asked(predictor, case)
    look = asked.look()
    slopes = GradientMaps(trained)(look, asked.top)
    for view, slope in slopes.items():
        step = 1e-2 / np.linalg.norm(slope)
        moved = [{**look, view: look[view] + sign * step * slope / np.linalg.norm(slope)} for sign in (-1, 1)]
        log_p = predictor.ask(moved)["logits"][:, asked.top].astype(float)
        low, high = log_p - np.log(-np.expm1(log_p))
        assert high - low == pytest.approx(2 * step * np.linalg.norm(slope), rel=0.05)


def test_every_check_of_every_view_that_is_there(trained, drawn):
    cases = read_cases(drawn / "parts.csv")
    whole = next(c for c in cases if all(c.views.values()))
    half = next(c for c in cases if not c.views["ultrasound"])
    found = faithfulness_of(Predictor(trained, threads=1), [whole, half], folder=trained)
    assert all(set(columns) == set(READING) for columns in found.values())
    for name in READING:
        assert np.isfinite(found["clinical"][name]).all()
        assert found["ultrasound"][name][1] is None


def test_the_command(trained, tmp_path, agfnet_command):
    done = agfnet_command(
        "faithfulness", trained, "--part", "validation", "--cases", 3, "--draws", 100, "-o", tmp_path, "--threads", 1
    )
    assert done.exit_code == 0, done.stderr
    made = json.loads((tmp_path / "faithfulness.json").read_text())
    assert set(made["views"]["clinical"]["checks"]) == set(READING)
    assert "rank correlation with gradients" in done.stdout
    assert "Research use only" in (tmp_path / "faithfulness.md").read_text()
