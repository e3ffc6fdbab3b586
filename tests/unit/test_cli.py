from __future__ import annotations

import click
import pytest
import typer
from broken import BROKEN

from agfnet.cli import app
from agfnet.console import errors_said
from agfnet.types import RESEARCH_USE
from drawn import small_config, write_config

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]

IN_REACH = [b for b in BROKEN if "limits" not in b.check]  # the limits are no option of the command


def said(result) -> str:
    return click.unstyle(result.stdout + result.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(agfnet_command, name):
    result = agfnet_command(name, "--help")
    assert result.exit_code == 0
    assert f"agfnet {name}" in " ".join(said(result).replace("│", "").split())


def test_help_says_research_use(agfnet_command):
    text = " ".join(said(agfnet_command("--help")).replace("│", "").split())
    assert RESEARCH_USE in text
    assert "Example" in text


def test_enough_kinds_of_broken_input():
    assert len(IN_REACH) >= 30
    assert len({b.cause for b in IN_REACH}) >= 15


@pytest.mark.parametrize("broken", IN_REACH, ids=lambda b: b.name)
def test_broken_tables_and_images_are_named(agfnet_command, broken, tmp_path):
    """Each cause is named by the command itself, with exit code 1 and no traceback."""
    table = broken.build(tmp_path)
    options = {"classes": "--classes", "views": "--views", "extra_labels": "--extra-labels", "data_root": "--data-root"}
    arguments: list[object] = ["check", table]
    for key, value in broken.check.items():
        if key in options:
            arguments += [options[key], ",".join(value) if isinstance(value, (list, tuple)) else value]
        elif key == "level":
            arguments += {"quick": ["--quick"], "deep": ["--deep"], "decode": []}[value]
        elif key == "need_labels":
            arguments += ["--need-labels"]
        else:
            pytest.fail(f"no option for {key}")
    result = agfnet_command(*arguments)
    assert result.exit_code == 1
    assert f"[{broken.cause}]" in said(result)
    assert "Traceback" not in said(result)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["predict", "none.agf", "cases.csv"], "no such run folder or bundle"),
        (["predict", "{trained}", "none.csv"], "none.csv"),
        (["predict", "{trained}", "--view", "clinical"], "not of the form"),
        (["predict", "{trained}", "--view", "xray=a.jpg"], "the network knows clinical, ultrasound"),
        (["evaluate", "{trained}", "{drawn}/parts.csv", "--part", "nowhere", "-o", "x"], "no case with split nowhere"),
        (
            ["evaluate", "{trained}", "{drawn}/parts.csv", "-o", "x", "--subgroup", "colour"],
            "no subgroups by colour; there are values of border, reference_standard, site, split",
        ),
        (
            ["evaluate", "{trained}", "{drawn}/parts.csv", "--part", "train", "--include-test", "-o", "x"],
            "has no test cases",
        ),
        (["predict", "{trained}", "{drawn}/parts.csv", "-o", "x.xlsx"], "written as .csv or .parquet"),
        (["explain", "{trained}", "{drawn}/parts.csv", "-o", "{drawn}/parts.csv"], "cannot be the folder"),
        (["bundle", "{trained}", "-o", "{drawn}"], "is a folder; name a file"),
        (["bundle", "{trained}", "-o", "x.agf", "--card", "{trained}/model.agf"], "is no text"),
        (["train", "-c", "none.yaml", "-o", "x"], "cannot be read"),
        (
            ["evaluate", "{trained}", "{drawn}/parts.csv", "-o", "{drawn}/parts.csv"],
            "cannot be the folder of the results (it is a file)",
        ),
        (["split", "none.csv", "-o", "x.csv"], "none.csv"),
        (["derm7pt", "nowhere", "x.csv"], "nowhere"),
    ],
)
def test_wrong_input_is_one_message(agfnet_command, trained, drawn, tmp_path, monkeypatch, arguments, text):
    monkeypatch.chdir(tmp_path)
    result = agfnet_command(*(a.format(trained=trained, drawn=drawn) for a in arguments))
    assert result.exit_code == 1
    assert text in " ".join(said(result).split())
    assert "Traceback" not in said(result)


def test_training_needs_parts(agfnet_command, drawn, tmp_path):
    config = write_config(tmp_path / "c.yaml", small_config(drawn / "cases.csv"))
    result = agfnet_command("train", "-c", config, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "agfnet split" in said(result)


def test_predict_says_which_cases_have_no_image(agfnet_command, trained, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("case_id,patient_id,clinical,ultrasound\na,p,none.jpg,\n")
    result = agfnet_command("predict", trained, table, "-o", tmp_path / "out.csv")
    assert result.exit_code == 1
    assert "1 of 1 cases could not be predicted" in said(result)
    assert "none.jpg" in (tmp_path / "out.csv").read_text()
    assert agfnet_command("predict", trained, table, "-o", tmp_path / "out.csv", "--skip-bad").exit_code == 0


def test_a_split_in_another_folder_leads_to_the_same_images(agfnet_command, drawn, tmp_path):
    result = agfnet_command("split", drawn / "cases.csv", "-o", tmp_path / "parts.csv")
    assert result.exit_code == 0
    assert agfnet_command("check", tmp_path / "parts.csv").exit_code == 0


@pytest.mark.parametrize(("module", "extra"), [("torch", "train"), ("matplotlib", "evaluate")])
def test_a_missing_library_names_the_extra_to_install(capsys, module, extra):
    with pytest.raises(typer.Exit), errors_said():
        raise ModuleNotFoundError(name=module)
    assert f"pip install 'agfnet[{extra}]'" in click.unstyle(capsys.readouterr().err)
