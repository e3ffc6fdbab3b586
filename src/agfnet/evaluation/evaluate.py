"""Honest figures of a bundle on the cases of a table."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from agfnet.config import load_config
from agfnet.data.fingerprints import image_fingerprints, patient_fingerprint
from agfnet.data.tablefile import table_sha256
from agfnet.data.tablewrite import writable_table, write_bad_cases, write_table
from agfnet.evaluation.against import AGAINST, against, check_same_classes, write_against
from agfnet.evaluation.answers import LEAVE_OUT, answers_of, labels_of, synthetic_note, whole
from agfnet.evaluation.further import further_labels
from agfnet.evaluation.notes import other_mix_note
from agfnet.evaluation.pictures import confusion_picture, reliability_picture, roc_picture
from agfnet.evaluation.scorecard import scorecard
from agfnet.evaluation.summary import left_out_notes, summary_markdown
from agfnet.files import read_json, write_json, write_text
from agfnet.metrics.patients import DRAWS
from agfnet.prediction.asking import cases_of, parse_prevalence, predict_cases
from agfnet.prediction.bundle import read_bundle
from agfnet.prediction.output import ANSWERED_BY, outcome_table, stated_prevalence
from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.runfolder import BAD_CASES, CONFIG, FACTS
from agfnet.types import RESEARCH_USE, Case, ConfigError, ImageError, Place, TableError

log = logging.getLogger("agfnet")
PREDICTIONS = "predictions.csv"
REPORT = "report.json"
"""What `agfnet report` writes beside a scorecard."""
CHOSEN = "served to choose the epoch (early stopping): the figures are optimistic"
TO_CHOOSE = "Settings are chosen on cases of this part: figures of it are for choosing, not for confirming a claim."


def chosen_part(cases: Sequence[Case], part: str | None, *, include_test: bool, table: Place) -> list[Case]:
    """The cases of one part; test cases only where asked for.

    Where the table has parts and none is named, it is the validation part (the test part with `include_test`): figures
    on cases that were trained on mean nothing.

    Raises:
        TableError: the part is empty, or `part="test"` without `include_test`, or that with another part.
    """
    if part == "test" and not include_test:
        raise TableError(f"{table}: test cases are looked at once, at the end; say so with --include-test.")
    if include_test and part not in (None, "test"):
        raise TableError(f"{table}: the part {part} has no test cases. Leave out --include-test, or --part.")
    if part is None and any(c.split is not None for c in cases):
        part = "test" if include_test else "validation"
        log.info("%s has parts: evaluating %s cases (--part chooses)", table, part)
    kept = [c for c in cases if part is None or c.split == part]
    if not kept:
        there = ", ".join(sorted({c.split for c in cases if c.split is not None})) or "no column split"
        raise TableError(f"{table}: no case with split {part} to evaluate; there is {there}.")
    return kept


class Chosen(NamedTuple):
    """Cases to ask a network about, and what a reader of the answers must know of them, in sentences."""

    cases: list[Case]
    notes: list[str]


def chosen_cases(
    source: Path,
    predictor: Predictor,
    table: Place,
    part: str | None,
    *,
    include_test: bool,
    data_root: Place | None = None,
) -> Chosen:
    """The cases of one part of a table that have a view of the network's; see `cases_of` and `chosen_part`.

    Images and, of a run folder, patients that the network was trained on are known again whatever they are called now.

    Raises:
        TableError: no case has a view, or images were trained on and the part named is not one that was trained on.
    """
    every = chosen_part(cases_of(table, predictor, data_root=data_root), part, include_test=include_test, table=table)
    cases = [case for case in every if case.images]
    notes = synthetic_note(cases)
    if len(cases) < len(every):
        without = f"have no image of {' or '.join(predictor.specs)}"
        if not cases:
            raise TableError(f"{table}: all {len(every)} cases {without}, which the network sees.")
        notes.append(f"{len(every) - len(cases)} of {len(every)} cases {without}: they are left out.")
        log.warning("%s: %s", table, notes[-1])
    prints = image_fingerprints(cases)
    facts = predictor.bundle.facts
    config = predictor.bundle.config
    trained, chosen, fitted = (
        [case for case in cases if not prints[case.case_id].isdisjoint(known)]
        for known in map(
            set,
            (
                facts["trained_on"],
                facts["chosen_on"],
                predictor.decision.facts["fitted_on"] if predictor.decision else (),
            ),
        )
    )
    if trained and part not in config.data.train:
        raise TableError(
            f"{table}: {source} was trained on images of these cases: of {len(trained)} of {len(cases)}, such as "
            f"{trained[0].case_id} in row {trained[0].row}. The parts were made anew since, or it is a run of --folds, "
            "whose figures on cases held out are in `pooled`. Restore the table, or give cases that it has not seen; "
            "leave a view's field empty where its image only stands for a missing one."
        )
    learnt, patients = {case.case_id for case in trained}, _trained_patients(source)
    new = [case for case in cases if case.case_id not in learnt and patient_fingerprint(case.patient_id) in patients]
    for found, said in (
        (trained, "were trained on: these figures say how well they were learnt"),
        (chosen, CHOSEN),
        (fitted, "were calibrated on: calibration, coverage and referral are optimistic"),
        (new, "are new images of patient ids that were trained on: if these are the same patients, it is optimistic"),
    ):
        if found:
            notes.append(f"{len(found)} of these {len(cases)} cases {said}.")
    if any(case.split in config.data.validation for case in cases):
        notes.append(TO_CHOOSE)
    return Chosen(cases, notes)


def drawn_cases(cases: Sequence[Case], limit: int | None, notes: list[str], *, seed: int = 0) -> list[Case]:
    """At most so many of the cases, drawn with a seed, in their order; the notes then say so."""
    if limit is None or limit >= len(cases):
        return list(cases)
    notes.append(f"{limit} of {len(cases)} cases, drawn.")
    return [cases[i] for i in np.sort(np.random.default_rng(seed).permutation(len(cases))[:limit])]


def readable_cases(predictor: Predictor, cases: Sequence[Case], notes: list[str], *, skip_bad: bool) -> list[Case]:
    """The cases that can be answered, asked once, so that long work does not end at one; the notes tell how many not.

    Raises:
        ImageError: one cannot be read and `skip_bad` is off.
    """
    kept = [case for case, _ in whole(predict_cases(predictor, cases), skip_bad=skip_bad)]
    notes += left_out_notes({"unreadable": len(cases) - len(kept), "unlabelled": 0}, len(cases))
    return kept


def _trained_patients(source: Path) -> set[str]:
    """Fingerprints of the patients that a run folder was trained on; no bundle has them."""
    facts = source / FACTS
    return set(read_json(facts)["trained_patients"]) if facts.is_file() else set()


def data_of(source: Path, table: Place | None, data_root: Place | None) -> tuple[Place, Place | None]:
    """Table and data root as they were given; without a table, those that a run was trained with.

    Raises:
        ConfigError: no table, and the source is no run folder, or its table is not there.
    """
    if table is not None:
        return table, data_root
    own, root = own_data(source, "Call from the folder that the run was trained in, or name a TABLE.")
    return own, data_root or root


def own_data(source: Path, remedy: str) -> tuple[Place, Place | None]:
    """Table and data root that a run was trained with; it is in the log where the table has changed.

    Args:
        source: the run folder.
        remedy: what to do where the table is not there.

    Raises:
        ConfigError: the source is no run folder, or its table is not there.
    """
    config = source / CONFIG
    if not config.is_file():
        read_bundle(source)  # of a folder without a network, or with one for each fold, that is what is to be said
        raise ConfigError(f"{source}: is no run folder, so its table is not known; name a TABLE.")
    data = load_config(config).data
    if isinstance(data.table, Path) and not data.table.is_file():
        raise ConfigError(
            f"{config}: names the table {data.table}, which is not there as seen from {Path.cwd()}. {remedy}"
        )
    if table_sha256(data.table) != read_json(source / FACTS)["table_sha256"]:
        log.warning("%s: is not as it was when %s was trained; its parts may be others", data.table, source)
    return data.table, data.data_root


def prevalence_note(stated: str | None) -> list[str]:
    """A sentence on the prevalence that was stated or configured, if any."""
    return [] if stated is None else [f"Answers as if diagnoses were so frequent: {stated}."]


def table_facts(table: Place, cases: Sequence[Case], *, include_test: bool) -> dict[str, Any]:
    """What a scorecard says of the cases that it is of."""
    part = ", ".join(sorted({case.split for case in cases if case.split is not None})) or None
    return {"table": str(table), "table_sha256": table_sha256(table), "part": part, "include_test": include_test}


def evaluate_outcomes(
    answered: Sequence[tuple[Predictor, Sequence[Outcome]]],
    folder: Path,
    *,
    skip_bad: bool = False,
    subgroups: Sequence[str] = (),
    draws: int = DRAWS,
    facts: dict[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Scorecard, summary, predictions and pictures of outcomes with known labels, written into a folder.

    Args:
        answered: each network with what it predicted: one, or that of each fold.
        folder: what is written goes there.
        skip_bad: leave out cases that could not be read, and list them, instead of stopping.
        subgroups: columns by whose values the figures are also given.
        draws: of the bootstrap.
        facts: further entries of the scorecard.
        notes: what a reader must know first.

    Raises:
        ImageError: a case could not be read and `skip_bad` is off.
        TableError: no labelled case, or a label that the bundle does not know.
    """
    folder.mkdir(parents=True, exist_ok=True)
    predictor, outcomes = answered[0][0], [outcome for _, own in answered for outcome in own]
    bad = [o for o in outcomes if o.prediction is None]
    if bad and not skip_bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise ImageError(f"{bad[0].error}{more} {LEAVE_OUT}")
    if (folder / PREDICTIONS).exists():
        (folder / BAD_CASES).unlink(missing_ok=True)  # of an earlier call
    if bad:
        write_bad_cases([(o.case, str(o.error)) for o in bad], folder / BAD_CASES)
    answers = answers_of([(o.case, o.prediction) for o in outcomes], predictor.classes)
    kept = [o for o in outcomes if o.prediction is not None and o.case.label is not None]
    card = scorecard(
        answers.labels,
        answers.probabilities,
        answers.patients,
        predictor.classes,
        malignant=predictor.bundle.facts["malignant"] or None,
        draws=draws,
        subgroups={name: [_attribute(o.case, name) for o in kept] for name in subgroups} or None,
    )
    fitted = predictor.decision.facts["notes"] if predictor.decision else ()
    first = synthetic_note(o.case for o in kept)
    sums = [network.bundle.sha256 for network, _ in answered]
    left_out = {"unreadable": len(bad), "unlabelled": len(outcomes) - len(bad) - len(kept)}
    left = left_out_notes(left_out, len(outcomes))
    stated, *others = dict.fromkeys(stated_prevalence(network) for network, _ in answered)
    if others:
        stated = f"in each fold by its own training cases ({predictor.bundle.config.prediction.prevalence})"
    mix = other_mix_note(answers.labels, predictor.prior, predictor.classes)
    said = [*first, *notes, *prevalence_note(stated), *mix, *left]
    card["notes"] = list(dict.fromkeys([*said, *card["notes"], *fitted]))
    card |= {
        "notice": RESEARCH_USE,
        "bundle_sha256": sums[0] if len(sums) == 1 else sums,
        "calibrated": predictor.decision is not None,
        "prevalence": stated,
        "left_out": left_out,
        "further_labels": further_labels(kept, predictor.bundle.extra_classes, draws),
        "views_present": counts([";".join(o.prediction.views_present) for o in kept if o.prediction is not None]),
        **(facts or {}),
    }
    for name in AGAINST:
        (folder / name).unlink(missing_ok=True)  # of an earlier call
    labels = pl.Series("label", [o.case.label for o in outcomes], dtype=pl.String)
    rows = pl.concat([outcome_table(own, network) for network, own in answered])
    write_table(rows.insert_column(1, labels), folder / PREDICTIONS)
    write_json(folder / "scorecard.json", card)
    write_text(folder / "summary.md", summary_markdown(card))
    confusion_picture(card, folder / "confusion.png")
    roc_picture(card, folder / "roc.png")
    reliability_picture(card, folder / "reliability.png")
    return card


