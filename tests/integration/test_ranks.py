"""Training in several processes through the command itself: the same result, and none outlives another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from agfnet.config import parse_config
from agfnet.training.profile import PARTS
from agfnet.training.run import train
from drawn import small_config, write_config
from runfolder import history, whole

AGFNET = [sys.executable, "-m", "agfnet"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "agfnet"]
LAUNCHED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def start(*arguments: object, launcher: list[str] = AGFNET) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in LAUNCHED} | {"OMP_NUM_THREADS": "1"}
    line = [*launcher, "train", *map(str, arguments)]
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: subprocess.Popen[str]) -> str:
    _, told = process.communicate(timeout=500)
    assert process.returncode == 0, told
    return told


def others(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process started."""
    return [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def killed(process: subprocess.Popen[str], folder: Path, rank: int) -> str:
    """Kill one of two processes in the second epoch, see that the other ends too, and give what was said."""
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    (other,) = others(process)
    os.kill(other if rank else process.pid, signal.SIGKILL)
    _, told = process.communicate(timeout=60)  # returns once both have closed their standard error
    assert process.returncode != 0
    for _ in range(100):
        if not alive(other):
            break
        time.sleep(0.1)
    assert not alive(other)
    return told


@pytest.fixture(scope="module")
def tree(drawn):
    tree = small_config(drawn / "parts.csv", epochs=2)
    # Over three steps of 4 cases a process, the chance of dropout and of batch statistics counts more than all else.
    tree["model"] |= {"encoder": "test_convnext", "dropout": 0.0}
    return tree


@pytest.fixture(scope="module")
def config(tree, tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("ranks") / "c.yaml", tree)


@pytest.mark.full
def test_two_processes_one_killed_then_resumed(drawn, tree, config, tmp_path):
    """The first epoch is that of one process; a killed rank ends both, and the run goes on to its last epoch."""
    process = start("-c", config, "-o", tmp_path / "run", "--devices", 2)
    told = killed(process, tmp_path / "run", rank=1)
    assert "process 1 (SIGKILL) of this training has ended" in told
    assert "--resume" in told
    assert "Traceback" not in told
    whole(tmp_path / "run")
    first = history(tmp_path / "run")[0]

    told = finished(start("-c", config, "-o", tmp_path / "run", "--devices", 2, "--resume", "--profile"))
    rows = history(tmp_path / "run")
    assert rows[0] == first
    assert [row["epoch"] for row in rows] == [1, 2]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names >= {"weights.safetensors", "model.agf", "validation", "curves.png", "run.json", "profile.json"}
    assert not list((tmp_path / "run").rglob("*.tmp"))
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("epoch 1/2") == log.count("epoch 2/2") == 1
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert "devices" not in (tmp_path / "run" / "config.yaml").read_text()

    report = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert set(report["seconds"]) == {*PARTS, "whole"}
    assert sum(report["seconds"][part] for part in PARTS) == pytest.approx(report["seconds"]["whole"], rel=0.02)
    assert all(report["seconds"][part] > 0 for part in ("data", "encoders", "fusion", "reconstruction", "backward"))
    assert report["limit"] in told

    train(parse_config(tree, "alone"), tmp_path / "alone")
    alone = history(tmp_path / "alone")
    assert first["train_loss"] == pytest.approx(alone[0]["train_loss"], rel=0.01)
    parts = pl.read_csv(drawn / "parts.csv")
    assert [r["val_cases"] for r in rows] == [r["val_cases"] for r in alone]
    assert rows[0]["val_cases"] == (parts["split"] == "validation").sum()


@pytest.mark.full
def test_the_first_process_killed(config, tmp_path):
    told = killed(start("-c", config, "-o", tmp_path / "run", "--devices", 2), tmp_path / "run", rank=0)
    assert "the first process of this training has ended" in told
    whole(tmp_path / "run")


@pytest.mark.full
def test_torchrun_folds_and_a_late_frl(drawn, config, tmp_path):
    """Two folds under torchrun; FRL that sets in late leaves losses out at first, and mixing all of them."""
    out = tmp_path / "cv"
    late = ["reconstruction.start=0.5", "training.modality_dropout=0.5", "training.mixing=0.4", "training.seed=3"]
    finished(start("-c", config, "-o", out, "--devices", 2, "--folds", 2, *late, launcher=TORCHRUN))
    for fold in (1, 2):
        rows = history(out / f"fold-{fold}")
        assert "train_second" not in rows[0]
        assert rows[1]["train_second"] > 0
    pooled = pl.read_csv(out / "pooled" / "predictions.csv")["case_id"]
    parts = pl.read_csv(drawn / "parts.csv").filter(pl.col("split").is_in(["train", "validation"]))
    assert sorted(pooled) == sorted(parts["case_id"])


@pytest.mark.full
def test_one_view_has_nothing_to_look_at_others_with(tree, tmp_path):
    """What would attend to other views gets no gradient; the processes do not wait for it."""
    views = {"clinical": tree["data"]["views"]["clinical"]}
    alone = tree | {"data": tree["data"] | {"views": views}, "reconstruction": {"enabled": False}}
    config = write_config(tmp_path / "one.yaml", alone)
    finished(start("-c", config, "-o", tmp_path / "run", "--devices", 2))
    whole(tmp_path / "run")


@pytest.mark.full
def test_a_loss_that_is_no_number_ends_all(config, tmp_path):
    process = start("-c", config, "-o", tmp_path / "run", "--devices", 2, "training.learning_rate=1e30")
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "lower training.learning_rate" in told


def test_processes_that_the_launcher_did_not_start_are_missed(config, tmp_path):
    process = start("-c", config, "-o", tmp_path / "run", "--nodes", 2)
    _, told = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "torchrun or srun" in told
    assert not (tmp_path / "run" / "config.yaml").exists()
