"""AutoGluon MultiModal's side of `against_autogluon.py`, in an environment of its own that has no agfnet.

Reads a JSON description of the work from standard input, and prints the measured throughput as the last line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from autogluon.multimodal import MultiModalPredictor


class Clock(pl.Callback):
    """Seconds from the end of the last warm step to the end of the last one: waiting for data counts."""

    def __init__(self, warm: int) -> None:
        self.warm = warm
        self.steps = 0
        self.began = self.ended = 0.0

    def on_train_batch_end(self, *_: object) -> None:
        """Look at the clock."""
        self.steps += 1
        self.ended = time.perf_counter()
        if self.steps == self.warm:
            self.began = self.ended


def clocked(clock: Clock) -> None:
    """Give the clock to the Trainer that AutoGluon makes."""
    make = pl.Trainer.__init__

    def with_clock(self: pl.Trainer, *args: object, callbacks: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        make(self, *args, callbacks=[*(callbacks or []), clock], **kwargs)

    pl.Trainer.__init__ = with_clock  # type: ignore[method-assign]


def main() -> None:
    """Train for one epoch, predict, print JSON."""
    work = json.load(sys.stdin)
    train, validation, asked = (pd.DataFrame(work[part]) for part in ("train", "validation", "asked"))
    clock = Clock(work["warm"])
    clocked(clock)
    size = work["batch_size"]
    with tempfile.TemporaryDirectory() as folder:
        predictor = MultiModalPredictor(label="label", problem_type="multiclass", path=folder, verbosity=1)
        predictor.fit(
            train,
            tuning_data=validation,
            column_types=dict.fromkeys(work["views"], "image_path"),
            hyperparameters={
                "model.names": ["timm_image"],
                "model.timm_image.checkpoint_name": work["checkpoint"],
                "model.timm_image.image_size": work["image_size"],
                "optim.max_epochs": 1,
                "optim.val_check_interval": 1.0,
                "optim.top_k": 1,
                "env.batch_size": size,
                "env.per_gpu_batch_size": size,
                "env.num_gpus": 0,
                **work["settings"],
            },
        )
        seconds = []
        for rows in (asked, pd.concat([asked, asked])):  # the difference is free of what does not grow with rows
            began = time.perf_counter()
            predictor.predict_proba(rows)
            seconds.append(time.perf_counter() - began)
    measured = (clock.steps - clock.warm) * size / (clock.ended - clock.began)
    print(json.dumps({"training": measured, "prediction": len(asked) / (seconds[1] - seconds[0])}))


if __name__ == "__main__":
    main()
