"""Tables and images by URL, in fsspec's file system in memory; see `tests/integration/test_s3.py` for a real store."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from broken import HEADER, good_lines, picture, write
from dicom_files import content_of, dicom

from agfnet.config import parse_config
from agfnet.data.checks import check_table
from agfnet.data.dataset import CaseDataset, FrameCache, warm
from agfnet.data.imagefile import CodedImageError, ImageLimits
from agfnet.data.images import read_image
from agfnet.data.preprocess import ViewSpec
from agfnet.data.split import split_to_file
from agfnet.data.table import read_cases
from agfnet.data.tablefile import load_table, table_sha256
from agfnet.data.tablewrite import write_table
from agfnet.places import Url, place
from agfnet.types import ConfigError, ImageError, TableError
from drawn import small_config

TABLE = "memory://set/cases.csv"
SECRET = "aB3x9Z"

pytestmark = pytest.mark.usefixtures("stored")


@pytest.fixture
def stored(memory, tmp_path):
    """A faultless table with its images at `TABLE`, and a local copy."""
    path = write(tmp_path, good_lines(tmp_path))
    for file in tmp_path.iterdir():
        memory.pipe_file(f"/set/{file.name}", file.read_bytes())
    return path


@pytest.fixture
def first_photo(memory, stored):
    """Writes the first photo of the table at `TABLE` so."""
    return lambda text: memory.pipe_file("/set/cases.csv", stored.read_bytes().replace(b"c0.jpg", text.encode()))


def test_a_table_by_url_is_as_its_local_copy(stored):
    assert load_table(TABLE)[0].frame.equals(load_table(stored)[0].frame)
    assert table_sha256(TABLE) == table_sha256(stored) == table_sha256(place(TABLE))
    cases = read_cases(TABLE)
    assert [case.case_id for case in cases] == [case.case_id for case in read_cases(stored)]
    assert cases[0].views["clinical"] == (Url("memory://set/c0.jpg"),)
    assert np.array_equal(read_image(cases[0].views["clinical"][0]), read_image(stored.parent / "c0.jpg"))


@pytest.mark.parametrize("level", ["quick", "decode", "deep"])
def test_every_check_works_by_url(level, memory, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = check_table(TABLE, level=level)
    assert report.ok, [str(fault) for fault in report.faults]
    assert report.images == {"clinical": 8, "ultrasound": 8}
    assert (tmp_path / "cases.csv.hashes.sqlite").exists() == (level == "deep")
    memory.rm("/set/c3.jpg")
    memory.pipe_file("/set/u4.png", b"")
    memory.pipe_file("/set/u5.png", b"x" * 40_000)
    limits = ImageLimits(max_bytes=30_000, max_clip_bytes=30_000)
    found = {(f.row, f.cause) for f in check_table(TABLE, level=level, limits=limits).faults}
    assert found == {(5, "missing-file"), (6, "empty-file"), (7, "oversized-image")}


def test_the_deep_check_finds_copies_by_url(memory, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    memory.cp_file("/set/c2.jpg", "/set/c5.jpg")
    for _ in range(2):  # the second time from what is kept
        (fault,) = check_table(TABLE, level="deep").faults
        assert (fault.row, fault.cause) == (7, "same-image-of-two-patients")


def test_the_size_is_known_before_anything_is_fetched(memory, monkeypatch):
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: pytest.fail("fetched"))
    with pytest.raises(CodedImageError, match=r"memory://set/c0.jpg: .* over the limit") as caught:
        read_image("memory://set/c0.jpg", limits=ImageLimits(max_bytes=100, max_clip_bytes=100))
    assert caught.value.cause == "oversized-image"


def test_faults_of_a_table_name_its_url():
    (fault,) = load_table("memory://set/none.csv")[1]
    assert fault.cause == "missing-table"
    assert "memory://set/none.csv cannot be opened (No such file or directory)" in fault.message
    with pytest.raises(TableError, match=r"memory://set/none.csv"):
        read_cases("memory://set/none.csv")
    with pytest.raises(TableError, match=r"memory://set/none.csv"):
        table_sha256("memory://set/none.csv")
    assert load_table("memory://set/cases.xlsx")[1][0].cause == "unknown-format"


@pytest.mark.parametrize(
    "text",
    ["../c0.jpg", "x/../../c0.jpg", "%2e%2e/c0.jpg", "..%2fc0.jpg", "%252e%252e/c0.jpg", "..\\c0.jpg", "x/../../y://c0.jpg"],
)  # fmt: skip
def test_a_relative_path_does_not_leave_the_folder(text, memory, first_photo):
    memory.cp_file("/set/c0.jpg", "/c0.jpg")
    first_photo(text)
    faults = check_table(TABLE).faults
    assert [(fault.row, fault.cause) for fault in faults] == [(2, "path-outside")]
    assert f"{text} leaves the data folder memory://set" in faults[0].message


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/c0.jpg", "https://host/c0.jpg", "memory://other/c0.jpg", "memory://settle/c0.jpg",
        "memory://set/../c0.jpg", "memory://set/%2e%2e/c0.jpg", "file:///set/c0.jpg", "/set/c0.jpg",
    ],
)  # fmt: skip
def test_an_absolute_one_does_not_leave_the_data_root(text, first_photo, monkeypatch):
    monkeypatch.setattr(Url, "stat", lambda _: pytest.fail("asked"))
    first_photo(text)
    with pytest.raises(TableError, match="path-outside"):
        read_cases(TABLE, data_root="memory://set")


@pytest.mark.parametrize("text", ["memory://set/c0.jpg", "s3://bucket/c0.jpg", "../y://c0.jpg"])
def test_a_local_data_root_holds_no_url(text, stored):
    lines = [HEADER, f"L0,P0,A,{text},"]
    with pytest.raises(TableError, match="path-outside"):
        read_cases(write(stored.parent, lines, "other.csv"), data_root=stored.parent)


def test_a_local_table_may_name_urls(stored):
    lines = [HEADER, "L0,P0,A,memory://set/c0.jpg;c1.jpg,u0.png", f"L1,P1,A,file://{stored.parent}/c2.jpg,"]
    path = write(stored.parent, lines, "mixed.csv")
    first, second = read_cases(path)
    assert first.views["clinical"] == (Url("memory://set/c0.jpg"), stored.parent / "c1.jpg")
    assert second.views["clinical"] == (stored.parent / "c2.jpg",)
    assert [f.cause for f in check_table(path, min_patients_per_class=0).faults] == []
    read_cases(path, views=["ultrasound"], data_root=stored.parent)


@pytest.mark.parametrize(
    "text",
    [f"s3://KEY:{SECRET}@b/c0.jpg", f"https://h/c0.jpg?sig={SECRET}", f"simplecache::s3://K:{SECRET}@b/c0.jpg", "zip://c0.jpg"],
)  # fmt: skip
def test_a_url_that_is_not_read_is_a_fault_without_its_secret(text, first_photo):
    first_photo(text)
    (fault,) = check_table(TABLE).faults
    assert (fault.row, fault.column, fault.cause) == (2, "clinical", "refused-url")
    assert SECRET not in str(fault)
    with pytest.raises(TableError, match="refused-url"):
        read_cases(TABLE)
    assert SECRET not in str(check_table(f"s3://KEY:{SECRET}@bucket/cases.csv").faults[0])


def test_a_split_leads_to_the_same_images(stored, tmp_path):
    shares = {"train": 0.5, "test": 0.5}
    there, here = tmp_path / "there.csv", tmp_path / "here.csv"
    assert split_to_file(TABLE, there, fractions=shares) == split_to_file(stored, here, fractions=shares)
    cases = read_cases(there)
    assert [case.split for case in cases] == [case.split for case in read_cases(here)]
    assert cases[0].views["clinical"] == (Url("memory://set/c0.jpg"),)
    assert check_table(there, min_patients_per_class=0).ok
    with pytest.raises(TableError, match=r"s3://bucket/out.csv is a URL"):
        write_table(load_table(stored)[0].frame, "s3://bucket/out.csv")


def test_the_cache_knows_one_version_of_a_url_from_another(memory, stored, tmp_path):
    cache, spec = FrameCache(tmp_path / "frames"), ViewSpec("photo", (32, 32))
    first = cache.get(place("memory://set/c0.jpg"), spec, None, 1.0)
    assert np.array_equal(first, cache.get(stored.parent / "c0.jpg", spec, None, 1.0))
    files = sorted((tmp_path / "frames").iterdir())
    assert len(files) == 2
    cache.get(place("memory://set/c0.jpg"), spec, None, 1.0)
    assert sorted((tmp_path / "frames").iterdir()) == files
    picture(99).save(stored.parent / "new.jpg")
    memory.put_file(str(stored.parent / "new.jpg"), "/set/c0.jpg")
    assert not np.array_equal(first, cache.get(place("memory://set/c0.jpg"), spec, None, 1.0))
    with pytest.raises(ImageError, match=r"memory://set/none.jpg: there is no such file. Correct the path"):
        cache.get(place("memory://set/none.jpg"), spec, None, 1.0)


def test_training_fetches_every_image_once(memory, monkeypatch, tmp_path):
    specs = {"clinical": ViewSpec("photo", (32, 32)), "ultrasound": ViewSpec("ultrasound", (32, 32))}
    cache = FrameCache(tmp_path / "frames")
    data = CaseDataset(
        cases=read_cases(TABLE), specs=specs, classes=("A", "B"), extra_classes={}, cache=cache, training=True
    )
    assert warm(data, lambda *_: None, skip_bad=False) == []
    for asks in ("info", "cat_file", "open"):
        monkeypatch.setattr(type(memory), asks, lambda *_, **__: pytest.fail("asked again"))
    worker = pickle.loads(pickle.dumps(data))
    assert all(
        item.present == [True, True] for item in (worker[epoch, i] for epoch in range(2) for i in range(len(data)))
    )


def test_a_configuration_keeps_urls_and_refuses_secrets():
    tree = small_config("s3://bucket/cases.csv")
    tree["data"]["data_root"] = "s3://bucket"
    config = parse_config(tree, "here")
    assert (str(config.data.table), str(config.data.data_root)) == ("s3://bucket/cases.csv", "s3://bucket")
    assert parse_config(config.model_dump(mode="json"), "there") == config
    tree["data"]["table"] = f"s3://KEY:{SECRET}@bucket/cases.csv"
    with pytest.raises(
        ConfigError, match=r"data\.table: .*credentials and endpoint come from the environment"
    ) as caught:
        parse_config(tree, "here")
    assert SECRET not in str(caught.value)
    tree["data"] |= {"table": 5, "cache": "s3://bucket/cache"}
    with pytest.raises(ConfigError, match=r"(?s)data\.table: .*not a path or URL.*data\.cache: .*is a URL"):
        parse_config(tree, "here")


def test_local_work_neither_needs_nor_loads_fsspec(stored):
    script = f"""
        import sys
        sys.modules["fsspec"] = None
        from agfnet.data.checks import check_table
        from agfnet.data.images import read_image
        from agfnet.data.split import split_to_file
        from agfnet.data.table import read_cases
        from agfnet.data.tablefile import table_sha256
        table = {str(stored)!r}
        assert check_table(table).ok
        table_sha256(table)
        read_image(read_cases("file://" + table)[0].views["clinical"][0])
        from agfnet.prediction.predictor import Predictor
        from agfnet.types import ConfigError
        try:
            read_cases("s3://bucket/cases.csv")
        except ConfigError as error:
            print(error)
        assert not [name for name in sys.modules if name.startswith("fsspec.")]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pip install 'agfnet[scale]' s3fs" in done.stdout


