from __future__ import annotations

import os
import shutil

import click
import numpy as np
import polars as pl
import pytest
import typer
from broken import BROKEN
from dicom_files import dicom, save
from PIL import Image

import agfnet
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
        (["predict", "{drawn}/parts.csv", "{trained}"], "is a table. Name the bundle or run folder first"),
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
        (["predict", "{trained}", "{drawn}/parts.csv", "-o", "{drawn}/cases.csv/x.csv"], "cannot be written there"),
        (["predict", "{trained}", "{drawn}/parts.csv", "--mm-per-pixel", "clinical=0.1"], "has the columns <view>_mm"),
        (["predict", "{trained}", "--view", "clinical=a.jpg", "--mm-per-pixel", "clinical=9"], "0.0005 to 2.0"),
        (
            ["predict", "{trained}", "--view", "clinical=a.jpg", "--mm-per-pixel", "ultrasound=1"],
            "no --view ultrasound",
        ),
        (
            ["predict", "{trained}", "--view", "clinical=a.jpg", *["--mm-per-pixel", "clinical=0.1"] * 2],
            "--mm-per-pixel clinical: was given already",
        ),
        (["predict", "{trained}", "--view", "clinical=/a.jpg", "--data-root", "{drawn}"], "leaves the data folder"),
        (["predict", "{trained}", "{drawn}/cases.csv", "--provider", "tpu"], "provider 'tpu' is not to be had here"),
        (["predict", "{trained}", "{drawn}/cases.csv", "--prevalence", "cyst=0.5,lipoma"], "is not of the form"),
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


def test_answers_are_not_written_over_a_table_that_holds_none(agfnet_command, trained, drawn, tmp_path):
    """It may hold diagnoses, filled in by hand."""
    table = tmp_path / "mine.csv"
    shutil.copy(drawn / "parts.csv", table)
    before = table.read_bytes()
    result = agfnet_command("predict", trained, drawn / "parts.csv", "-o", table)
    assert result.exit_code == 1
    assert "was not written by such a call" in " ".join(said(result).split())
    (tmp_path / "out").mkdir()
    table = table.rename(tmp_path / "out" / "predictions.csv")
    for command in ("evaluate", "report"):
        result = agfnet_command(command, trained, drawn / "parts.csv", "--part", "validation", "-o", tmp_path / "out")
        assert result.exit_code == 1
        assert "was not written by such a call" in " ".join(said(result).split())
    assert table.read_bytes() == before


def test_names_that_are_not_utf_8_are_told(agfnet_command, trained, tmp_path, monkeypatch):
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    folder.mkdir()
    (folder / "a.csv").write_text("case_id,patient_id,clinical\na,p,b.jpg\n")
    monkeypatch.chdir(folder)
    for arguments in (
        ("check", "a.csv"),
        ("predict", trained, "a.csv"),
        ("predict", trained, "--view", os.fsdecode(b"clinical=m\xfc.jpg")),
    ):
        result = agfnet_command(*arguments)
        assert result.exit_code == 1
        assert "its path is not UTF-8" in " ".join(said(result).split())
    for command in (("predict", trained), ("split",), ("explain", trained)):
        result = agfnet_command(*command, "t.csv", "-o", folder / "out.csv")
        assert result.exit_code == 2  # before any work
        assert "its path is not UTF-8" in " ".join(said(result).replace("\u2502", " ").split())


@pytest.mark.parametrize(
    "views", [["clincal={}"], ["clinical={}", "ultrasound={}"], ["{}"]], ids=["unknown", "twice", "no view"]
)
def test_no_password_of_a_url_is_shown(agfnet_command, trained, views):
    options = [part for view in views for part in ("--view", view.format("https://ward:hunter2@h.example/a.jpg"))]
    result = agfnet_command("predict", trained, *options)
    assert result.exit_code == 1
    assert "hunter2" not in said(result)


def test_columns_that_may_be_the_views_are_named(agfnet_command, trained, tmp_path):
    (tmp_path / "t.csv").write_text("case_id,patient_id,photo,scan\na,p,a.jpg,b.png\n")
    result = agfnet_command("predict", trained, tmp_path / "t.csv")
    assert result.exit_code == 1
    assert "if photo or scan is one of them, rename it" in " ".join(said(result).split())


def test_a_split_in_another_folder_leads_to_the_same_images(agfnet_command, drawn, tmp_path):
    result = agfnet_command("split", drawn / "cases.csv", "-o", tmp_path / "parts.csv")
    assert result.exit_code == 0
    assert agfnet_command("check", tmp_path / "parts.csv").exit_code == 0


@pytest.mark.parametrize(("module", "extra"), [("torch", "train"), ("matplotlib", "evaluate")])
def test_a_missing_library_names_the_extra_to_install(capsys, module, extra):
    with pytest.raises(typer.Exit), errors_said():
        raise ModuleNotFoundError(name=module)
    assert f"pip install 'agfnet[{extra}]'" in click.unstyle(capsys.readouterr().err)


