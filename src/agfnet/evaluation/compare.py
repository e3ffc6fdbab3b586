"""Run a comparison: methods side by side with one recipe, several seeds, the same cases.

Each run is a process of its own and leaves its result when it ends, so a comparison of many hours can be stopped, goes
on where it was, and can be done in pieces. What comes of the results is in `comparison_table`.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agfnet.config import Config, parse_config
from agfnet.data.table import read_cases, table_sha256
from agfnet.evaluation.answers import Answers, answers_of, whole
from agfnet.evaluation.evaluate import chosen_part
from agfnet.evaluation.experiment import train_and_export
from agfnet.evaluation.focus import focus_of, mask_files
from agfnet.evaluation.plan import CORRUPTED, EXTERNAL, ONLY, ComparisonPlan
from agfnet.evaluation.robustness import Setting, changer
from agfnet.export.summary import forward_time, parameter_count
from agfnet.files import write_json
from agfnet.prediction.commands import predict_cases
from agfnet.prediction.predictor import Change, Predictor
from agfnet.training.run import parts, read_table
from agfnet.types import AgfnetError, Case, ConfigError, Place

log = logging.getLogger("agfnet")
RESULT = "result.json"


def compare(plan: ComparisonPlan, folder: Path, *, source: str = "the plan", minutes: float | None = None) -> bool:
    """Train and test what is not there yet, one process after the other.

    Args:
        plan: what to run.
        folder: holds a folder for each run, `RESULT` in each that is done.
        source: named in errors.
        minutes: begin no run after this time; None: until all is done.

    Returns:
        Whether every run of the plan is done.

    Raises:
        ConfigError: the folder holds a comparison with another base or other test cases.
        AgfnetError: a run failed; its log tells why, and the others are still done.
    """
    _same_comparison(plan, folder)
    began = time.monotonic()
    taken: list[float] = []
    failed: list[str] = []
    todo = [(row, seed) for row, seed in all_runs(plan) if not (run_folder(folder, row, seed) / RESULT).exists()]
    for i, (row, seed) in enumerate(todo):
        if minutes is not None and time.monotonic() - began > 60.0 * minutes:
            log.info("time is up: %d of %d runs are still to be done; call again to go on", len(todo) - i, len(todo))
            break
        left = f", about {np.mean(taken) * (len(todo) - i) / 60.0:.0f} min left" if taken else ""
        log.info("run %d of %d: %s, seed %d%s", i + 1, len(todo), row, seed, left)
        started = time.monotonic()
        config = plan.config(row, seed, source)
        process = multiprocessing.get_context("spawn").Process(
            target=_one_run, args=(config.model_dump(mode="json"), run_folder(folder, row, seed), plan, row)
        )
        process.start()
        try:
            process.join()
        finally:
            process.terminate()  # of a comparison that is stopped; a run that has ended does not mind
        taken.append(time.monotonic() - started)
        if process.exitcode != 0:
            log.warning("%s, seed %d: failed; see %s", row, seed, run_folder(folder, row, seed) / "train.log")
            failed.append(f"{row}, seed {seed}")
    if failed:
        raise AgfnetError(f"runs failed: {'; '.join(failed)}. Read train.log in their folders; call again to go on.")
    return all((run_folder(folder, row, seed) / RESULT).exists() for row, seed in all_runs(plan))


def all_runs(plan: ComparisonPlan) -> list[tuple[str, int]]:
    """(row, seed) of every training, seed by seed, so that a part of a comparison has all rows."""
    rows = [row for row, own in plan.rows.items() if not own.mean_of]
    seeds = sorted({seed for row in rows for seed in plan.seeds_of(row)})
    return [(row, seed) for seed in seeds for row in rows if seed in plan.seeds_of(row)]


def run_folder(folder: Path, row: str, seed: int) -> Path:
    """Where a run lies."""
    return folder / "runs" / row.replace(" ", "-") / f"seed-{seed}"


def _same_comparison(plan: ComparisonPlan, folder: Path) -> None:
    """Rows and seeds may be added to a comparison that was begun; what all rows share may not change."""
    tables = {"test": plan.test, "external": plan.external, "masks": plan.masks}
    shared: dict[str, Any] = {"base": plan.base, "sample": plan.sample}
    shared |= {name: path and {"path": str(path), "sha256": table_sha256(path)} for name, path in tables.items()}
    shared = json.loads(json.dumps(shared, default=str))
    begun = folder / "comparison.json"
    if begun.exists() and json.loads(begun.read_text(encoding="utf-8")) != shared:
        raise ConfigError(f"{folder}: holds a comparison with another base or other test cases; choose another folder.")
    write_json(begun, shared)


def _one_run(tree: Mapping[str, Any], folder: Path, plan: ComparisonPlan, row: str) -> None:
    """In a process of its own: train, test the exported file, write the result."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    log.setLevel(logging.INFO)
    try:
        config = parse_config(tree, "the plan")
        train_and_export(config, folder, parts(config, read_table(config)), resume=True)
        write_json(folder / RESULT, _tested(config, folder, plan, row))
    except BaseException:
        log.exception("the run failed")
        raise


