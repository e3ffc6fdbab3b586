"""What a training step spends its time on, and what limits it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler

from agfnet.files import write_json
from agfnet.training.callbacks import RampedAverage

log = logging.getLogger("agfnet")

PROFILE = "profile.json"
PARTS = {
    "data": "waiting for data",
    "encoders": "encoders",
    "fusion": "fusion, heads and loss",
    "reconstruction": "FRL: reconstruction and second pass",
    "backward": "backward",
    "optimiser": "optimiser and averaging",
    "other": "other",
}
"""Part of a step -> what it is called."""
WARM = 2
"""Steps at the start that are left out: the first ones set up memory and kernels."""
TOLERATED = 0.1
"""Share of a step that may be spent waiting for data before data are what limits it."""

_NEXT, _EPOCH = ".train_dataloader_next", "run_training_epoch"
_STEP, _BACKWARD, _OPTIMISE, _AVERAGE = (
    ".training_step", ".backward", "[LightningModule]LesionModule.optimizer_step",
    f"[Callback]{RampedAverage.__qualname__}.on_train_batch_end",
)  # fmt: skip


class StepProfiler(Profiler):
    """Collects the parts of each step from the actions that Lightning and the module report.

    A step lasts from the request for its batch to the next request in the same epoch, so that validation and
    checkpoints are in none.

    Attributes:
        steps: for each step the seconds of each part and of the `whole`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, float]] = []
        self._started: dict[str, float] = {}
        self._step: dict[str, float] = {}
        self._began: float | None = None

    def start(self, action_name: str) -> None:
        """An action begins."""
        now = self._started[action_name] = _now()
        if action_name == _EPOCH:
            self._began = None
        elif action_name.endswith(_NEXT):
            if self._began is not None:
                self.steps.append(_parts(self._step, now - self._began))
            self._began, self._step = now, {}

    def stop(self, action_name: str) -> None:
        """An action ends."""
        seconds = _now() - self._started.pop(action_name)
        self._step[action_name] = self._step.get(action_name, 0.0) + seconds


def _now() -> float:
    if torch.cuda.is_available():  # kernels run on after the call that started them
        torch.cuda.synchronize()
    return time.perf_counter()


def _parts(actions: Mapping[str, float], whole: float) -> dict[str, float]:
    """The parts of one step; Lightning's optimiser step contains forward and backward."""

    def of(end: str) -> float:
        return sum(seconds for name, seconds in actions.items() if name.endswith(end))

    inside = of(f"Strategy{_STEP}") + of(f"Strategy{_BACKWARD}")
    parts = {
        "data": of(_NEXT),
        **{name: actions.get(name, 0.0) for name in ("encoders", "fusion", "reconstruction")},
        "backward": of(f"Strategy{_BACKWARD}"),
        "optimiser": max(0.0, of(_OPTIMISE) - inside) + of(_AVERAGE),
    }
    return {**parts, "other": max(0.0, whole - sum(parts.values())), "whole": whole}


def step_report(steps: Sequence[Mapping[str, float]], batch_size: int, workers: int) -> dict[str, Any]:
    """Mean seconds of each part of a step, cases a second, and one sentence on what limits the step.

    Args:
        steps: as `StepProfiler` has them, one or more.
        batch_size: cases of a step over all processes.
        workers: processes that load images.
    """
    kept = steps[WARM:] or steps
    seconds = {name: fmean(step[name] for step in kept) for name in (*PARTS, "whole")}
    shares = {name: value / seconds["whole"] for name, value in seconds.items()}
    if shares["data"] > TOLERATED:
        limit = (
            f"Data limit the step: {shares['data']:.0%} of it waits for images. Raise data.workers (now {workers}) "
            "or put data.cache on a faster disk."
        )
    else:
        most = max((name for name in PARTS if name != "data"), key=shares.__getitem__)
        limit = (
            f"The network limits the step: waiting for images is {shares['data']:.0%} of it, {PARTS[most]} "
            f"{shares[most]:.0%}. A faster processor, bfloat16, smaller images or encoders help; more workers do not."
        )
    return {
        "steps": len(kept),
        "seconds": {name: round(value, 5) for name, value in seconds.items()},
        "cases_a_second": round(batch_size / seconds["whole"], 2),
        "batch_size": batch_size,
        "workers": workers,
        "limit": limit,
    }


def tell_profile(profiler: StepProfiler, folder: Path, batch_size: int, workers: int) -> None:
    """Write `profile.json` into the run folder and say it."""
    if not profiler.steps:
        log.warning("no profile: it takes two steps in an epoch")
        return
    report = step_report(profiler.steps, batch_size, workers)
    write_json(folder / PROFILE, report)
    whole = report["seconds"]["whole"]
    parts = ", ".join(f"{told} {report['seconds'][name] / whole:.0%}" for name, told in PARTS.items())
    log.info("a step takes %.3f s (%.1f cases a second): %s", whole, report["cases_a_second"], parts)
    log.info("%s", report["limit"])
