"""Bulk prediction as it is promised: killed and gone on with, faster with a second worker, bounded in memory.

`AGFNET_BULK_ROWS` changes how many rows are killed (20,000), `AGFNET_BULK_LONG` how long the longest table is
(5,000,000).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from agfnet.prediction.bulk import PART_ROWS
from agfnet.prediction.bulk_plan import Settings, parts_to_do, plan_work
from agfnet.prediction.bulk_ray import predicted_parts
from agfnet.prediction.predictor import Predictor
from bulky import BAD, check_whole, descendants, many_rows, running

pytestmark = pytest.mark.full
ROWS = int(os.environ.get("AGFNET_BULK_ROWS", "20000"))
LONG = int(os.environ.get("AGFNET_BULK_LONG", "5000000"))
SEED = 5


def workers_of(driver):
    """The processes that predict."""
    return [pid for pid, name in descendants(driver.pid).items() if name.startswith("ray::MapWorker")]


def survivors(processes, seconds=30):
    """Those of the processes that have not ended by themselves after so long."""
    until = time.monotonic() + seconds
    while (left := running().keys() & set(processes)) and time.monotonic() < until:
        time.sleep(0.2)
    return left


def test_killed_three_times(calibrated, drawn, tmp_path):
    """The driver, a worker, and the driver again, each at a random moment; then to the end."""
    rng = random.Random(SEED)
    bad = {i: rng.choice(sorted(BAD)) for i in rng.sample(range(1, ROWS), ROWS // 100)}
    table = many_rows(drawn, ROWS, bad)
    table.write_parquet(drawn / "killed.parquet")
    out = tmp_path / "out"
    parts = 100
    command = [
        *(sys.executable, "-m", "agfnet", "predict", calibrated, drawn / "killed.parquet", "-o", out),
        *("--engine", "ray", "--workers", "2", "--part-rows", str(-(-ROWS // parts))),
    ]

    def wait_for(driver, count):
        """Until so many parts are done, and a moment more."""
        while len(list((out / "predictions").glob("*.parquet"))) < count:
            assert driver.poll() is None
            time.sleep(0.02)
        time.sleep(rng.random())

    moments = sorted(rng.sample(range(5, 95), 3))
    print("killed after about so many of 100 parts:", moments)
    for run, kills in enumerate((moments[:1], moments[1:], [])):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
            if len(kills) == 2:
                wait_for(driver, kills[0])
                os.kill(rng.choice(workers_of(driver)), signal.SIGKILL)
            if kills:
                wait_for(driver, kills[-1])
                workers = workers_of(driver)
                driver.kill()
                assert not survivors(workers)
            said = driver.communicate()[0]
        print(f"run {run}:", said.strip().splitlines()[-1])
    assert driver.returncode == 1
    assert f"{len(bad):,} could not be" in said
    check_whole(out, table, bad)


def test_a_second_worker(calibrated, drawn, tmp_path):
    """Parts a second of two single-thread workers over those of one, once they are at work."""
    many_rows(drawn, 4000, {}).write_parquet(drawn / "workers.parquet")
    predictor = Predictor(calibrated)
    settings = Settings(
        part_rows=100, batch=16, provider="cpu", prevalence=None, table_folder=str(drawn), data_root=None
    )
    best = {1: 0.0, 2: 0.0}
    for turn in range(3):  # what else the machine does only slows: the fastest of three
        for workers in (1, 2):
            folder = tmp_path / f"{turn}-{workers}"
            work = plan_work(folder, drawn / "workers.parquet", predictor.specs, predictor.bundle.sha256, settings)
            todo = parts_to_do(folder, work)
            done = predicted_parts(folder, calibrated, todo, threads=1, workers=workers, address=None)
            moments = [time.monotonic() for _ in done][workers - 1 :]
            rate = settings.part_rows * (len(moments) - 1) / (moments[-1] - moments[0])
            best[workers] = max(best[workers], rate)
    print(f"{best[1]:.1f} and {best[2]:.1f} rows/s: {best[2] / best[1]:.2f} times")
    assert best[2] >= 1.8 * best[1]


ANSWERED = """
import resource, sys
from pathlib import Path
from agfnet.data.table import read_cases
from agfnet.prediction import bulk
from agfnet.prediction.predictor import Outcome, Predictor

bundle, drawn, table, out = map(Path, sys.argv[1:])
told = next(Predictor(bundle, threads=1).predict(read_cases(drawn / "parts.csv")[:1])).prediction
Predictor.predict = lambda self, cases, *, batch_size: (Outcome(case, told, None) for case in cases)
print(bulk.predict_bulk(bundle, table, out, engine="local", threads=1))
# Not ru_maxrss for this process: that begins with what the process that started it had.
own = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print((own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024)
"""


@pytest.mark.parametrize(("kind", "rows"), [("parquet", LONG), ("csv", LONG // 10)])
def test_a_long_table_in_bounded_memory(kind, rows, calibrated, drawn, tmp_path):
    """One case in a hundred thousand comes twice. Every case gets the answer of one: only the table counts here."""
    again, number = pl.col("i") % 100_000 == 77_777, pl.col("i").cast(pl.String)
    table = pl.select(i=pl.int_range(rows, dtype=pl.Int64)).lazy().select(
        case_id="case-" + pl.when(again).then((pl.col("i") - 50_000).cast(pl.String)).otherwise(number),
        patient_id="patient-" + (pl.col("i") // 2).cast(pl.String),
        clinical="photos/" + number + ".jpg",
    )  # fmt: skip
    path = tmp_path / f"long.{kind}"
    table.sink_parquet(path) if kind == "parquet" else table.sink_csv(path)
    started = time.monotonic()
    command = [sys.executable, "-c", ANSWERED, calibrated, drawn, path, tmp_path / "out"]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    tally, mebibytes = run.stdout.splitlines()
    seconds = time.monotonic() - started
    print(f"{rows:,} rows of {kind}: {float(mebibytes):.0f} MiB at most, {rows / seconds:,.0f} rows/s")
    assert f"rows={rows}, quarantined={len(range(77_777, rows, 100_000))})" in tally
    assert len(list((tmp_path / "out/predictions").iterdir())) == -(-rows // PART_ROWS)
    assert float(mebibytes) < 1024
