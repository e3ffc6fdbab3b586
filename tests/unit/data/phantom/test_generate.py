from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import agfnet
from agfnet.data.checks import check_table
from agfnet.data.phantom.generate import phantom
from agfnet.types import ConfigError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    phantom(folder / "set", cases=24, seed=3, size=96, doppler=True, workers=2)
    return folder / "set"


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".sqlite"  # what a deep check remembers
    }


def test_everything_is_there(made):
    table = pl.read_csv(made / "cases.csv")
    truth = pl.read_csv(made / "truth.csv")
    assert table.height == truth.height == 24
    assert {"skin_type", "device", "camera", "site", "clinical_mm_per_pixel", "ultrasound_mm_per_pixel"} <= set(
        table.columns
    )
    assert set(table["reference_standard"]) == {"synthetic"}
    for row in truth.iter_rows(named=True):
        for view in ("clinical", "ultrasound"):
            mask = np.asarray(Image.open(made / row[f"{view}_mask"]))
            assert mask.shape == Image.open(made / row[view]).size[::-1]
            assert set(np.unique(mask)) <= {0, 128, 255}
        assert (made / row["doppler"]).exists()
    assert (made / "sheets" / "overview.png").exists()
    assert "no figure on these images is a clinical result" in json.loads((made / "phantom.json").read_text())["notice"]


def test_the_table_is_sound(made):
    report = check_table(made / "cases.csv", level="deep", min_patients_per_class=0)
    assert report.ok, report.faults
    assert report.images == {"clinical": 24, "ultrasound": 24, "doppler": 24}


def test_one_seed_gives_the_same_bytes(made, tmp_path):
    phantom(tmp_path / "again", cases=24, seed=3, size=96, doppler=True, workers=1)
    assert contents(tmp_path / "again") == contents(made)


def test_another_seed_gives_other_images(made, tmp_path):
    phantom(tmp_path / "other", cases=3, seed=4, size=96, workers=1)
    images = {name: digest for name, digest in contents(made).items() if name.endswith((".jpg", ".png"))}
    assert not set(images.values()) & {d for n, d in contents(tmp_path / "other").items() if n.endswith(".jpg")}


def test_a_stopped_set_goes_on(made, tmp_path):
    def stop(done, _total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantom(tmp_path / "set", cases=24, seed=3, size=96, doppler=True, workers=1, progress=stop)
    assert not (tmp_path / "set" / "cases.csv").exists()
    written = [p.stat().st_mtime_ns for p in sorted((tmp_path / "set" / "parameters").iterdir())]
    assert len(written) == 5
    phantom(tmp_path / "set", cases=24, seed=3, size=96, doppler=True, workers=1)
    assert contents(tmp_path / "set") == contents(made)


def test_a_folder_of_something_else_is_refused(made, tmp_path):
    with pytest.raises(ConfigError, match="other settings"):
        phantom(made, cases=25, seed=3, size=96, doppler=True)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        phantom(tmp_path, cases=2)


def test_settings_out_of_range(tmp_path):
    for wrong in ({"cases": 0}, {"seed": -1}, {"size": 10}):
        with pytest.raises(ConfigError, match="size of 64 to 1024"):
            phantom(tmp_path / "set", **wrong)


def test_marks_leave_the_rest_alone(tmp_path):
    """With and without marks it is the same case: the images differ in the marks alone."""
    for marks in ("none", "all"):
        phantom(tmp_path / marks, cases=4, seed=1, size=160, workers=1, marks=marks)
    for view, tolerance in (("ultrasound", 0), ("clinical", 12)):  # JPEG spreads a mark a little
        for path in (tmp_path / "none" / view).iterdir():
            bare = np.asarray(Image.open(path)).astype(int)
            marked = np.asarray(Image.open(tmp_path / "all" / view / path.name)).astype(int)
            assert 0.0 < np.mean(np.abs(bare - marked) > tolerance) < 0.2


def test_unknown_names_are_errors(tmp_path):
    with pytest.raises(ConfigError, match="internal, external"):
        phantom(tmp_path / "set", cases=2, site="extrenal")
    with pytest.raises(ConfigError, match="some, none, all"):
        phantom(tmp_path / "set", cases=2, marks="nonee")


def test_balanced_and_external(tmp_path):
    table = pl.read_csv(phantom(tmp_path / "set", cases=18, size=64, site="external", balanced=True, workers=1))
    assert table["label"].value_counts()["count"].to_list() == [2] * 9
    assert set(table["site"]) == {"external"}
    assert set(table["device"]) <= {"V22", "C15"}


def test_the_public_name_and_the_command(tmp_path, agfnet_command):
    assert agfnet.phantom is phantom
    done = agfnet_command("phantom", tmp_path / "set", "--cases", 2, "--size", 64, "--workers", 1)
    assert done.exit_code == 0, done.stderr
    assert "no figure on these images is a clinical result" in done.stdout
