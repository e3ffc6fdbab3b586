"""Run a comparison: methods side by side with one recipe, several seeds, the same cases.

Each run is a process of its own and leaves its result when it ends, so a comparison of many hours can be stopped, goes
on where it was, and can be done in pieces. What comes of the results is in `comparison_table`.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from agfnet.config import Config, parse_config
from agfnet.cores import cores
from agfnet.data.fingerprints import image_fingerprints
from agfnet.data.table import own_cases, read_cases
from agfnet.data.tablefile import table_sha256
from agfnet.evaluation.answers import Answers, answers_of, whole
from agfnet.evaluation.evaluate import drawn_cases
from agfnet.evaluation.experiment import check_exportable, fold_parts, sharing_images, train_and_export
from agfnet.evaluation.focus import focus_of, mask_files
from agfnet.evaluation.plan import CORRUPTED, EXTERNAL, ONLY, ComparisonPlan, folder_name
from agfnet.evaluation.robustness import Setting, changer
from agfnet.export.costs import forward_time, parameter_count
from agfnet.files import PRIVATE, hold_folder, read_json, write_json
from agfnet.places import place
from agfnet.prediction.asking import predict_cases
from agfnet.prediction.predictor import Change, Predictor
from agfnet.runfolder import FACTS, LOCK, LOG
from agfnet.training.folder import NETWORK, train_log
from agfnet.training.run import parts
from agfnet.types import RESEARCH_USE, AgfnetError, Case, ConfigError, Place

log = logging.getLogger("agfnet")
RESULT = "result.json"


class Run(NamedTuple):
    """One training of a comparison; `fold` counts from 1 and is None without folds."""

    row: str
    seed: int
    fold: int | None

    def __str__(self) -> str:
        """For logs."""
        return f"{self.row}, seed {self.seed}" + ("" if self.fold is None else f", fold {self.fold}")


def compare(
    plan: ComparisonPlan,
    folder: Path,
    *,
    source: str = "the plan",
    rows: Sequence[str] = (),
    jobs: int = 1,
    minutes: float | None = None,
) -> bool:
    """Train and test what is not there yet, each run in a process of its own.

    Args:
        plan: what to run.
        folder: holds a folder for each run, `RESULT` in each that is done.
        source: named in errors.
        rows: run these alone for now; empty: all.
        jobs: runs at a time, which share the processor's threads; two of one thread do more than one of two.
        minutes: begin no run after this time, 0: none at all; None: until all is done.

    Returns:
        Whether every run of the plan is done.

    Raises:
        ConfigError: a row is not known, test cases were trained on, another process works in the folder, or it holds a
            comparison with another base, another table, other test cases, other settings of a row or another version's
            network.
        AgfnetError: a run failed; its log tells why, and the others are still done.
    """
    unknown = [row for row in rows if row not in plan.rows]
    if unknown:
        raise ConfigError(f"{source}: has no row {unknown}; its rows are {list(plan.rows)}.")
    _check_unseen(plan)
    _check_classes(plan, source)
    alone = minutes is None or minutes > 0  # the table can be made while another process trains
    with hold_folder(folder / LOCK) if alone else nullcontext():
        _same_comparison(plan, folder)
        return _run_all(plan, folder, source=source, rows=rows, jobs=jobs, minutes=minutes)


def _run_all(
    plan: ComparisonPlan, folder: Path, *, source: str, rows: Sequence[str], jobs: int, minutes: float | None
) -> bool:
    trained = {part for row in rows or plan.rows for part in plan.rows[row].mean_of or (row,)}
    todo = deque(run for run in all_runs(plan) if run.row in trained and not _done(folder, run, plan))
    for row in dict.fromkeys(run.row for run in todo if not (run_folder(folder, run) / FACTS).exists()):
        check_exportable(plan.config(row, plan.seeds_of(row)[0], source))
    count, began = len(todo), time.monotonic()
    threads = max(1, cores() // jobs) if jobs > 1 else 0
    running: dict[int, tuple[SpawnProcess, Run, float, str | None]] = {}
    took: list[float] = []  # minutes of each run that has ended
    failed: list[Run] = []
    try:
        while todo or running:
            while todo and len(running) < jobs:
                passed = (time.monotonic() - began) / 60.0
                if minutes is not None and passed > minutes:
                    log.info("time is up: %d of %d runs are still to be done; call again to go on", len(todo), count)
                    todo.clear()
                    break
                run = todo.popleft()
                # Those that run are half done, on average; this one takes a whole run's time at least.
                to_come = max(1.0, (len(todo) + 1 + len(running) / 2) / jobs)
                left = f", about {to_come * np.mean(took):.0f} min left" if took else ""
                log.info("run %d of %d: %s%s", count - len(todo), count, run, left)
                config = sharing_images(plan.config(run.row, run.seed, source), folder)
                process = multiprocessing.get_context("spawn").Process(
                    target=_one_run, args=(config.model_dump(mode="json"), folder, plan, run, threads)
                )
                with _own_gpu([gpu for *_, gpu in running.values()]) as gpu:
                    process.start()
                running[process.sentinel] = process, run, passed, gpu
            for sentinel in wait(list(running)) if running else ():
                process, run, start, _ = running.pop(cast("int", sentinel))
                process.join()
                if process.exitcode == 0:
                    took.append((time.monotonic() - began) / 60.0 - start)
                else:
                    log.warning("%s: failed; see %s", run, run_folder(folder, run) / LOG)
                    failed.append(run)
    finally:
        for process, *_ in running.values():  # of a comparison that is stopped
            process.terminate()
    if failed:
        raise AgfnetError(f"runs failed: {'; '.join(map(str, failed))}. Read their train.log; call again to go on.")
    return all(_done(folder, run, plan) for run in all_runs(plan))


@contextmanager
def _own_gpu(taken: Sequence[str | None]) -> Iterator[str | None]:
    """Have the process that is started meanwhile see one GPU alone, of several that which the fewest runs have."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = before.split(",") if before else [str(i) for i in range(torch.cuda.device_count())]
    if len(there) < 2:
        yield None
        return
    chosen = min(there, key=taken.count)
    try:
        os.environ["CUDA_VISIBLE_DEVICES"] = chosen
        yield chosen
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def all_runs(plan: ComparisonPlan) -> list[Run]:
    """Every training, seed by seed, so that a part of a comparison has all rows."""
    rows = [row for row, own in plan.rows.items() if not own.mean_of]
    seeds = sorted({seed for row in rows for seed in plan.seeds_of(row)})
    return [
        Run(row, seed, fold) for seed in seeds for row in rows if seed in plan.seeds_of(row) for fold in folds_of(plan)
    ]