def _tested(config: Config, folder: Path, plan: ComparisonPlan, row: str) -> dict[str, Any]:
    """Everything that the plan asks of a row's exported file."""
    predictor = Predictor(folder)
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    sets, focus = plan.needed(row)
    cases = _test_cases(plan, config)
    fitted = _asked(predictor, [case for case in _calibration_cases(config) if any(case.views.values())])
    answers = {on: _asked(predictor, *_made(on, cases, predictor, plan)) for on in sets}
    return {
        "classes": list(predictor.classes),
        "sets": {on: own.as_json() for on, own in answers.items()},
        "fitted": fitted.as_json(),
        "focus": _focus(predictor, sampled(cases, plan), plan.masks) if focus and plan.masks else None,
        "parameters": parameter_count(folder),
        "forward_ms": forward_time(predictor),
        "training_minutes": facts["minutes"],
    }


def _focus(predictor: Predictor, cases: Sequence[Case], masks: Place) -> dict[str, Any]:
    """The energy of each view's maps inside the evidence, case by case, and whose cases they are."""
    energy = focus_of(predictor, cases, mask_files(masks, list(predictor.specs)))
    return {"patients": [case.patient_id for case in cases], "energy": energy}


def sampled(cases: Sequence[Case], plan: ComparisonPlan) -> list[Case]:
    """The same `plan.sample` test cases for every row, in the table's order."""
    drawn = np.random.default_rng(0).permutation(len(cases))[: plan.sample]
    return [cases[i] for i in np.sort(drawn)]


def _test_cases(plan: ComparisonPlan, config: Config) -> list[Case]:
    """The labelled test cases, with every view of the plan's base."""
    table = plan.test or config.data.table
    cases = [case for case in read_cases(table, views=list(plan.base["data"]["views"])) if case.label is not None]
    return cases if plan.test else chosen_part(cases, "validation", include_test=False, table=table)


def _calibration_cases(config: Config) -> list[Case]:
    """The labelled cases of the training table that a temperature is fitted on: calibration, else validation."""
    cases = [case for case in read_table(config) if case.label is not None]
    return [case for case in cases if case.split == "calibration"] or parts(config, cases)[1]


def _made(
    on: str, cases: Sequence[Case], predictor: Predictor, plan: ComparisonPlan
) -> tuple[Sequence[Case], Change | None]:
    """The cases of a set, and what is done to their images."""
    if on == EXTERNAL and plan.external is not None:
        external = read_cases(plan.external, views=list(plan.base["data"]["views"]))
        return [case for case in external if case.label is not None], None
    if on.startswith(ONLY):
        view = on.removeprefix(ONLY)
        return [replace(case, views={view: case.views[view]}) for case in cases], None
    if on == CORRUPTED:
        kinds = {view: spec.kind for view, spec in predictor.specs.items()}
        return sampled(cases, plan), changer(Setting(tuple(kinds)), kinds, seed=0)
    return cases, None


def _asked(predictor: Predictor, cases: Sequence[Case], change: Change | None = None) -> Answers:
    return answers_of(whole(predict_cases(predictor, cases, change=change)), predictor.classes)
