from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import click
import fsspec
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import agfnet
from agfnet.data.preprocess import ViewSpec
from agfnet.files import claim
from agfnet.places import place
from agfnet.prediction import bulk, bulk_part
from agfnet.prediction.bulk import predict_bulk
from agfnet.prediction.bulk_part import PartPredictor
from agfnet.prediction.bulk_plan import LOCK, RECORD, Settings, plan_work, stopped_plan
from agfnet.prediction.predictor import Predictor
from agfnet.types import ConfigError, TableError
from bulky import BAD, check_whole, many_rows, results

ROWS, PART_ROWS = 45, 10
FAULTY = {3: "missing-id", 8: "bad-mm-per-pixel", 17: "path-outside", 20: "no such file", 29: "no image of",
          31: "duplicate-case", 38: "looks like text", 41: "duplicate-case"}  # fmt: skip


@pytest.fixture(scope="module")
def table(drawn):
    """Rows of which some are bad, in every way that a row can be; beside the images."""
    assert set(FAULTY.values()) == set(BAD)
    many_rows(drawn, ROWS, FAULTY).write_csv(drawn / "bulk.csv")
    return drawn / "bulk.csv"


@pytest.fixture(scope="module")
def predicted(calibrated, table, tmp_path_factory):
    """The folder of one local run."""
    folder = tmp_path_factory.mktemp("bulk") / "predicted"
    tally = predict_bulk(calibrated, table, folder, engine="local", part_rows=PART_ROWS, threads=1)
    assert (tally.rows, tally.quarantined) == (ROWS, len(FAULTY))
    return folder


def again(calibrated, table, folder, **options):
    options = {"engine": "local", "part_rows": PART_ROWS, "threads": 1} | options
    return predict_bulk(calibrated, table, folder, **options)


def test_every_row_is_predicted_or_in_quarantine_with_its_reason(predicted, table):
    check_whole(predicted, pl.read_csv(table, infer_schema=False).fill_null(""), FAULTY)
    assert "row 2 already" in results(predicted)[1].filter(row=43)["reason"][0]


def test_the_figures_are_those_of_a_plain_prediction(agfnet_command, calibrated, predicted, drawn, tmp_path):
    good = [i for i in range(ROWS) if i not in FAULTY]
    many_rows(drawn, ROWS, FAULTY)[good].write_csv(drawn / "good.csv")
    output = tmp_path / "plain.parquet"
    result = agfnet_command("predict", calibrated, drawn / "good.csv", "-o", output, "--threads", 1)
    assert result.exit_code == 0
    plain, told = pl.read_parquet(output), results(predicted)[0]
    assert told["row"].to_list() == [i + 2 for i in good]
    assert_frame_equal(told.drop("row"), plain.drop("error"), abs_tol=1e-5)


def test_a_table_by_url_gives_the_same(calibrated, predicted, drawn, tmp_path):
    good = [i for i in range(ROWS) if i not in FAULTY][:12]
    rows = many_rows(drawn, ROWS, FAULTY)[good]
    store = fsspec.filesystem("memory")
    for name in {name for view in ("clinical", "ultrasound") for name in rows[view].drop_nulls() if name}:
        store.pipe_file(f"/bulk/{name}", (drawn / name).read_bytes())
    store.pipe_file("/bulk/cases.csv", rows.write_csv().encode())
    tally = again(calibrated, place("memory://bulk/cases.csv"), tmp_path / "predicted")
    assert (tally.rows, tally.quarantined) == (len(good), 0)
    told = results(tmp_path / "predicted")[0].drop("row")
    assert_frame_equal(told, results(predicted)[0].head(len(good)).drop("row"), abs_tol=1e-5)
    with pytest.raises(TableError, match=r"memory://bulk/none\.csv cannot be opened"):
        again(calibrated, place("memory://bulk/none.csv"), tmp_path / "other")