def folds_of(plan: ComparisonPlan) -> list[int | None]:
    """The folds of every row and seed; [None] without folds."""
    return [None] if plan.folds is None else list(range(1, plan.folds + 1))


def run_folder(folder: Path, run: Run) -> Path:
    """Where a run lies."""
    own = folder / "runs" / folder_name(run.row) / f"seed-{run.seed}"
    return own if run.fold is None else own / f"fold-{run.fold}"


def _done(folder: Path, run: Run, plan: ComparisonPlan) -> bool:
    """Whether a run has its result, with all that the claims ask for."""
    result = run_folder(folder, run) / RESULT
    if not result.exists():
        return False
    told = read_json(result)
    sets, focus = plan.needed(run.row)
    return {*sets} <= told["sets"].keys() and (not focus or told["focus"] is not None)


def _same_comparison(plan: ComparisonPlan, folder: Path) -> None:
    """Rows, seeds and claims may be added to a comparison that was begun; what was begun may not change."""
    table = place(plan.base["data"]["table"])
    tables = {"table": table, "test": plan.test, "external": plan.external, "masks": plan.masks}
    shared: dict[str, Any] = {"base": plan.base, "sample": plan.sample, "folds": plan.folds}
    shared |= {name: path and {"path": str(path), "sha256": table_sha256(path)} for name, path in tables.items()}
    shared = json.loads(json.dumps(shared, default=str))
    rows = {name: row.model_dump(mode="json", exclude={"seeds"}) for name, row in plan.rows.items()}
    begun = folder / "comparison.json"
    if begun.exists():
        before = read_json(begun)
        known = before.pop("rows", {})
        if before.pop("network", None) != NETWORK:
            raise ConfigError(
                f"{folder}: holds a comparison by a version of agfnet with another network; choose another folder."
            )
        if before != shared:
            raise ConfigError(
                f"{folder}: holds a comparison with another base, table or other test cases; choose another folder."
            )
        changed = [name for name in rows if known.get(name, rows[name]) != rows[name]]
        if changed:
            raise ConfigError(f"{folder}: row {changed[0]!r} was begun with other settings; give it another name.")
        rows = known | rows
    write_json(begun, shared | {"network": NETWORK, "rows": rows})


