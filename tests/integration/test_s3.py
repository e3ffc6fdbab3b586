"""Tables and images in an S3 store: a real server on this machine, credentials and endpoint from the environment."""

from __future__ import annotations

import io

import boto3
import fsspec
import polars as pl
import pytest
from moto.server import ThreadedMotoServer

from agfnet.data.checks import check_table
from agfnet.data.table import read_cases
from agfnet.data.tablefile import table_sha256
from agfnet.places import place

BUCKET = "clinic"
TABLE = f"s3://{BUCKET}/set/parts.parquet"
KEY, SECRET = "AKIATESTTESTTEST", "a-secret-that-is-never-said"

pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture(scope="module")
def client(drawn):
    """A client of a server that holds the drawn cases at `TABLE`, and a picture outside of their folder."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            environment.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        for file in [*(drawn / "photos").iterdir(), *(drawn / "scans").iterdir()]:
            s3.upload_file(str(file), BUCKET, f"set/{file.relative_to(drawn)}")
        s3.upload_file(str(next((drawn / "photos").iterdir())), BUCKET, "outside.jpg")
        put(s3, pl.read_csv(drawn / "parts.csv"))
        yield s3
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def put(s3, frame: pl.DataFrame, name: str = "parts.parquet") -> str:
    """Store a table beside the images; gives its URL."""
    body = frame.write_csv().encode() if name.endswith(".csv") else _parquet(frame)
    s3.put_object(Bucket=BUCKET, Key=f"set/{name}", Body=body)
    return f"s3://{BUCKET}/set/{name}"


def _parquet(frame: pl.DataFrame) -> bytes:
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def with_photo(drawn, value: str) -> pl.DataFrame:
    """The first cases, where the first photo is written so."""
    frame = pl.read_csv(drawn / "parts.csv").head(4)
    first = pl.int_range(pl.len()) == 0
    return frame.with_columns(pl.when(first).then(pl.lit(value)).otherwise("clinical").alias("clinical"))


@pytest.mark.parametrize("options", [[], ["--quick"], ["--data-root", f"s3://{BUCKET}/set"]])
def test_a_check_finds_no_fault(options, agfnet_command):
    said = agfnet_command("check", TABLE, *options)
    assert said.exit_code == 0, said.stdout + said.stderr
    assert "no fault found" in said.stdout


def test_the_quick_check_asks_for_no_image(monkeypatch):
    store = fsspec.filesystem("s3", use_listings_cache=False)
    asked = []
    monkeypatch.setattr(type(store), "info", lambda _, path, **__: asked.append(path))
    assert check_table(TABLE, level="quick").ok
    assert asked == []


def test_predictions_are_those_of_the_local_files(calibrated, drawn, agfnet_command, tmp_path):
    tables = {"there": TABLE, "here": drawn / "parts.csv"}
    for name, table in tables.items():
        said = agfnet_command(
            "predict", calibrated, table, "-o", tmp_path / f"{name}.csv", "--threads", 1, "--skip-bad"
        )
        assert said.exit_code == 0, said.stderr
    there, here = (pl.read_csv(tmp_path / f"{name}.csv") for name in tables)
    assert there["error"].null_count() == there.height
    assert there.equals(here)


def test_one_case_by_url(calibrated, drawn, agfnet_command):
    photo = next((drawn / "photos").iterdir()).name
    said = agfnet_command("predict", calibrated, "--view", f"clinical=s3://{BUCKET}/set/photos/{photo}", "--threads", 1)
    assert said.exit_code == 0, said.stderr
    local = agfnet_command("predict", calibrated, "--view", f"clinical={drawn}/photos/{photo}", "--threads", 1)
    assert said.stdout == local.stdout


def test_figures_name_the_url_and_its_hash(calibrated, agfnet_command, tmp_path):
    said = agfnet_command("evaluate", calibrated, TABLE, "-o", tmp_path, "--draws", 100, "--threads", 1)
    assert said.exit_code == 0, said.stderr
    card = pl.read_json(tmp_path / "scorecard.json")
    assert card["table"][0] == TABLE
    assert card["table_sha256"][0] == table_sha256(TABLE)


def test_a_split_is_written_here_and_leads_there(agfnet_command, tmp_path):
    said = agfnet_command("split", TABLE, "-o", tmp_path / "split.csv")
    assert said.exit_code == 0, said.stderr
    first = next(case for case in read_cases(tmp_path / "split.csv") if case.views["clinical"])
    assert str(first.views["clinical"][0]).startswith(f"s3://{BUCKET}/set/photos/")
    assert agfnet_command("check", tmp_path / "split.csv").exit_code == 0


@pytest.mark.parametrize("command", [["split", TABLE, "-o"], ["predict", "model.agf", TABLE, "-o"], ["phantom"]])
def test_nothing_is_written_to_a_url(command, agfnet_command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    said = agfnet_command(*command, f"s3://{BUCKET}/out.csv")
    assert said.exit_code == 2
    assert "only tables and images are read by URL" in " ".join(said.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_dicom_folders_are_local(agfnet_command, tmp_path):
    said = agfnet_command("dicom", f"s3://{BUCKET}/export", "-o", tmp_path / "cases.csv")
    assert said.exit_code == 2
    assert "give a local path" in " ".join(said.stderr.replace("│", " ").split())


@pytest.mark.parametrize("level", ["quick", "decode"])
def test_a_missing_object_is_named(level, client, drawn):
    report = check_table(
        put(client, with_photo(drawn, "photos/none.jpg"), "missing.csv"), level=level, min_patients_per_class=0
    )
    (fault,) = report.faults
    assert (fault.row, fault.cause) == (2, "missing-file")
    assert f"s3://{BUCKET}/set/photos/none.jpg: there is no such file" in fault.message


def test_a_missing_table_and_bucket_are_named(agfnet_command):
    for table in (f"s3://{BUCKET}/none.csv", "s3://no-such-bucket/cases.csv"):
        said = agfnet_command("check", table)
        assert said.exit_code == 1
        assert f"the table {table} cannot be opened" in said.stdout
        assert "[missing-table]" in said.stdout


@pytest.mark.parametrize("value", ["../outside.jpg", "%2e%2e/outside.jpg", "photos/../../outside.jpg"])
def test_a_path_does_not_escape(value, client, drawn):
    table = put(client, with_photo(drawn, value), "escape.csv")
    assert [(f.row, f.cause) for f in check_table(table, min_patients_per_class=0).faults] == [(2, "path-outside")]


def test_what_is_stored_anew_is_another_version(client, drawn):
    url = f"s3://{BUCKET}/set/again.jpg"
    stamps = set()
    for file in sorted((drawn / "photos").iterdir())[:2]:
        client.upload_file(str(file), BUCKET, "set/again.jpg")
        stamps |= {place(url).stat().st_mtime_ns, place(url).stat().st_mtime_ns}
    assert len(stamps) == 2


def test_a_refusal_is_one_message_without_the_secret(agfnet_command, monkeypatch):
    said = agfnet_command("check", f"s3://{KEY}:{SECRET}@{BUCKET}/set/parts.parquet")
    assert said.exit_code == 1
    assert "credentials and endpoint come from the environment" in said.stdout
    assert SECRET not in said.stdout + said.stderr
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    fsspec.filesystem("s3").clear_instance_cache()
    said = agfnet_command("check", TABLE)
    assert said.exit_code == 1
    assert "Unable to locate credentials; credentials and endpoint come from the environment" in said.stdout
    fsspec.filesystem("s3").clear_instance_cache()