def test_what_could_not_be_read_is_done_again_when_asked(calibrated, drawn, tmp_path):
    rows = many_rows(drawn, 12, {5: "bad-mm-per-pixel"})
    rows.write_csv(tmp_path / "cases.csv")
    options = {"part_rows": 6, "data_root": tmp_path}
    assert again(calibrated, tmp_path / "cases.csv", tmp_path / "out", **options).quarantined == 12
    for name in ("photos", "scans"):
        shutil.copytree(drawn / name, tmp_path / name)
    assert again(calibrated, tmp_path / "cases.csv", tmp_path / "out", **options).quarantined == 12
    assert again(calibrated, tmp_path / "cases.csv", tmp_path / "out", **options, retry=True).quarantined == 1
    check_whole(tmp_path / "out", rows, {5: "bad-mm-per-pixel"})
    before = results(tmp_path / "out")
    for name in ("photos", "scans"):
        shutil.rmtree(tmp_path / name)
    assert again(calibrated, tmp_path / "cases.csv", tmp_path / "out", **options, retry=True).quarantined == 1
    for one, other in zip(results(tmp_path / "out"), before, strict=True):
        assert_frame_equal(one, other)  # while the share is away again, nothing is lost


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_parquet_gives_the_same_as_csv(kind, calibrated, predicted, table, drawn, tmp_path):
    frame = pl.read_csv(table, infer_schema=False)
    source = drawn / "bulk.parquet"
    if kind == "file":
        frame.write_parquet(source, row_group_size=7)
    else:  # relative paths start from the folder
        source = drawn / "bulk-parts"
        frame = frame.with_columns(pl.col("clinical", "ultrasound").str.replace("^(.)", "../$1"))
        for number, part in enumerate((frame[:13], frame[13:14], frame[14:])):
            source.mkdir(exist_ok=True)
            part.write_parquet(source / f"{number}.parquet")
    again(calibrated, source, tmp_path / "out", data_root=drawn)
    told = results(tmp_path / "out")
    assert told[0].equals(results(predicted)[0])
    assert told[1].select("row", "case_id").equals(results(predicted)[1].select("row", "case_id"))


def test_a_stopped_run_goes_on_where_it_was(calibrated, predicted, table, tmp_path, monkeypatch):
    """Stopped between two parts, then between the two files of a part, then in the middle of one."""
    folder = tmp_path / "out"
    written, write = [], bulk_part.PartPredictor._write

    def stop(self, kind, part, frame):
        written.append((kind, part))
        if (kind, part) in stops:
            stops.remove((kind, part))
            raise KeyboardInterrupt
        write(self, kind, part, frame)

    monkeypatch.setattr(bulk_part.PartPredictor, "_write", stop)
    stops = [("quarantine", 1), ("predictions", 3)]
    for done in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            again(calibrated, table, folder)
        assert len(list((folder / "predictions").glob("*.parquet"))) == done
    (folder / "predictions" / ".part-000003.parquet.12ab34cd.tmp").write_bytes(b"half of it")
    assert again(calibrated, table, folder).quarantined == len(FAULTY)
    whole = [(kind, part) for part in range(5) for kind in ("quarantine", "predictions")]
    assert sorted(written) == sorted([*whole, ("quarantine", 1), ("quarantine", 3), ("predictions", 3)])
    for kind in ("predictions", "quarantine"):
        assert sorted(file.name for file in (folder / kind).iterdir()) == [f"part-{i:06d}.parquet" for i in range(5)]
        for file in (folder / kind).iterdir():
            assert file.read_bytes() == (predicted / kind / file.name).read_bytes()
    written.clear()
    assert again(calibrated, table, folder).rows == ROWS
    assert not written


def test_an_image_that_was_put_right_leaves_no_reason_behind(calibrated, table, drawn, tmp_path):
    """A part that is done again, as its predictions are not there, has its own quarantine only."""
    again(calibrated, table, tmp_path / "out")
    before = results(tmp_path / "out")[1]
    (tmp_path / "out/predictions/part-000003.parquet").unlink()
    note = (drawn / "note.png").read_bytes()
    try:
        (drawn / "note.png").write_bytes(next((drawn / "scans").iterdir()).read_bytes())
        assert again(calibrated, table, tmp_path / "out").quarantined == before.height - 1
    finally:
        (drawn / "note.png").write_bytes(note)