def _one_run(tree: Mapping[str, Any], comparison: Path, plan: ComparisonPlan, run: Run, threads: int) -> None:
    """In a process of its own: train, test the exported file, write the result."""
    folder = run_folder(comparison, run)
    logging.basicConfig(handlers=[train_log(folder)], force=True)
    log.setLevel(logging.INFO)
    if threads:
        torch.set_num_threads(threads)
    try:
        config = parse_config(tree, "the plan")
        if plan.folds is None or run.fold is None:
            split, task = parts(config, own_cases(config.data)), None
        else:
            splits, task = fold_parts(config, plan.folds, seed=0, dealt=plan.data)
            split = splits[run.fold - 1]
        train_and_export(config, folder, split, resume=True, task=task)
        held = [case for case in split.validation if case.label is not None]
        write_json(folder / RESULT, _tested(config, folder, plan, run.row, held, threads), mode=PRIVATE)
    except AgfnetError as error:  # of the plan or the data: its words say all
        log.error("the run failed: %s", error)  # noqa: TRY400
        raise SystemExit(1) from error
    except BaseException:
        log.exception("the run failed")
        raise


def _tested(
    config: Config, folder: Path, plan: ComparisonPlan, row: str, held: Sequence[Case], threads: int
) -> dict[str, Any]:
    """Everything that the plan asks of a row's exported file; `held` are the cases that it was validated on."""
    predictor = Predictor(folder, threads=threads)
    facts = read_json(folder / FACTS)
    sets, focus = plan.needed(row)
    cases = _test_cases(plan, config, held)
    fitted = _asked(predictor, _fitted_on(config, held))
    answers = {on: _asked(predictor, *_made(on, cases, plan)) for on in sets}
    return {
        "notice": RESEARCH_USE,
        "classes": list(predictor.classes),
        "sets": {on: own.as_json() for on, own in answers.items()},
        "fitted": fitted.as_json(),
        "focus": _focus(predictor, sampled(cases, plan), plan.masks) if focus and plan.masks else None,
        "parameters": parameter_count(folder),
        "forward_ms": forward_time(predictor),
        "training_minutes": facts["minutes"],
        "code": [by["code"] for by in (facts, *facts.get("resumed_by", []))],
    }


def _focus(predictor: Predictor, cases: Sequence[Case], masks: Place) -> dict[str, Any]:
    """The energy of each view's maps inside the evidence, case by case, and whose cases they are."""
    energy = focus_of(predictor, cases, mask_files(masks, list(predictor.specs)))
    return {"patients": [case.patient_id for case in cases], "energy": energy}


def sampled(cases: Sequence[Case], plan: ComparisonPlan) -> list[Case]:
    """The same `plan.sample` test cases for every row, in the table's order."""
    return drawn_cases(cases, plan.sample, [])


def _test_cases(plan: ComparisonPlan, config: Config, held: Sequence[Case]) -> list[Case]:
    """The labelled test cases, or those held out, that every row can answer; with every view of the plan's base."""
    table = plan.test or config.data.table
    if plan.test is not None:
        return answerable(plan, tested_part(plan, table))
    wanted = {case.case_id for case in held}
    every = _cases_of(plan, table)
    return answerable(plan, [case for case in every if case.case_id in wanted])


def answerable(plan: ComparisonPlan, cases: Sequence[Case]) -> list[Case]:
    """Those cases that every row can answer: with an image of one of its views."""
    needs = [row.views or tuple(plan.data.views) for row in plan.rows.values()]
    return [case for case in cases if all(any(map(case.views.get, views)) for views in needs)]


def tested_part(plan: ComparisonPlan, table: Place) -> list[Case]:
    """The labelled cases of a table of test cases; of one with parts those of its test part."""
    cases = _cases_of(plan, table)
    part = "test" if any(case.split is not None for case in cases) else None
    return [case for case in cases if case.label is not None and case.split == part]


