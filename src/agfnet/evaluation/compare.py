"""Methods side by side: one recipe, several seeds, the same cases; differences from a reference with intervals.

Each run is a process of its own and leaves its result when it ends, so a comparison of many hours can be stopped, goes
on where it was, and can be done in pieces.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agfnet.config import Config, parse_config
from agfnet.data.table import read_cases, table_sha256
from agfnet.evaluation.evaluate import chosen_part
from agfnet.evaluation.experiment import train_and_export
from agfnet.evaluation.plan import ComparisonPlan
from agfnet.export.summary import forward_time, parameter_count
from agfnet.files import write_json
from agfnet.metrics.calibration import brier, nll
from agfnet.metrics.classification import accuracy, balanced_accuracy
from agfnet.metrics.ranking import macro_auc
from agfnet.metrics.significance import holm
from agfnet.metrics.statistics import Interval, MetricSet, bootstrap, paired_difference
from agfnet.prediction.commands import predict_cases
from agfnet.prediction.predictor import Predictor
from agfnet.training.run import parts, read_table
from agfnet.types import SYNTHETIC, SYNTHETIC_STANDARD, AgfnetError, ConfigError

log = logging.getLogger("agfnet")
FIGURES = ("balanced_accuracy", "accuracy", "macro_auc", "nll", "brier")
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
            target=_one_run, args=(config.model_dump(mode="json"), run_folder(folder, row, seed), plan.test)
        )
        process.start()
        process.join()
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
    shared = {"base": plan.base, "test": str(plan.test), "test_sha256": plan.test and table_sha256(plan.test)}
    shared = json.loads(json.dumps(shared, default=str))
    begun = folder / "comparison.json"
    if begun.exists() and json.loads(begun.read_text(encoding="utf-8")) != shared:
        raise ConfigError(f"{folder}: holds a comparison with another base or other test cases; choose another folder.")
    write_json(begun, shared)


def _one_run(tree: Mapping[str, Any], folder: Path, test: Path | None) -> None:
    """In a process of its own: train, test the exported file, write the result."""
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.basicConfig(handlers=[handler], force=True)
    log.setLevel(logging.INFO)
    try:
        config = parse_config(tree, "the plan")
        train_and_export(config, folder, parts(config, read_table(config)), resume=True)
        write_json(folder / RESULT, _tested(config, folder, test))
    except BaseException:
        log.exception("the run failed")
        raise


def _tested(config: Config, folder: Path, test: Path | None) -> dict[str, Any]:
    predictor = Predictor(folder)
    table = test or config.data.table
    cases = read_cases(table, views=list(config.data.views))
    if test is None:
        cases = chosen_part(cases, "validation", include_test=False, table=table)
    outcomes = [o for o in predict_cases(predictor, cases) if o.prediction is not None and o.case.label is not None]
    facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {
        "classes": list(predictor.classes),
        "cases": [o.case.case_id for o in outcomes],
        "patients": [o.case.patient_id for o in outcomes],
        "labels": [predictor.classes.index(str(o.case.label)) for o in outcomes],
        "probabilities": [o.prediction.probabilities.tolist() for o in outcomes if o.prediction is not None],
        "parameters": parameter_count(folder),
        "forward_ms": forward_time(predictor),
        "training_minutes": facts["minutes"],
    }


def comparison_table(plan: ComparisonPlan, folder: Path, *, draws: int = 2000) -> dict[str, Any]:
    """Every row's figures, and its paired difference from the reference, over the runs that are done.

    Returns:
        `reference`, `cases`, `patients`, and `rows`: name -> seeds; per figure its mean over seeds with interval and
        the difference "row minus reference" with interval and p; the Holm-adjusted p of balanced accuracy; parameters,
        forward and training time. Rows without a finished run are left out.

    Raises:
        ConfigError: the reference has no finished run, or runs were tested on different cases.
    """
    results = {row: _results(plan, folder, row) for row in plan.rows}
    results = {row: own for row, own in results.items() if own}
    if plan.reference not in results:
        raise ConfigError(
            f"{folder}: the reference {plan.reference!r} has no finished run yet; let the comparison go on."
        )
    first = results[plan.reference][0]
    for row, own in results.items():
        if any(r["cases"] != first["cases"] or r["labels"] != first["labels"] for r in own):
            raise ConfigError(f"{folder}: row {row!r} was tested on other cases than {plan.reference!r}.")
    patients = first["patients"]
    sets = {row: [_figures(r) for r in own] for row, own in results.items()}
    rows: dict[str, dict[str, Any]] = {}
    for row, own in results.items():
        figures = bootstrap(sets[row], patients, draws=draws)
        rows[row] = {
            "seeds": len(own),
            "figures": {name: _entry(figures[name]) for name in FIGURES},
            **{key: float(np.mean([r[key] for r in own])) for key in ("parameters", "forward_ms", "training_minutes")},
        }
        if row != plan.reference:
            apart = paired_difference(sets[row], sets[plan.reference], patients, draws=draws)
            rows[row]["difference"] = {n: _entry(apart[n]) | {"p": float(apart[n].p)} for n in FIGURES}
    others = [row for row in rows if row != plan.reference]
    if others:
        adjusted = holm([rows[row]["difference"]["balanced_accuracy"]["p"] for row in others])
        for row, p in zip(others, adjusted, strict=True):
            rows[row]["holm_p"] = float(p)
    return {
        "reference": plan.reference,
        "cases": len(patients),
        "patients": len(set(patients)),
        "draws": draws,
        "rows": rows,
    }


def comparison_notes(plan: ComparisonPlan, *, complete: bool) -> list[str]:
    """What a reader of the table must know."""
    table = plan.test or Path(plan.base["data"]["table"])
    notes = [f"Cases: {table}{'' if plan.test else ', validation part: a place to choose, not to confirm'}."]
    if not complete:
        notes.append("Not every run is done: rows may have fewer seeds than planned, or be missing.")
    if any(len(plan.seeds_of(row)) < 3 for row in plan.rows):
        notes.append("Of a row with one or two seeds the interval hardly knows the spread between trainings.")
    if any(case.reference_standard == SYNTHETIC_STANDARD for case in read_cases(table)):
        notes.append(SYNTHETIC)
    return notes


def _results(plan: ComparisonPlan, folder: Path, row: str) -> list[dict[str, Any]]:
    """The results of the finished runs of a row, by seed; a mean is made of its parts."""
    own = plan.rows[row]
    if not own.mean_of:
        files = [run_folder(folder, row, seed) / RESULT for seed in plan.seeds_of(row)]
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    made = []
    for seed in plan.seeds_of(row):
        files = [run_folder(folder, part, seed) / RESULT for part in own.mean_of]
        if all(file.exists() for file in files):
            parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
            summed = {key: sum(p[key] for p in parts) for key in ("parameters", "forward_ms", "training_minutes")}
            mean = np.mean([p["probabilities"] for p in parts], axis=0).tolist()
            made.append(parts[0] | summed | {"probabilities": mean})
    return made


def _figures(result: Mapping[str, Any]) -> MetricSet:
    y, p = np.array(result["labels"]), np.array(result["probabilities"])

    def figures(weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        functions = (balanced_accuracy, accuracy, macro_auc, nll, brier)
        return {name: function(y, p, weights) for name, function in zip(FIGURES, functions, strict=True)}

    return figures


def _entry(interval: Interval) -> dict[str, float]:
    return {end: float(getattr(interval, end)) for end in ("value", "low", "high")}