def evaluate(
    source: Path,
    table: Place,
    folder: Path,
    *,
    part: str | None = None,
    include_test: bool = False,
    skip_bad: bool = False,
    subgroups: Sequence[str] = (),
    draws: int = DRAWS,
    threads: int = 0,
    data_root: Place | None = None,
    prevalence: str | None = None,
    other: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a run or bundle on a table; see `evaluate_outcomes` for what is written and raised.

    `prevalence` re-weights the probabilities, see `Predictor`: CLASS=SHARE by commas. `other` is another run or bundle
    that the same cases are asked of: the files `AGAINST` hold the paired differences then (see `against`).
    """
    predictor = Predictor(source, threads=threads, prevalence=parse_prevalence(prevalence))
    cases, notes, facts = judged_cases(
        source, predictor, table, folder, part,
        include_test=include_test, subgroups=subgroups, data_root=data_root,
    )  # fmt: skip
    _check_no_other_report(
        folder, facts | {"bundle_sha256": predictor.bundle.sha256, "prevalence": stated_prevalence(predictor)}
    )
    if other is not None:
        rival = Predictor(other, threads=threads, prevalence=parse_prevalence(prevalence))
        check_same_classes(predictor, rival)
        same, told = chosen_cases(other, rival, table, part, include_test=include_test, data_root=data_root)
    outcomes = predict_cases(predictor, cases)
    card = evaluate_outcomes(
        [(predictor, outcomes)], folder, skip_bad=skip_bad, subgroups=subgroups, draws=draws, facts=facts, notes=notes
    )
    if other is not None:
        answered = [(o.case, o.prediction) for o in outcomes if o.prediction is not None]
        others = list(whole(predict_cases(rival, same), skip_bad=skip_bad))
        said = [*(f"First: {note}" for note in notes), *(f"Second: {note}" for note in told)]
        write_against(against((predictor, answered), (rival, others), draws=draws, notes=said) | facts, folder)
    return card


def judged_cases(
    source: Path,
    predictor: Predictor,
    table: Place,
    folder: Path,
    part: str | None,
    *,
    include_test: bool,
    subgroups: Sequence[str],
    data_root: Place | None,
) -> tuple[list[Case], list[str], dict[str, Any]]:
    """The cases that figures are to be of, what a reader must know of them, and `table_facts`.

    Raises:
        ConfigError: `folder` is that of a run.
        TableError: a column of subgroups has no values, no case has a label, a label is none of the network's classes,
            or `folder` holds a `PREDICTIONS` that is the table itself or another one; see also `chosen_cases`.
    """
    if (folder / FACTS).exists():
        raise ConfigError(f"{folder}: is the folder of a run, which has files of the same names. Choose one inside it.")
    cases, notes = chosen_cases(source, predictor, table, part, include_test=include_test, data_root=data_root)
    check_subgroups(cases, subgroups, table)
    labels_of([case for case in cases if case.label is not None], predictor.classes)
    writable_table(folder / PREDICTIONS, source=table, over=ANSWERED_BY)
    return cases, notes, table_facts(table, cases, include_test=include_test)


def _check_no_other_report(folder: Path, asked: dict[str, Any]) -> None:
    """Figures beside a report's page are those of the page."""
    if not (folder / REPORT).exists():
        return
    told = read_json(folder / REPORT, "card")["card"]
    if any(told.get(key) != asked[key] for key in ("bundle_sha256", "table_sha256", "part", "prevalence")):
        raise ConfigError(
            f"{folder}: holds a report on another network, other cases or another prevalence; choose another folder."
        )


def check_subgroups(cases: Sequence[Case], subgroups: Sequence[str], table: Place) -> None:
    """Refuse subgroups by a column that has no values."""
    missing = [name for name in subgroups if all(_attribute(case, name) is None for case in cases)]
    if missing:
        free = sorted({name for c in cases for name in c.attributes} | {"site", "split", "reference_standard"})
        raise TableError(f"{table}: no subgroups by {', '.join(missing)}; there are values of {', '.join(free)}.")


def _attribute(case: Case, name: str) -> str | None:
    if name in ("site", "split", "reference_standard"):
        value: str | None = getattr(case, name)
        return value
    return case.attributes.get(name)


def counts(values: Sequence[str | None]) -> dict[str, int]:
    """How often each value comes, in their order; None is no value."""
    known = [value for value in values if value is not None]
    return {value: known.count(value) for value in sorted(set(known))}
