"""The report of a small run: complete, self-contained, and every figure the same when computed again."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from agfnet.cli import app
from agfnet.config import parse_config
from agfnet.evaluation.experiment import run
from agfnet.evaluation.scorecard import scorecard
from agfnet.metrics.calibration import ece, nll
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.ranking import macro_auc
from agfnet.prediction.predictor import Predictor
from agfnet.types import RESEARCH_USE
from drawn import small_config


@pytest.fixture(scope="module")
def reported(answering, drawn, tmp_path_factory):
    """The folder of a calibrated run's report."""
    out = tmp_path_factory.mktemp("reported") / "report"
    arguments = ["report", answering, drawn / "parts.csv", "--part", "train", "-o", out, "--draws", 100]
    arguments += ["--subgroup", "border"]
    done = CliRunner().invoke(app, [str(a) for a in [*arguments, "--threads", 1]], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def facts(reported):
    return json.loads((reported / "report.json").read_text())


def test_robustness_of_another_network_is_refused(answering, drawn, tmp_path, agfnet_command):
    (tmp_path / "robustness.json").write_text(json.dumps({"bundle_sha256": "0" * 64}))
    out = tmp_path / "report"
    done = agfnet_command("report", answering, drawn / "parts.csv", "-o", out, "--robustness", tmp_path)
    assert done.exit_code == 1
    assert "is of another network" in done.stderr.replace("\n", " ")
    done = agfnet_command("report", answering, drawn / "parts.csv", "-o", out, "--robustness", tmp_path / "none")
    assert "is not there" in done.stderr.replace("\n", " ")
    assert not list(out.iterdir())  # nothing was asked before


def test_robustness_of_other_cases_says_so(answering, drawn, tmp_path, agfnet_command):
    asked = [answering, drawn / "parts.csv", "--draws", 100, "--threads", 1]
    assert agfnet_command("robustness", *asked, "-o", tmp_path).exit_code == 0
    made = json.loads((tmp_path / "robustness.json").read_text())
    for part, other in (("validation", False), ("train", True)):
        (tmp_path / "robustness.json").write_text(json.dumps(made | {"part": part}))
        done = agfnet_command("report", *asked, "-o", tmp_path / part, "--robustness", tmp_path)
        assert done.exit_code == 0, done.stderr
        page = (tmp_path / part / "report.html").read_text()
        assert ("not the cases of the rest of this page" in page) == other
        section = page[page.index('<section id="robustness">') : page.index('<section id="cases">')]
        *notes, notice = made["notes"]
        assert notes
        assert notice == RESEARCH_USE  # which is said at the top
        assert all(note in unescape(section) for note in notes)


def test_a_runs_own_files_are_not_written_over(answering, drawn, agfnet_command):
    (answering / "bad_cases.csv").write_text("case_id,error\n")
    for command in ("evaluate", "report"):
        done = agfnet_command(command, answering, drawn / "parts.csv", "-o", answering, "--draws", 100)
        assert done.exit_code == 1
        assert "is the folder of a run" in done.stderr.replace("\n", " ")
    assert (answering / "bad_cases.csv").exists()


def test_figures_on_cases_that_were_learnt_from_say_so(facts, answering, drawn, tmp_path, agfnet_command):
    assert facts["card"]["notes"][0].endswith("were trained on: these figures say how well they were learnt.")
    assert "trained_on" not in facts["run"]
    assert "fitted_on" not in facts["calibration"]
    out = tmp_path / "figures"
    agfnet_command("evaluate", answering, drawn / "parts.csv", "-o", out, "--draws", 100)
    notes = json.loads((out / "scorecard.json").read_text())["notes"]
    assert "were calibrated on" in notes[0]
    assert "part: validation" in (out / "summary.md").read_text()
    agfnet_command("evaluate", answering, drawn / "parts.csv", "--part", "calibration", "-o", out, "--draws", 100)
    assert not any(" were calibrated on" in note for note in json.loads((out / "scorecard.json").read_text())["notes"])


class Page(HTMLParser):
    """Collects what a page loads, its images without a text, and its ids and links."""

    def __init__(self):
        super().__init__()
        self.outside, self.silent, self.ids, self.links, self.open = [], 0, set(), set(), []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        for key in ("src", "href"):
            value = given.get(key, "")
            if value.startswith("#"):
                self.links.add(value[1:])
            elif value and not value.startswith("data:"):
                self.outside.append(value)
        self.silent += tag == "img" and not given.get("alt")
        if tag not in {"meta", "img", "br", "link", "hr"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing(reported):
    text = (reported / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.outside == []
    assert page.silent == 0
    assert page.links <= page.ids
    assert "url(" not in text
    assert "Research use only" in text
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", text)


def test_the_figures_are_those_of_the_saved_predictions(reported, facts, drawn):
    saved = pl.read_csv(reported / "predictions.csv").join(
        pl.read_csv(drawn / "parts.csv").select("case_id", "label"), on="case_id"
    )
    classes = facts["card"]["classes"]
    p = saved.select([f"p_{name}" for name in classes]).to_numpy()
    y = np.array([classes.index(name) for name in saved["label"]])
    for name, score in (
        ("accuracy", accuracy),
        ("balanced_accuracy", balanced_accuracy),
        ("macro_auc", macro_auc),
        ("nll", nll),
        ("ece", ece),
    ):
        assert facts["card"]["metrics"][name]["value"] == pytest.approx(float(score(y, p)), abs=1e-9)
    inside = [label in sets.split(";") for label, sets in zip(saved["label"], saved["diagnosis_set"], strict=True)]
    assert facts["sets"]["coverage"]["value"] == pytest.approx(np.mean(inside))

    answered = (saved["referred"] == "no").to_numpy()
    assert facts["referral"]["answered"]["value"] == pytest.approx(answered.mean())
    wrong = p.argmax(1) != y
    assert 0 < answered.sum() < len(answered)
    assert facts["referral"]["error_answered"]["value"] == pytest.approx(wrong[answered].mean())


def test_the_part_is_said_also_where_none_was_named(answering, tmp_path, agfnet_command, facts):
    assert facts["card"]["part"] == "train"
    done = agfnet_command("report", answering, "-o", tmp_path, "--draws", 100, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "(validation part of parts.csv)" in (tmp_path / "model_card.md").read_text()


def test_the_whole_scorecard_is_that_of_the_saved_predictions(reported, facts, drawn):
    saved = pl.read_csv(reported / "predictions.csv").join(
        pl.read_csv(drawn / "parts.csv").select("case_id", "patient_id", "label"), on="case_id", maintain_order="left"
    )
    card = facts["card"]
    again = scorecard(
        [card["classes"].index(name) for name in saved["label"]],
        saved.select([f"p_{name}" for name in card["classes"]]).to_numpy(),
        saved["patient_id"].to_list(),
        card["classes"],
        malignant=card["malignant"],
        draws=card["draws"],
        seed=card["seed"],
    )
    compared = {"metrics", "per_class", "confusion", "calibration", "risk_coverage"}
    assert flat({key: again[key] for key in compared}) == pytest.approx(flat({key: card[key] for key in compared}))


def flat(tree, path=""):
    """Every number of a tree, by its path; -1 for what is not defined."""
    if isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        return {name: value for key, own in items for name, value in flat(own, f"{path}/{key}").items()}
    return {path: -1.0 if tree is None else tree} if tree is None or isinstance(tree, int | float) else {}


NUMBER = re.compile(r"(?<![\w.:-])[+-]?\d+(?:\.\d+)?(?![\w.-]*[\w])")


def printed(tree):
    """Every way in which the page may print a number of the JSON, and every number inside its texts."""
    found = set()
    for value in flat(tree).values():
        found |= {f"{value}", f"{value:.3f}", f"{value:+.2f}", f"{100 * value:.1f}", f"{100 * value:.0f}"}
    return found | set(NUMBER.findall(json.dumps(tree, ensure_ascii=False)))


def test_every_figure_of_the_page_is_in_the_json(reported, facts):
    page = re.sub(r"<(style|svg|title).*?</\1>", " ", (reported / "report.html").read_text(), flags=re.DOTALL)
    alts = " ".join(re.findall(r'alt="([^"]*)"', page))
    text = unescape(re.sub(r"<[^>]+>", " ", page)) + " " + unescape(alts)
    assert len(NUMBER.findall(text)) > 100
    texts = {"2024", "12", "5", "15", "90", "0", "2", "95"}  # of the page's own words
    numbers = set(NUMBER.findall(text)) - texts
    assert numbers <= printed(facts)
    assert not numbers <= printed({**facts, "missing_views": None})  # so it would be seen if one were not
    assert facts["bundle_sha256"] in text


def test_figures_beside_a_page_are_those_of_the_page(reported, trained, answering, drawn, agfnet_command):
    stated = "--prevalence", "cyst=0.4,lipoma=0.3,naevus=0.3"
    for source, part, more in ((trained, "train", ()), (answering, "validation", ()), (answering, "train", stated)):
        done = agfnet_command("evaluate", source, drawn / "parts.csv", "--part", part, "-o", reported, *more)
        assert done.exit_code == 1
        assert "holds a report on another network, other cases or another prevalence" in done.stderr.replace("\n", " ")
    assert "Probabilities are calibrated" in (reported / "summary.md").read_text()


def test_a_report_for_another_prevalence_has_the_figures_of_an_evaluation_for_it(
    facts, answering, drawn, tmp_path, agfnet_command
):
    asked = answering, drawn / "parts.csv", "--part", "train", "--draws", 100, "--threads", 1
    stated = "cyst=0.4,lipoma=0.3,naevus=0.3"
    for command in ("evaluate", "report"):
        done = agfnet_command(command, *asked, "-o", tmp_path / command, "--prevalence", stated)
        assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "report" / "report.json").read_text())["card"]
    alone = json.loads((tmp_path / "evaluate" / "scorecard.json").read_text())
    assert told["metrics"] == alone["metrics"] != facts["card"]["metrics"]
    assert told["prevalence"] == stated
    for page in ("report.html", "model_card.md"):
        assert f"diagnoses were so frequent: {stated}." in (tmp_path / "report" / page).read_text()


def test_errors_are_the_most_confident_ones(facts):
    sure = [case["probability"] for case in facts["shown"]["errors"]]
    assert sure == sorted(sure, reverse=True)
    assert len(sure) <= 12


def test_subgroups_are_those_that_were_asked_for(facts, answering, tmp_path, agfnet_command):
    """A free column may hold names: none is shown unasked."""
    assert set(facts["card"]["subgroups"]) == {"site", "border"}
    done = agfnet_command("report", answering, "-o", tmp_path, "--draws", 100, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    told = json.loads((tmp_path / "report.json").read_text())
    assert "border" not in told["card"]["subgroups"]
    assert "<h3>border</h3>" not in (tmp_path / "report.html").read_text()
    unknown = agfnet_command("report", answering, "-o", tmp_path, "--subgroup", "age")
    assert unknown.exit_code == 1
    assert "no subgroups by age; there are values of border" in unknown.stderr.replace("\n", " ")


def test_rare_sites_are_counted_and_not_named(answering, drawn, tmp_path, agfnet_command):
    test = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "train").drop("split")
    place = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("Dr Huber")).otherwise(pl.lit("clinic"))
    views = [(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    test.with_columns(*views, site=place, split=pl.lit("train")).write_csv(tmp_path / "t.csv")
    out = tmp_path / "out"
    done = agfnet_command("report", answering, tmp_path / "t.csv", "--part", "train", "-o", out, "--draws", 100)
    assert done.exit_code == 0, done.stderr
    told = json.loads((out / "report.json").read_text())["cohort"]["site"]
    assert told == {"clinic": test.height - 1, "others (1)": 1}
    assert not [path for path in out.iterdir() if b"Huber" in path.read_bytes()]


def test_what_was_chosen_and_what_a_missing_view_costs_is_said(reported, facts):
    page, card = (reported / "report.html").read_text(), (reported / "model_card.md").read_text()
    assert "<h1>Report: train part of parts.csv</h1>" in page
    answered = facts["referral"]["answered_cases"]
    assert (
        f"errors in at most {100 * facts['referral']['risk']:.0f} % of the answered cases, with 95 % confidence for "
        f"cases of the same views. Answered: {answered} of" in page
    )
    assert f"{answered} of {facts['card']['n_cases']} cases" in card
    for own in facts["missing_views"].values():
        lost = own["against"]["lost"]
        assert own["against"]["cases"] == facts["card"]["views_present"]["clinical;ultrasound"] <= own["cases"]
        assert lost["low"] <= lost["value"] <= lost["high"]


def test_further_labels_are_judged(reported, facts, drawn):
    """By the saved predictions against the table."""
    told = facts["card"]["further_labels"]["border"]
    table = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "train").select("case_id", "border")
    said = pl.read_csv(reported / "predictions.csv").join(table, on="case_id")
    known = said.drop_nulls("border")
    right = (known["border_prediction"] == known["border"]).mean()
    assert told["n_cases"] == known.height
    assert told["accuracy"]["value"] == pytest.approx(right)
    assert "Further labels" in (reported / "report.html").read_text()
    assert "| border | " in (reported / "summary.md").read_text()


def test_the_model_card(reported, facts, drawn):
    text = (reported / "model_card.md").read_text()
    assert "Research use only" in text
    assert "Balanced accuracy" in text
    assert str(drawn) not in text  # of this machine, and a card is passed on
    assert "(train part of parts.csv)" in text
    assert "fusion: agf;" in text
    for part in ("model.onnx", "decision.json"):
        assert facts["run"]["sha256"][part] in text


def test_a_card_that_a_person_has_completed_is_not_written_over(
    reported, answering, tmp_path, agfnet_command, monkeypatch
):
    own = tmp_path / "final"
    shutil.copytree(reported, own)
    asked = "report", answering, "--part", "train", "-o", own, "--draws", 100, "--threads", 1
    assert agfnet_command(*asked).exit_code == 0
    card = own / "model_card.md"
    card.write_text(f"{card.read_text()}\nSeen by the ethics board.\n")
    monkeypatch.setattr(Predictor, "predict", lambda *_, **__: pytest.fail("the network is asked"))
    done = agfnet_command(*asked)
    assert done.exit_code == 1
    assert "is not as a report wrote it" in done.stderr.replace("\n", " ")
    assert "ethics board" in card.read_text()


def test_malignant_cases_answered_as_benign_are_counted(reported, facts, drawn):
    saved = pl.read_csv(reported / "predictions.csv").join(
        pl.read_csv(drawn / "parts.csv").select("case_id", "patient_id", "label"), on="case_id"
    )
    malignant = facts["card"]["malignant"]
    ill = saved.filter(pl.col("label").is_in(malignant))
    missed = ill.filter((pl.col("referred") == "no") & ~pl.col("prediction").is_in(malignant))
    told = facts["missed"]
    assert (told["cases"], told["of_cases"]) == (len(missed), len(ill))
    assert (told["patients"], told["of_patients"]) == (missed["patient_id"].n_unique(), ill["patient_id"].n_unique())
    said = f"Malignant cases answered as benign and not referred: {len(missed)} of {len(ill)}"
    assert said in (reported / "report.html").read_text()
    assert said in (reported / "model_card.md").read_text()


@pytest.mark.parametrize("command", ["evaluate", "report", "robustness"])
def test_without_labels_nothing_is_asked(answering, drawn, tmp_path, agfnet_command, monkeypatch, command):
    pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "test").drop("label", "split").with_columns(
        *[(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")]
    ).write_csv(tmp_path / "bare.csv")
    monkeypatch.setattr(Predictor, "predict", lambda *_, **__: pytest.fail("the network is asked"))
    done = agfnet_command(command, answering, tmp_path / "bare.csv", "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "no case with a label" in done.stderr


def test_cases_without_the_view_of_a_network_of_one_view_are_left_out(drawn, tmp_path, agfnet_command):
    table = tmp_path / "parts.csv"
    every = pl.read_csv(drawn / "parts.csv").with_columns(
        *[(pl.lit(f"{drawn}/") + pl.col(view)).alias(view) for view in ("clinical", "ultrasound")],
        split=pl.when(pl.col("patient_id") == "p005").then(pl.lit("validation")).otherwise(pl.col("split")),
    )
    every.write_csv(table)
    asked = every.filter(pl.col("split") == "validation")
    lacking = asked["ultrasound"].null_count()
    assert lacking
    config = small_config(table)
    del config["data"]["views"]["clinical"]
    run(parse_config(config, "drawn"), tmp_path / "run")
    for command in ("report", "robustness", "faithfulness", "evaluate"):
        named = [table] if command == "evaluate" else []
        done = agfnet_command(command, tmp_path / "run", *named, "-o", tmp_path / command, "--draws", 100)
        assert done.exit_code == 0, done.stderr
        file = {"evaluate": "scorecard"}.get(command, command)
        text = (tmp_path / command / f"{file}.json").read_text()
        assert f"{lacking} of {len(asked)} cases have no image of ultrasound: they are left out." in text