def two_patients(memory):
    """A case by URL whose photo and scan say to be of two patients, and its cache."""
    for name, patient in (("c0", "Ms Hidden"), ("u0", "Mr Hidden")):
        made = dicom(np.asarray(picture(len(patient))), modality="US" if name == "u0" else "XC", PatientID=patient)
        memory.pipe_file(f"/set/{name}.dcm", content_of(made))
    lines = [HEADER, "L0,P0,A,c0.dcm,u0.dcm", "L1,P1,B,c1.jpg,u1.png"]
    memory.pipe_file("/set/cases.csv", "\n".join(lines).encode())


def test_a_case_of_two_patients_is_refused_at_every_start(memory, tmp_path):
    """Also when its frames are in the cache: a run that goes on has the same cases, in every process."""
    two_patients(memory)
    specs = {"clinical": ViewSpec("photo", (32, 32)), "ultrasound": ViewSpec("ultrasound", (32, 32))}
    cache = FrameCache(tmp_path / "frames")
    data = CaseDataset(cases=read_cases(TABLE), specs=specs, classes=("A", "B"), extra_classes={}, cache=cache)
    for _ in range(2):
        assert [case.case_id for case, _ in warm(data, lambda *_: None, skip_bad=True)] == ["L0"]
        with pytest.raises(ImageError, match="of another patient"):
            warm(data, lambda *_: None, skip_bad=False)


def test_a_deep_check_fetches_again_only_what_names_a_patient(memory, monkeypatch, tmp_path):
    two_patients(memory)
    monkeypatch.chdir(tmp_path)
    opened = []
    fetch = type(memory).cat_file
    monkeypatch.setattr(
        type(memory),
        "cat_file",
        lambda self, path, *rest, **options: opened.append(path) or fetch(self, path, *rest, **options),
    )
    for expected in ({"c0.dcm", "u0.dcm", "c1.jpg", "u1.png"}, {"c0.dcm", "u0.dcm"}):
        opened.clear()
        report = check_table(place(TABLE), level="deep", min_patients_per_class=0)
        assert {fault.cause for fault in report.faults} == {"other-patient"}
        assert {path.rpartition("/")[2] for path in opened} - {"cases.csv"} == expected
