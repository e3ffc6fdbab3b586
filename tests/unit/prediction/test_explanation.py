from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain, combinations
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from agfnet.data.preprocess import Framed
from agfnet.data.table import read_cases
from agfnet.prediction.asking import parse_prevalence
from agfnet.prediction.explanation import (
    explain,
    explain_cases,
    explained,
    explanation_sheet,
    log_odds,
    shapley,
)
from agfnet.prediction.overlay import Row, colours, letters, overlay, positive_part, sheet, spread, wrapped
from agfnet.prediction.predictor import Predictor
from agfnet.types import Prediction

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
    assert told["coverage"] is None
    assert told["calibration"].startswith("not calibrated: ")
    other = agfnet_command("explain", calibrated, drawn / "parts.csv", "-o", tmp_path / "x", "--cases", 1)
    assert other.exit_code == 1
    assert "holds explanations by another network" in other.stderr.replace("\n", " ")
    done = agfnet_command("explain", calibrated, drawn / "parts.csv", "-o", tmp_path / "z", "--cases", 1)
    assert done.exit_code == 0, done.stderr
    listing = json.loads((tmp_path / "z" / "explanations.json").read_text())
    assert (listing["coverage"], listing["calibration"]) == (0.9, "diagnosis set (90 %; others are not excluded)")
    told = listing["cases"][0]
    assert told["views_missing"] == []
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
    assert "1 of 2 cases could not be explained" in done.stderr
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["0002.png", "explanations.json"]
    told = json.loads((tmp_path / "b" / "explanations.json").read_text())
    assert told["left_out"] == [cases[0, "case_id"]]
    assert [case["case_id"] for case in told["cases"]] == [cases[1, "case_id"]]


def test_where_no_case_is_explained_the_command_fails(trained, tmp_path, agfnet_command):
    (tmp_path / "cases.csv").write_text("case_id,patient_id,clinical\na,p,gone.jpg\nb,q,gone.jpg\n")
    done = agfnet_command("explain", trained, tmp_path / "cases.csv", "-o", tmp_path / "x", "--skip-bad")
    assert done.exit_code == 1
    assert "2 of 2 cases could not be explained" in done.stderr
    assert json.loads((tmp_path / "x" / "explanations.json").read_text())["left_out"] == ["a", "b"]


def drawn_on(monkeypatch, made, classes):
    """Lines above the sheet's pictures, and captions."""
    seen = []
    monkeypatch.setattr("agfnet.prediction.explanation.sheet", lambda rows, title, _: seen.extend([title, rows]))
    explanation_sheet(made, classes)
    return seen[0], [row.caption for row in seen[1]]


def test_the_sheet_says_what_is_missing_and_what_the_set_promises(trained, calibrated, drawn, monkeypatch):
    cases = read_cases(drawn / "parts.csv")
    lone = next(c for c in cases if not c.views["ultrasound"])
    both = next(c for c in cases if all(c.views.values()))
    for source, told in (
        (trained, "not calibrated: probabilities are raw"),
        (calibrated, "diagnosis set (90 %; others"),
    ):
        asked = Predictor(source, threads=1)
        for case, missing in ((lone, True), (both, False)):
            lines, _ = drawn_on(monkeypatch, explain(asked, case), asked.classes)
            assert ("missing: ultrasound" in lines) == missing
            assert [line for line in lines if line.startswith(told)]


def test_what_is_nearly_sure_is_not_shown_as_certain(predictor, drawn, monkeypatch):
    made = explain(predictor, read_cases(drawn / "parts.csv")[0])
    sure = np.array([0.9993, 0.0004, 0.0003])
    views = dict.fromkeys(made.prediction.views_present, sure)
    made = replace(made, prediction=replace(made.prediction, probabilities=sure, view_probabilities=views))
    lines, captions = drawn_on(monkeypatch, made, predictor.classes)
    assert f"{predictor.classes[0]}: >99%" in lines
    assert all("(>99%)" in caption for caption in captions)


def test_of_several_images_the_sheet_says_which_is_shown(predictor, drawn, monkeypatch, tmp_path):
    cases = [c for c in read_cases(drawn / "parts.csv") if all(c.views.values())]
    views = {**cases[0].views, "clinical": cases[0].views["clinical"] + cases[1].views["clinical"]}
    case = replace(cases[0], views=views)
    _, captions = drawn_on(monkeypatch, explain(predictor, case), predictor.classes)
    assert [caption.partition(": share")[0] for caption in captions] == ["clinical, image 1 of 2", "ultrasound"]
    monkeypatch.undo()
    explain_cases(predictor, [case], tmp_path)
    told = json.loads((tmp_path / "explanations.json").read_text())["cases"][0]
    assert told["images"] == {"clinical": 2, "ultrasound": 1}


