from __future__ import annotations

import json
from itertools import chain, combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agfnet.data.table import read_cases
from agfnet.prediction.asking import parse_prevalence
from agfnet.prediction.explanation import explain, log_odds, shapley
from agfnet.prediction.overlay import Row, colours, letters, overlay, positive_part, sheet, spread, wrapped
from agfnet.prediction.predictor import Predictor

numbers = st.floats(-9, 9, allow_nan=False)


def every_set(players):
    return [frozenset(c) for c in chain.from_iterable(combinations(players, n) for n in range(len(players) + 1))]


@given(st.lists(numbers, min_size=8, max_size=8))
def test_shares_lead_from_nothing_to_everything(values):
    game = dict(zip(every_set("abc"), values, strict=True))
    shares = shapley(game)
    assert sum(shares.values()) == pytest.approx(game[frozenset("abc")] - game[frozenset()], abs=1e-9)


@given(st.lists(numbers, min_size=3, max_size=3))
def test_of_independent_views_each_has_its_own(values):
    own = dict(zip("abc", values, strict=True))
    game = {chosen: sum(own[p] for p in chosen) for chosen in every_set("abc")}
    assert shapley(game) == pytest.approx(own, abs=1e-9)


def test_a_view_that_changes_nothing_has_no_share():
    game = {chosen: 2.0 * ("a" in chosen) + 1.0 * ({"a", "b"} <= chosen) for chosen in every_set("abc")}
    assert shapley(game)["c"] == 0.0
    assert shapley(game)["a"] == 2.5


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor(trained, threads=1)


def test_an_explained_case(predictor, drawn):
    case = next(c for c in read_cases(drawn / "parts.csv") if all(c.views.values()))
    made = explain(predictor, case)
    top = int(made.prediction.probabilities.argmax())
    total = log_odds(made.prediction.probabilities[top]) - log_odds(predictor.prior[top])
    assert sum(made.shares.values()) == pytest.approx(total)
    assert set(made.heat) == {"clinical", "ultrasound"}
    for view, frame in made.frames.items():
        assert frame.shape == (*predictor.specs[view].size, 3)
        assert made.heat[view].shape == frame.shape[:2]


def test_a_single_view_has_the_whole_share(predictor, drawn):
    case = next(c for c in read_cases(drawn / "parts.csv") if not c.views["ultrasound"])
    made = explain(predictor, case)
    top = int(made.prediction.probabilities.argmax())
    assert made.shares == {
        "clinical": pytest.approx(log_odds(made.prediction.probabilities[top]) - log_odds(predictor.prior[top]))
    }


def test_the_overlay_leaves_what_has_no_evidence():
    frame = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    heat = np.zeros((4, 6), np.float32)
    assert np.array_equal(overlay(frame, heat), frame)
    heat[0, 0] = 2.0
    covered = overlay(frame, heat)
    assert np.array_equal(covered[20:, 30:], frame[20:, 30:])
    assert not np.array_equal(covered[:8, :8], frame[:8, :8])
    assert spread(heat, (40, 60)).max() == pytest.approx(1.0)


def test_colours_get_lighter():
    lightness = colours(np.linspace(0, 1, 50)[None])[0].astype(float) @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()


def test_positive_part():
    evidence = np.array([[[3.0, 0.0]], [[1.0, 2.0]]], np.float32)
    assert positive_part(evidence, 0).tolist() == [[1.0, 0.0]]


def test_a_file_is_given_once(trained, drawn, tmp_path, agfnet_command):
    photo = next((drawn / "photos").iterdir())
    views = ["--view", f"clinical={photo}", "--view", f"ultrasound={photo}"]
    done = agfnet_command("explain", trained, *views, "-o", tmp_path / "x")
    assert done.exit_code == 1
    assert "this file was given already" in done.stderr.replace("\n", " ")