def _cases_of(plan: ComparisonPlan, table: Place) -> list[Case]:
    """The cases of a table with every view of the plan's base."""
    return read_cases(table, views=list(plan.data.views), data_root=plan.data.data_root)


def labelled_cases(plan: ComparisonPlan) -> dict[Place, list[Case]]:
    """The labelled cases of each table that figures are on, those that some row cannot answer among them."""
    if plan.test is None:
        used = {None, *plan.data.validation, *(plan.data.train if plan.folds else ())}
        cases = [case for case in own_cases(plan.data) if case.label is not None and case.split in used]
        own = {plan.data.table: cases}
    else:
        own = {plan.test: tested_part(plan, plan.test)}
    return own | ({plan.external: tested_part(plan, plan.external)} if plan.external else {})


def _check_unseen(plan: ComparisonPlan) -> None:
    """No test case, here or of another site, shows an image that a row is trained or validated on.

    Nor, here, is it of such a patient; another site may have given the same id to another patient.
    """
    tables = [table for table in (plan.test, plan.external) if table is not None]
    if not tables:
        return
    used = {*plan.data.train, *plan.data.validation, "calibration"}
    known = [case for case in own_cases(plan.data) if case.split in used]
    images, patients = set().union(*image_fingerprints(known).values()), {case.patient_id for case in known}
    for table in tables:
        cases = answerable(plan, tested_part(plan, table))
        prints = image_fingerprints(cases)
        for kind, shared in (
            ("image", [case for case in cases if not images.isdisjoint(prints[case.case_id])]),
            ("patient", [case for case in cases if table == plan.test and case.patient_id in patients]),
        ):
            if shared:
                where = f"{table}: row {shared[0].row}, case {shared[0].case_id}: its {kind}"
                raise ConfigError(
                    f"{where} is one of those that the networks are trained, validated or calibrated on "
                    f"({len(shared)} such cases). Give other test cases."
                )
        if not cases:
            raise ConfigError(f"{table}: has no labelled case of the part test that every row can answer.")


def _check_classes(plan: ComparisonPlan, source: str) -> None:
    """Every row learns the same classes, also one of fewer views, which may have no case of a rare one."""
    learnt: dict[str, set[str]] = {}
    for row in (name for name, own in plan.rows.items() if not own.mean_of):
        data = plan.config(row, plan.seeds_of(row)[0], source).data
        used, cases = {*data.train, *(data.validation if plan.folds else ())}, own_cases(data)
        parted = any(case.split is not None for case in cases)
        learnt[row] = {case.label for case in cases if case.label is not None and (case.split in used or not parted)}
    for row, classes in learnt.items():
        if lacking := sorted(set().union(*learnt.values()) - classes):
            raise ConfigError(
                f"{source}: row {row!r} has no training case of {', '.join(lacking)} with an image of its views: it "
                "would learn other classes than the others. Add such cases, or leave the class out."
            )


def _fitted_on(config: Config, held: Sequence[Case]) -> list[Case]:
    """The labelled cases that a temperature is fitted on: those of the calibration part, else those held out.

    A calibration part that the networks are trained or validated on is none.
    """
    if "calibration" in (*config.data.train, *config.data.validation):
        return list(held)
    calibration = [case for case in own_cases(config.data) if case.label is not None and case.split == "calibration"]
    return calibration or list(held)


def _made(on: str, cases: Sequence[Case], plan: ComparisonPlan) -> tuple[Sequence[Case], Change | None]:
    """The cases of a set, and what is done to their images."""
    if on == EXTERNAL and plan.external is not None:
        return answerable(plan, tested_part(plan, plan.external)), None
    if on.startswith(ONLY):
        view = on.removeprefix(ONLY)
        return [case.with_views(view) for case in cases if case.views.get(view)], None
    if on == CORRUPTED:
        # Of all views, also for a row of fewer: which are made worse must not depend on the row.
        kinds = {view: own.kind for view, own in plan.data.views.items()}
        return sampled(cases, plan), changer(Setting(tuple(kinds)), kinds, seed=0)
    return cases, None


def _asked(predictor: Predictor, cases: Sequence[Case], change: Change | None = None) -> Answers:
    return answers_of(whole(predict_cases(predictor, cases, change=change)), predictor.classes)