def test_texts_with_brackets_are_said_as_they_are(agfnet_command, trained, drawn, tmp_path):
    folder = tmp_path / "a [bold]x[" / "b] :x:"
    result = agfnet_command("evaluate", trained, drawn / "parts.csv", "-o", folder, "--draws", 100)
    assert result.exit_code == 0, said(result)
    assert f"everything is in {folder}" in said(result)
    for name in ("explanations.json", "report.json"):
        (folder / name).write_text("{}")
    for command in ("evaluate", "explain"):
        again = agfnet_command(command, trained, drawn / "parts.csv", "-o", folder)
        assert again.exit_code == 1
        assert f"{folder}/{'report' if command == 'evaluate' else 'explanations'}.json: was not written" in said(again)


def test_the_version(agfnet_command):
    assert agfnet_command("--version").stdout == f"agfnet {agfnet.__version__}\n"


def test_a_view_under_another_name_is_said_and_one_in_other_capitals_refused(agfnet_command, trained, drawn, tmp_path):
    """Half of the evidence would be left out of every answer."""
    table = drawn / "renamed.csv"
    frame = pl.read_csv(drawn / "parts.csv")
    for name, code, told in (
        ("Clinical", 1, "there is no column clinical, but Clinical. Rename it to clinical."),
        ("picture", 0, "these views are absent in every case; if picture is one of them, rename it"),
    ):
        frame.rename({"clinical": name}).write_csv(table)
        for i, more in enumerate([["-o", tmp_path / f"{name}.csv"], ["--engine", "local", "-o", tmp_path / name]]):
            result = agfnet_command("predict", trained, table, *more, "--skip-bad")
            assert result.exit_code == code, (i, said(result))
            assert told in " ".join(said(result).split())


def test_what_is_not_calibrated_says_so(agfnet_command, trained, calibrated, drawn, tmp_path):
    for source, told in ((trained, True), (calibrated, False)):
        out = tmp_path / source.name
        done = agfnet_command("predict", source, drawn / "parts.csv", "-o", out.with_suffix(".csv"))
        assert ("is not calibrated" in said(done)) == told
        reasons = pl.read_csv(out.with_suffix(".csv"))["refer_reasons"]
        assert (set(reasons) == {"not calibrated"}) == told
        for command in (["bundle", source, "-o", out.with_suffix(".agf")], ["verify", out.with_suffix(".agf")]):
            assert ("NOT CALIBRATED" in said(agfnet_command(*command))) == told


def test_one_case_with_its_scale_is_that_of_the_table(agfnet_command, calibrated, drawn, tmp_path, monkeypatch):
    row = pl.read_csv(drawn / "parts.csv").drop_nulls(["clinical", "ultrasound"]).head(1)
    row.with_columns(ultrasound_mm_per_pixel=pl.lit(0.07)).write_csv(drawn / "one.csv")
    monkeypatch.chdir(drawn)
    views = [a for view in ("clinical", "ultrasound") for a in ("--view", f"{view}={row[0, view]}")]
    asked = [["one.csv"], [*views, "--mm-per-pixel", "ultrasound=0,07", "--data-root", drawn]]
    made = []
    for i, arguments in enumerate(asked):
        file = tmp_path / f"{i}.csv"
        assert agfnet_command("predict", calibrated, *arguments, "-o", file).exit_code == 0
        made.append(pl.read_csv(file).drop("case_id"))
    assert made[0].equals(made[1])


def test_an_image_without_the_scale_that_the_network_sees_is_told(agfnet_command, drawn, tmp_path):
    tree = small_config(drawn / "parts.csv", epochs=1)
    tree["data"]["views"]["ultrasound"]["mm_per_pixel"] = 0.1
    config = write_config(tmp_path / "c.yaml", tree)
    assert agfnet_command("train", "-c", config, "-o", tmp_path / "run").exit_code == 0
    frame = pl.read_csv(drawn / "parts.csv").drop_nulls("ultrasound").head(2)
    frame.with_columns(ultrasound_mm_per_pixel=pl.Series([0.05, None])).write_csv(drawn / "scaled.csv")
    for engine in ([], ["--engine", "local"]):
        out = tmp_path / ("bulk" if engine else "out.csv")
        assert agfnet_command("predict", tmp_path / "run", drawn / "scaled.csv", *engine, "-o", out).exit_code == 0
        made = pl.read_parquet(out / "predictions/*.parquet") if engine else pl.read_csv(out)
        assert made["warnings"].to_list() == [None, "ultrasound: no scale"]
    scan = np.asarray(Image.open(drawn / frame[0, "ultrasound"]).convert("RGB"))
    files = [
        drawn / frame[0, "ultrasound"],
        save(tmp_path / "a.dcm", dicom(scan, modality="US", PixelSpacing=[0.1, 0.1])),
    ]
    for command in ("predict", "explain"):
        for file, told in zip(files, (True, False), strict=True):  # which of two files has a scale, it says itself
            made = tmp_path / f"{command}-{told}.csv"  # a folder's name will do
            done = agfnet_command(command, tmp_path / "run", "--view", f"ultrasound={file}", "-o", made)
            assert done.exit_code == 0, said(done)
            assert [text in said(done) for text in ("Add --mm-per-pixel ultrasound=MM", "misjudged")] == [told, told]
