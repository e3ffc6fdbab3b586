"""What happens when in a training: FRL, mixing, and the end."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from pytorch_lightning.trainer.states import TrainerFn

from agfnet.config import parse_config
from agfnet.data.table import own_cases
from agfnet.runfolder import WEIGHTS
from agfnet.training.callbacks import EpochHistory
from agfnet.training.mixing import draw_blend
from agfnet.training.ranks import ALONE
from agfnet.training.run import load_run, parts, train
from agfnet.training.trainer import make_trainer
from drawn import small_config


def config_of(drawn, table="parts.csv", **training):
    tree = small_config(drawn / table, **training)
    tree["reconstruction"] = {"enabled": False}
    return parse_config(tree, "test")


def test_hiding_without_reconstruction_trains_no_decoder(drawn, tmp_path):
    """The ablation differs from no FRL, and from FRL, and its parts are finite."""
    tree = small_config(drawn / "parts.csv", epochs=1)
    ends = {}
    for name, frl in (("off", {"enabled": False}), ("mean", {"fill": "mean"}), ("frl", {})):
        train(parse_config(tree | {"reconstruction": frl}, "test"), tmp_path / name)
        (row,) = json.loads((tmp_path / name / "history.json").read_text())
        assert math.isfinite(row["train_loss"])
        ends[name] = row["train_loss"]
    assert len(set(ends.values())) == 3


def test_frl_sets_in_when_the_configuration_says(drawn, tmp_path):
    """Its decoder has learnt until then."""
    tree = small_config(drawn / "parts.csv", epochs=2)
    tree["reconstruction"] = {"start": 0.5}
    train(parse_config(tree, "test"), tmp_path)
    before, after = json.loads((tmp_path / "history.json").read_text())
    assert "train_second" not in before
    assert after["train_second"] > 0
    for name in ("train_reconstruction", "train_neighbours"):
        assert before[name] > 0
        assert after[name] > 0


def test_until_frl_sets_in_the_network_is_that_without(drawn, tmp_path):
    """So trainings of one seed with and without it can be compared in pairs."""
    tree = small_config(drawn / "parts.csv", epochs=1)
    late, never = (
        train(parse_config(tree | {"reconstruction": frl}, "test"), tmp_path / name).read_bytes()
        for name, frl in (("late", {"start": 0.99}), ("never", {"enabled": False}))
    )
    assert late == never


def test_mixing_with_frl_from_the_start(drawn, tmp_path):
    """FRL sits out the blended steps, and the history of an epoch of such steps alone says nothing of it."""
    tree = small_config(drawn / "parts.csv", epochs=6, batch_size=16, mixing=0.4)
    tree["reconstruction"] = {"start": 0.0}
    config = parse_config(tree, "test")
    whole = train(config, tmp_path / "run").read_bytes()
    rows = json.loads((tmp_path / "run" / "history.json").read_text())
    present = torch.ones(2, 2, dtype=torch.bool)
    steps = len(parts(config, own_cases(config.data)).train) // 16
    sat_out = [
        all(draw_blend(present, 0.4, step_draws(epoch, step)).share < 1.0 for step in range(steps))
        for epoch in range(6)
    ]
    assert True in sat_out[sat_out.index(False) :]
    assert ["train_reconstruction" not in row for row in rows] == sat_out
    plain = parse_config(tree | {"training": tree["training"] | {"mixing": 0.0}}, "test")
    assert train(plain, tmp_path / "plain").read_bytes() != whole


def step_draws(epoch, step):
    return np.random.default_rng(np.random.SeedSequence([0, epoch, step]))


def test_early_stopping_keeps_the_best_epoch(drawn, tmp_path):
    """A rate that keeps rising spoils the network: the run stops early, with the weights of its best epoch.

    Killed before they were written, it does not train on when it is resumed.
    """
    config = config_of(drawn, epochs=8, early_stopping=1, warmup=0.9, learning_rate=0.3, ema=0.0)
    first = train(config, tmp_path / "run").read_bytes()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    rows = json.loads((tmp_path / "run" / "history.json").read_text())
    losses = [row["val_loss"] for row in rows]
    assert len(losses) < 8
    assert losses[-1] > min(losses)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == losses.index(min(losses))
    _, _, network, _ = load_run(tmp_path / "run")
    assert torch.equal(network.head.weight, best["state_dict"]["network.head.weight"])
    (tmp_path / "run" / WEIGHTS).unlink()
    assert train(config, tmp_path / "run", resume=True).read_bytes() == first
    assert json.loads((tmp_path / "run" / "history.json").read_text()) == rows
    assert json.loads((tmp_path / "run" / "run.json").read_text())["epochs"] == facts["epochs"] == len(rows)


@pytest.mark.parametrize(("enabled", "every", "best", "last"), [(True, 1, 3, 4), (True, 3, 5, 5), (False, 1, 0, 1)])
def test_epochs_before_frl_are_neither_the_best_nor_patience(drawn, tmp_path, enabled, every, best, last):
    """The validation gets worse from the first epoch on; FRL sets in with the fourth of six."""
    tree = small_config(drawn / "parts.csv", epochs=6, early_stopping=1, validate_every=every)
    tree["reconstruction"] = {"enabled": enabled}
    config = parse_config(tree, "test")
    trainer = make_trainer(config, tmp_path, ALONE, EpochHistory(tmp_path / "h.json"), tmp_path)
    trainer.state.fn = TrainerFn.FITTING
    trainer.save_checkpoint = lambda path: path.write_text(str(trainer.current_epoch))
    for epoch in range(6):
        trainer.fit_loop.epoch_progress.current.completed = epoch
        if (epoch + 1) % every == 0:
            trainer.callback_metrics["val_loss"] = torch.tensor(1.0 + epoch)
            trainer.early_stopping_callback.on_validation_end(trainer, None)
        trainer.checkpoint_callback.on_train_epoch_end(trainer, None)
        if trainer.should_stop:
            break
    assert (tmp_path / "best.ckpt").read_text() == str(best)
    assert epoch == last


@pytest.mark.parametrize(("wanted", "every", "looks"), [(5, 3, 2), (3, 2, 2), (4, 2, 2), (1, 6, 1)])
def test_patience_is_never_shorter_than_asked(drawn, tmp_path, wanted, every, looks):
    config = config_of(drawn, epochs=8, early_stopping=wanted, validate_every=every)
    trainer = make_trainer(config, tmp_path, ALONE, EpochHistory(tmp_path / "h.json"), tmp_path)
    assert trainer.early_stopping_callback.patience == looks