def test_long_lines_are_broken_and_not_cut():
    frame = np.full((64, 64, 3), 200, np.uint8)
    names = ", ".join(f"a long diagnosis {i}" for i in range(30))

    def page(line):
        return np.asarray(sheet([Row("caption", frame, frame, None)], [line], "notice"))

    short, long = page("a"), page(names)
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 3 * 24
    assert (long[:, -16:] == 255).all()  # nothing runs into the margin
    assert (page("\u9ed1" * 200)[:, -16:] == 255).all()  # nor where there are no blanks
    font = letters(names, 17)
    lines = wrapped(names, font, 400)
    assert " ".join(lines) == names
    assert max(map(font.getlength, lines)) <= 400


def test_the_command(trained, calibrated, drawn, tmp_path, agfnet_command):
    done = agfnet_command("explain", trained, drawn / "parts.csv", "-o", tmp_path / "x", "--cases", 2, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "x" / "explanations.json").read_text())
    assert [case["picture"] for case in told["cases"]] == ["0001.png", "0002.png"]
    assert Image.open(tmp_path / "x" / "0001.png").width >= 640
    assert told["cases"][0]["diagnosis_set"] is None
    other = agfnet_command("explain", calibrated, drawn / "parts.csv", "-o", tmp_path / "x", "--cases", 1)
    assert other.exit_code == 1
    assert "holds explanations by another network" in other.stderr.replace("\n", " ")
    done = agfnet_command("explain", calibrated, drawn / "parts.csv", "-o", tmp_path / "z", "--cases", 1)
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "z" / "explanations.json").read_text())["cases"][0]
    assert told["prediction"] in told["diagnosis_set"]
    assert told["referred"] == bool(told["refer_reasons"])
    nothing = agfnet_command("explain", trained, "-o", tmp_path / "y")
    assert nothing.exit_code == 1
    assert "give either a TABLE or --view" in nothing.stderr


def test_letters_of_other_scripts_are_drawn_or_said(caplog):
    font = letters("nävus", 17)
    if not caplog.text:
        assert bytes(font.getmask("ä")) != bytes(font.getmask("\uffff"))
    letters("黑色素瘤 \U00013000", 17)  # no usual font has hieroglyphs
    assert "Install one" in caplog.text


def test_bad_images_are_named_or_left_out(trained, drawn, tmp_path, agfnet_command):
    cases = pl.read_csv(drawn / "cases.csv").head(2)
    places = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    cases = cases.with_columns(places)
    cases[0, "clinical"] = "gone.jpg"
    cases.write_csv(tmp_path / "cases.csv")
    done = agfnet_command("explain", trained, tmp_path / "cases.csv", "-o", tmp_path / "a")
    assert done.exit_code == 1
    assert f"row 2, case {cases[0, 'case_id']}: " in done.stderr.replace("\n", " ")
    done = agfnet_command("explain", trained, tmp_path / "cases.csv", "-o", tmp_path / "b", "--skip-bad")
    assert done.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["0002.png", "explanations.json"]


def test_a_folder_of_images_is_not_written_over(trained, drawn, tmp_path, agfnet_command):
    (tmp_path / "0002.png").write_text("a photo")
    done = agfnet_command("explain", trained, drawn / "parts.csv", "-o", tmp_path, "--cases", 1)
    assert done.exit_code == 1
    assert "0002.png: is no explanation of an earlier call" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["0002.png"]


def test_no_file_of_an_earlier_case_stays(trained, drawn, tmp_path, agfnet_command):
    """A report beside another patient's picture would be taken for that patient's."""
    table = drawn / "parts.csv"
    assert agfnet_command("explain", trained, table, "-o", tmp_path, "--cases", 3).exit_code == 0
    for name in ("0001-report.dcm", "0003-overlay.dcm", "notes.png"):
        (tmp_path / name).write_text("of another case")
    stated = "cyst=0.1,lipoma=0.1,naevus=0.8"
    done = agfnet_command("explain", trained, table, "-o", tmp_path, "--cases", 1, "--prevalence", stated)
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"0001.png", "explanations.json", "notes.png"}
    told = json.loads((tmp_path / "explanations.json").read_text())
    assert told["prevalence"] == stated
    asked = next(Predictor(trained, prevalence=parse_prevalence(stated)).predict(read_cases(table)[:1])).prediction
    assert told["cases"][0]["probability"] == pytest.approx(asked.probabilities.max())
