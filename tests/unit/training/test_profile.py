from __future__ import annotations

import pytest

from agfnet.training import profile
from agfnet.training.callbacks import RampedAverage
from agfnet.training.profile import PARTS, WARM, StepProfiler, step_report
from agfnet.training.trainer import check_compiler
from agfnet.types import ConfigError

NEXT = "[_TrainingEpochLoop].train_dataloader_next"
OPTIMISE = "[LightningModule]LesionModule.optimizer_step"
FORWARD, BACKWARD = "[Strategy]DDPStrategy.training_step", "[Strategy]DDPStrategy.backward"
AVERAGE = f"[Callback]{RampedAverage(0.9).state_key}.on_train_batch_end"  # as Lightning names it


class Clock:
    """Time that passes only when told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(profile, "_now", lambda: self.now)

    def spend(self, profiler, action, seconds):
        with profiler.profile(action):
            self.now += seconds


@pytest.fixture
def steps(monkeypatch):
    """Two epochs of three steps, with a validation of a hundred seconds between."""
    clock, profiler = Clock(monkeypatch), StepProfiler()
    for _ in range(2):
        with profiler.profile("run_training_epoch"):
            for _ in range(3):
                clock.spend(profiler, NEXT, 1.0)
                with profiler.profile(OPTIMISE):
                    with profiler.profile(FORWARD):
                        for part, seconds in (("encoders", 2.0), ("fusion", 0.5), ("reconstruction", 0.25)):
                            clock.spend(profiler, part, seconds)
                    clock.spend(profiler, BACKWARD, 4.0)
                    clock.now += 0.75
                clock.spend(profiler, AVERAGE, 0.25)
                clock.now += 0.5
            clock.now += 100.0
    return profiler.steps


def test_a_steps_parts_make_the_whole_and_validation_is_in_none(steps):
    assert len(steps) == 4  # the last step of each epoch has no end
    assert all(step == steps[0] for step in steps)
    assert steps[0] == {
        "data": 1.0, "encoders": 2.0, "fusion": 0.5, "reconstruction": 0.25, "backward": 4.0, "optimiser": 1.0,
        "other": 0.5, "whole": 9.25,
    }  # fmt: skip


def test_the_report_leaves_out_the_first_steps_and_names_what_limits(steps):
    slow = {name: 10 * seconds for name, seconds in steps[0].items()}
    report = step_report([slow] * WARM + steps, batch_size=16, workers=0)
    assert report["steps"] == len(steps)
    assert report["cases_a_second"] == pytest.approx(16 / 9.25, abs=0.01)
    assert "Raise data.workers (now 0)" in report["limit"]
    quick = [step | {"data": 0.25, "whole": 8.5} for step in steps]
    report = step_report(quick, batch_size=16, workers=2)
    assert report["limit"].startswith("The network limits the step")
    assert f"{PARTS['backward']} 47%" in report["limit"]
    assert step_report(steps[:1], batch_size=16, workers=0)["steps"] == 1


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler .* training\.compile=false"):
        check_compiler()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    check_compiler()
