"""Check, split, train, kill, resume, export, evaluate, predict: the main job as a user runs it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file

from agfnet.prediction.bundle import BUNDLE, read_bundle
from drawn import small_config, write_config
from runfolder import history, whole

EPOCHS = 4
AGFNET = [sys.executable, "-m", "agfnet"]
WITHOUT_TORCH = (
    "import sys\n"
    "class NotInstalled:\n"
    "    def find_spec(self, name, *_):\n"
    "        if name in {'torch', 'timm', 'torchvision', 'pytorch_lightning', 'torchmetrics'}:\n"
    "            raise ModuleNotFoundError(name)\n"
    "sys.meta_path.insert(0, NotInstalled())\n"
    "from agfnet.cli import app; app()"
)


def command(*arguments: object, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*AGFNET, *map(str, arguments)], capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="module")
def config(drawn, tmp_path_factory):
    """In bfloat16, as trainings are by default where the processor has it; other tests pin float32."""
    tree = small_config(drawn / "parts.csv", epochs=EPOCHS, precision="bfloat16")
    return write_config(tmp_path_factory.mktemp("config") / "c.yaml", tree)


@pytest.fixture(scope="module")
def unbroken(config):
    """The run that was not killed."""
    folder = config.parent / "unbroken"
    done = command("train", "-c", config, "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def resumed(config):
    """The same run, killed at a random moment and resumed."""
    folder = config.parent / "killed"
    process = subprocess.Popen(
        [*AGFNET, "train", "-c", str(config), "-o", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not history(folder):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    time.sleep(random.Random(os.getpid()).uniform(0.0, 2.0))
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole(folder)
    done = command("train", "-c", config, "-o", folder, "--resume")
    assert done.returncode == 0, done.stderr
    return folder


def test_check_and_split(drawn, tmp_path):
    done = command("check", drawn / "cases.csv", "--deep")
    assert done.returncode == 0, done.stdout
    done = command("split", drawn / "cases.csv", "-o", tmp_path / "parts.parquet")
    assert done.returncode == 0, done.stderr
    assert set(pl.read_parquet(tmp_path / "parts.parquet")["split"]) == {"train", "validation", "calibration", "test"}


def test_a_killed_and_resumed_run_ends_with_the_same_figures(unbroken, resumed):
    assert len(history(unbroken)) == EPOCHS
    assert history(resumed) == history(unbroken)
    first, second = load_file(unbroken / "weights.safetensors"), load_file(resumed / "weights.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    scores = [json.loads((f / "validation" / "scorecard.json").read_text())["metrics"] for f in (unbroken, resumed)]
    assert scores[0]["nll"]["value"] == pytest.approx(scores[1]["nll"]["value"], abs=1e-6)


def test_the_run_folder_holds_what_it_should(resumed):
    whole(resumed)
    names = {p.name for p in resumed.iterdir()}
    assert names >= {
        "config.yaml", "run.json", "train.log", "history.json", "curves.png", "weights.safetensors", "model.agf",
        "checkpoints", "tensorboard", "validation",
    }  # fmt: skip
    facts = json.loads((resumed / "run.json").read_text())
    assert len(facts["table_sha256"]) == 64
    assert facts["seed"] == 0
    assert facts["versions"]["torch"] == torch.__version__.split("+", maxsplit=1)[0]
    assert not list(resumed.rglob("*.pkl"))
    assert not list(resumed.rglob("*.tmp"))


def test_evaluate_and_predict_without_torch(drawn, resumed, tmp_path):
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    out = tmp_path / "figures"
    done = run("evaluate", resumed, drawn / "parts.csv", "--part", "validation", "-o", out, "--subgroup", "site")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} == {
        "scorecard.json", "summary.md", "predictions.csv", "confusion.png", "roc.png", "reliability.png",
    }  # fmt: skip
    card = json.loads((out / "scorecard.json").read_text())
    trained = json.loads((resumed / "validation" / "scorecard.json").read_text())
    assert card["metrics"] == trained["metrics"]
    held_out = pl.read_csv(drawn / "parts.csv").filter(pl.col("split") == "validation")
    assert card["small_subgroups"]["site"] == {"n_values": held_out["site"].n_unique(), "n_cases": len(held_out)}

    done = run("predict", resumed / "model.agf", drawn / "parts.csv", "-o", tmp_path / "p.csv")
    assert done.returncode == 0, done.stderr
    rows = pl.read_csv(tmp_path / "p.csv")
    assert rows["case_id"].to_list() == pl.read_csv(drawn / "parts.csv")["case_id"].to_list()
    assert rows["error"].is_null().all()
    assert (rows["views_missing"].fill_null("") != "").sum() == 3
    photo = drawn / "photos" / "c000-1.jpg"
    done = run("predict", resumed, "--view", f"clinical={photo}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2
    assert "ultrasound" in done.stdout.splitlines()[1]


def test_a_network_is_held_against_another(drawn, unbroken, resumed, tmp_path):
    ask = ["evaluate", resumed, drawn / "parts.csv", "--part", "validation", "-o", tmp_path]
    done = command(*ask, "--against", unbroken / "model.agf")
    assert done.returncode == 0, done.stderr
    assert "First minus second" in done.stdout
    told = json.loads((tmp_path / "against.json").read_text())
    card = json.loads((tmp_path / "scorecard.json").read_text())
    assert told["n_cases"] == card["n_cases"]
    assert told["metrics"]["nll"]["first"] == pytest.approx(card["metrics"]["nll"]["value"])
    assert told["metrics"]["nll"]["difference"]["value"] == pytest.approx(0.0, abs=1e-6)  # the same training
    assert "First minus second" in (tmp_path / "against.md").read_text()
    done = command(*ask)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("against*"))  # of an earlier call


def test_test_cases_are_used_only_when_asked_for(drawn, resumed, tmp_path):
    done = command("evaluate", resumed, drawn / "parts.csv", "--part", "test", "-o", tmp_path / "a")
    assert done.returncode == 1
    assert "--include-test" in done.stderr
    done = command("evaluate", resumed, drawn / "parts.csv", "--part", "test", "--include-test", "-o", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    done = command("evaluate", resumed, drawn / "parts.csv", "-o", tmp_path / "b")
    card = json.loads((tmp_path / "b" / "scorecard.json").read_text())
    parts = pl.read_csv(drawn / "parts.csv")["split"]
    assert card["n_cases"] == (parts == "validation").sum()


def test_another_run_in_the_same_folder_is_refused(config, resumed):
    done = command("train", "-c", config, "-o", resumed)
    assert done.returncode == 1
    assert "--resume" in done.stderr
    done = command("train", "-c", config, "-o", resumed, "--resume", "training.epochs=9")
    assert done.returncode == 1
    assert "another configuration" in done.stderr


@pytest.mark.full
def test_compiled_encoders_learn_the_same(config, tmp_path):
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        done = command(
            "train",
            "-c",
            config,
            "-o",
            tmp_path / name,
            "training.epochs=1",
            "training.precision=float32",
            f"training.compile={compiled}",
        )
        assert done.returncode == 0, done.stderr
    (plain,), (compiled,) = history(tmp_path / "plain"), history(tmp_path / "compiled")
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-3)


@pytest.mark.full
def test_folds(drawn, config, tmp_path):
    done = command("train", "-c", config, "-o", tmp_path / "cv", "--folds", 2, "training.epochs=1")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "cv" / "pooled" / "scorecard.json").read_text())
    parts = pl.read_csv(drawn / "parts.csv")
    pooled = parts.filter(pl.col("split").is_in(["train", "validation"]))
    assert card["n_cases"] == len(pooled)
    told = pl.read_csv(tmp_path / "cv" / "pooled" / "predictions.csv")
    assert sorted(told["case_id"]) == sorted(pooled["case_id"])
    assert told["bundle_sha256"].unique(maintain_order=True).to_list() == card["bundle_sha256"]
    assert len(card["bundle_sha256"]) > 1
    assert not any("trained on" in note for note in card["notes"])
    assert card["bundle_sha256"] == [read_bundle(tmp_path / "cv" / f"fold-{k}" / BUNDLE).sha256 for k in (1, 2)]