def test_a_folder_goes_on_with_what_it_was_begun_with_only(calibrated, trained, predicted, table, drawn):
    with pytest.raises(ConfigError, match="was begun with another bundle"):
        again(trained, table, predicted)
    with pytest.raises(ConfigError, match="another table, or one that has changed"):
        again(calibrated, drawn / "cases.csv", predicted)
    with pytest.raises(ConfigError, match="part rows 10, not 11; batch 16, not 4"):
        again(calibrated, table, predicted, part_rows=11, batch_size=4)
    with pytest.raises(ConfigError, match="holds other files"):
        again(calibrated, table, predicted.parent)
    assert not (predicted.parent / LOCK).exists()


def test_another_version_does_not_go_on(calibrated, predicted, table, monkeypatch):
    """Its answers may be others, and nothing in the rows would tell them apart."""
    monkeypatch.setattr(agfnet, "__version__", "99")
    with pytest.raises(ConfigError, match=r"version .*, not 99"):
        again(calibrated, table, predicted)
    with pytest.raises(ConfigError, match="one version on all machines"):
        PartPredictor(predicted, Predictor(calibrated, threads=1))


def test_signs_in_the_folders_name_are_no_pattern(calibrated, predicted, table, tmp_path):
    """`a [1]` is not the folder `a 1`, which has another table's plan."""
    many_rows(table.parent, 4, {}).write_csv(table.parent / "four.csv")
    again(calibrated, table.parent / "four.csv", tmp_path / "a 1")
    again(calibrated, table, tmp_path / "a [1]")
    assert results(tmp_path / "a [1]")[1].equals(results(predicted)[1])


def test_one_run_at_a_time_works_in_a_folder(calibrated, predicted, table):
    with claim(predicted / LOCK), pytest.raises(ConfigError, match="another run works in it"):
        again(calibrated, table, predicted)
    again(calibrated, table, predicted)


def test_a_table_that_cannot_be_used_stops_the_run(calibrated, drawn, tmp_path):
    many_rows(drawn, 4, {}).drop("patient_id").write_csv(drawn / "nobody.csv")
    with pytest.raises(TableError, match="missing-column"):
        again(calibrated, drawn / "nobody.csv", tmp_path / "out")
    many_rows(drawn, 4, {}).write_csv(drawn / "nobody.csv")
    assert again(calibrated, drawn / "nobody.csv", tmp_path / "out").rows == 4  # what was staged before is gone


