from __future__ import annotations

import threading

import polars as pl
import pytest

from agfnet.prediction.bulk import predict_bulk
from agfnet.types import AgfnetError, ConfigError
from bulky import check_whole, many_rows, results

bulk_ray = pytest.importorskip(
    "agfnet.prediction.bulk_ray", reason="Ray is not installed: pip install 'agfnet[scale]'", exc_type=ImportError
)
BAD = {3: "no such file", 17: "path-outside", 31: "duplicate-case"}


@pytest.fixture(scope="module")
def cluster():
    """One Ray for all tests here, as starting one takes longest; its machine has two processors."""
    with bulk_ray.cluster(None, 2):
        yield


@pytest.fixture(scope="module")
def table(drawn):
    many_rows(drawn, 45, BAD).write_csv(drawn / "spread.csv")
    return drawn / "spread.csv"


@pytest.mark.usefixtures("cluster")
def test_both_engines_write_the_same(calibrated, table, tmp_path):
    for engine, options in (("local", {"threads": 1}), ("ray", {"workers": 2})):
        tally = predict_bulk(calibrated, table, tmp_path / engine, engine=engine, part_rows=4, **options)
        assert (tally.rows, tally.quarantined) == (45, len(BAD))
    check_whole(tmp_path / "ray", pl.read_csv(table), BAD)
    for there, here in zip(results(tmp_path / "ray"), results(tmp_path / "local"), strict=True):
        assert there.equals(here)


@pytest.mark.usefixtures("cluster")
def test_what_a_worker_cannot_do_is_one_message(calibrated, table, tmp_path):
    with pytest.raises(ConfigError, match="2 processors, too few for 3 workers of 1 threads"):
        predict_bulk(calibrated, table, tmp_path / "out", engine="ray", part_rows=4, workers=3)
    (tmp_path / "out/plan/part-000000.parquet").unlink()
    before = set(threading.enumerate())
    with pytest.raises(AgfnetError, match=r"part-000000\.parquet"):
        predict_bulk(calibrated, table, tmp_path / "out", engine="ray", part_rows=4, workers=1)
    assert set(threading.enumerate()) <= before  # Ray ends a process of which a thread asks it after its shutdown