def test_a_folder_of_images_is_not_written_over(trained, drawn, tmp_path, agfnet_command):
    """Neither a new one, nor one that holds explanations beside them."""
    for name in ("0002.png", "2024.png", "0001-report.dcm"):
        (tmp_path / name).write_text("a photo")
        done = agfnet_command("explain", trained, drawn / "parts.csv", "-o", tmp_path, "--cases", 1)
        assert done.exit_code == 1
        assert f"{name}: is no explanation of an earlier call" in done.stderr
        assert (tmp_path / name).read_text() == "a photo"
        (tmp_path / name).unlink()
        assert agfnet_command("explain", trained, drawn / "parts.csv", "-o", tmp_path, "--cases", 1).exit_code == 0


def test_no_file_of_an_earlier_case_stays(trained, drawn, tmp_path, agfnet_command):
    """A report beside another patient's picture would be taken for that patient's."""
    table = drawn / "parts.csv"
    assert agfnet_command("explain", trained, table, "-o", tmp_path, "--cases", 3).exit_code == 0
    listing = tmp_path / "explanations.json"
    told = json.loads(listing.read_text())
    told["cases"][0]["dicom"], told["cases"][2]["dicom"] = ["0001-report.dcm"], ["0003-overlay.dcm"]
    listing.write_text(json.dumps(told))
    for name in ("0001-report.dcm", "0003-overlay.dcm", "notes.png"):
        (tmp_path / name).write_text("of another case")
    stated = "cyst=0.1,lipoma=0.1,naevus=0.8"
    done = agfnet_command("explain", trained, table, "-o", tmp_path, "--cases", 1, "--prevalence", stated)
    assert done.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"0001.png", "explanations.json", "notes.png"}
    told = json.loads(listing.read_text())
    assert told["prevalence"] == stated
    assert told["unfinished"] == []
    asked = next(Predictor(trained, prevalence=parse_prevalence(stated)).predict(read_cases(table)[:1])).prediction
    assert told["cases"][0]["probability"] == pytest.approx(asked.probabilities.max())


def test_what_a_stopped_call_leaves_is_listed(predictor, drawn, tmp_path):
    """So that the next call knows it for its own, and deletes it."""
    cases = read_cases(drawn / "parts.csv")[:3]

    def stopped(_explanation, _case, stem):
        if stem.name == "0002":
            stem.with_name("0002-report.dcm").write_text("half of a case")
            stem.with_name(".0002-overlay.dcm.12ab.tmp").write_text("half of a file")
            raise KeyboardInterrupt
        return []

    with pytest.raises(KeyboardInterrupt):
        explain_cases(predictor, cases, tmp_path, also=stopped)
    assert json.loads((tmp_path / "explanations.json").read_text())["unfinished"] == ["0002"]
    explain_cases(predictor, cases[:1], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0001.png", "explanations.json"}


def test_shares_and_heat_are_of_the_diagnosis_and_of_the_views_own_evidence():
    told = {"a": [0.7, 0.2, 0.1], "b": [0.1, 0.6, 0.3], "ab": [0.2, 0.5, 0.3]}
    evidence = {view: np.zeros((3, 2, 2), np.float32) for view in "ab"}
    evidence["a"][1, 0, 0] = evidence["b"][1, 1, 1] = evidence["a"][0, 1, 0] = 4.0

    def conclude(views, _own, **_):
        p = np.array(told["".join(sorted(views))])
        return Prediction(
            case_id="", probabilities=p, view_probabilities={}, view_weights={}, views_present=tuple(views),
            evidence=evidence,
        )  # fmt: skip

    network = SimpleNamespace(
        prior=np.full(3, 1 / 3), prevalence=None, decision=None, specs=dict.fromkeys("ab"), warned=lambda _: (),
        conclude=conclude,
    )  # fmt: skip
    frames = {view: [Framed(np.zeros((64, 64, 3), np.uint8))] for view in "ab"}
    made = explained(network, frames, {frozenset(views): {} for views in told})
    nothing, a, b, both = (log_odds(p) for p in (1 / 3, 0.2, 0.6, 0.5))
    assert made.shares == pytest.approx({"a": (a - nothing + both - b) / 2, "b": (b - nothing + both - a) / 2})
    assert made.heat["a"][0, 0] == made.heat["b"][-1, -1] == 1.0
    assert made.heat["a"][-1, 0] == made.heat["b"][0, 0] == 0.0