def test_what_was_planned_by_a_stopped_run_is_planned_anew(calibrated, predicted, table, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("agfnet.prediction.bulk_plan._mark_repeats", stop)
        with pytest.raises(KeyboardInterrupt):
            again(calibrated, table, tmp_path / "out")
    assert list((tmp_path / "out/plan").iterdir())
    (tmp_path / "out/plan/part-000099.parquet").write_bytes(b"of a longer table")
    (tmp_path / "out/plan/.part-000001.parquet.12ab34cd.tmp").write_bytes(b"half of it")
    again(calibrated, table, tmp_path / "out")
    left = {path.name for path in (tmp_path / "out/plan").iterdir()}
    assert left == {f"part-{part:06d}.parquet" for part in range(5)}
    assert results(tmp_path / "out")[1].equals(results(predicted)[1])


def test_a_folder_plan_of_other_origin_is_left_alone(calibrated, table, tmp_path):
    (tmp_path / "out/plan").mkdir(parents=True)
    for name in ("thesis.txt", "part-1.parquet"):
        (tmp_path / "out/plan" / name).write_text("a year's work")
        with pytest.raises(ConfigError, match=rf"holds other files \(plan/{name}\)"):
            again(calibrated, table, tmp_path / "out")
        assert (tmp_path / "out/plan" / name).read_text() == "a year's work"
        (tmp_path / "out/plan" / name).unlink()


def test_options_that_make_no_sense_together(agfnet_command, calibrated, table, tmp_path):
    out = ("-o", tmp_path / "out")
    for options, text in (
        ((table, "--engine", "spark", *out), "local or ray"),
        (("--engine", "local", *out), "--engine is for a TABLE"),
        ((table, "--engine", "local", "--view", "clinical=a.jpg", *out), "--engine is for a TABLE"),
        ((table, "--engine", "local", "--mm-per-pixel", "ultrasound=1", *out), "--mm-per-pixel is for --view"),
        ((table, "--engine", "local"), "Name it with -o"),
        ((table, "--engine", "local", "--workers", 2, *out), "are for --engine ray"),
        ((table, "--part-rows", 2, "--address", "auto"), "--part-rows and --address: only with --engine"),
    ):
        result = agfnet_command("predict", calibrated, *options)
        assert result.exit_code == 1
        assert text in " ".join(click.unstyle(result.stderr).split())
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_is_in_quarantine(agfnet_command, calibrated, predicted, table):
    arguments = ("predict", calibrated, table, "--engine", "local", "--part-rows", PART_ROWS, "-o", predicted)
    result = agfnet_command(*arguments)
    assert result.exit_code == 1
    said = " ".join(result.stdout.split())
    assert "37 of 45 cases are predicted; 8 could not be" in said
    assert "quarantine" in said
    assert agfnet_command(*arguments, "--skip-bad").exit_code == 0


def test_without_ray_the_command_says_how_to_install_it(agfnet_command, calibrated, table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "agfnet.prediction.bulk_ray", raising=False)
    result = agfnet_command("predict", calibrated, table, "--engine", "ray", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "agfnet[scale]" in click.unstyle(result.stderr)


def test_the_time_that_is_left_is_said(monkeypatch, caplog):
    seconds = iter([*np.arange(0.0, 24.0, 6.0), 100.0, 160.0])
    monkeypatch.setattr(bulk.time, "monotonic", lambda: float(next(seconds)))
    settings = bulk.Settings(part_rows=10, batch=1, provider="cpu", prevalence=None, table_folder="", data_root=None)
    work = bulk.Work(bundle_sha256="", table_sha256="", settings=settings, views=(), rows=45, parts=5)
    with caplog.at_level("INFO", "agfnet"):
        bulk._follow(work, [2, 3, 4], iter([2, 4, 3]))
    assert [record.message for record in caplog.records] == [
        "30 of 45 rows, 1.7 rows/s, 0:00:09 left",
        "35 of 45 rows, 1.2 rows/s, 0:00:08 left",
        "45 of 45 rows, 1.4 rows/s, 0:00:00 left",
    ]
    caplog.clear()
    with caplog.at_level("INFO", "agfnet"):  # ten rows in a minute, of 20,010
        bulk._follow(replace(work, rows=20_010, parts=2001), list(range(2001)), iter([0]))
    assert "1 day" in caplog.records[0].message


def test_a_scale_that_is_not_given_is_said_of_the_whole_table(drawn, tmp_path, caplog):
    """As `predict` says it of a short table: how many of the cases that have the view."""
    rows = pl.read_csv(drawn / "parts.csv", infer_schema=False).head(10)
    scans = rows["ultrasound"].is_not_null()
    known = rows.with_columns(ultrasound_mm_per_pixel=pl.when(scans & (pl.int_range(10) < 4)).then(pl.lit("0.1")))
    specs = {"clinical": ViewSpec("photo", (32, 32)), "ultrasound": ViewSpec("ultrasound", (32, 32), mm_per_pixel=0.1)}
    settings = Settings(
        part_rows=3, batch=4, provider="cpu", prevalence=None, table_folder=str(tmp_path), data_root=None
    )
    for name, frame, lacking in (("none", rows, scans.sum()), ("some", known, scans.slice(4).sum())):
        frame.write_csv(tmp_path / f"{name}.csv")
        caplog.clear()
        plan_work(tmp_path / name, tmp_path / f"{name}.csv", specs, "ab" * 32, settings)
        assert f"{lacking} of {scans.sum()} cases have no ultrasound_mm_per_pixel" in caplog.text
        assert caplog.text.count("cases have no") == 1


def test_results_do_not_go_into_the_folder_of_the_table(calibrated, tmp_path):
    (tmp_path / "table").mkdir()
    with pytest.raises(ConfigError, match="lies in the folder of the table"):
        predict_bulk(calibrated, tmp_path / "table", tmp_path / "table" / "out", engine="local")
    assert not (tmp_path / "table" / "out").exists()


def test_half_a_record_of_a_killed_planning_is_taken_away(tmp_path):
    half = tmp_path / f".{RECORD}.0a1b2c3d.tmp"
    half.write_text("{")
    assert stopped_plan(tmp_path) == [half]
    (tmp_path / "other").touch()
    with pytest.raises(ConfigError, match="holds other files"):
        stopped_plan(tmp_path)
