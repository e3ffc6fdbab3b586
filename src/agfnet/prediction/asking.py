"""Predictions for the command line: of a table, or of files named one by one."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from agfnet.data.table import read_cases, say_scales, write_table
from agfnet.data.tablefile import load_table
from agfnet.places import place
from agfnet.prediction.output import outcome_table
from agfnet.prediction.predictor import Change, Outcome, Predictor
from agfnet.types import Case, ConfigError, Place

log = logging.getLogger("agfnet")


def cases_of(table: Place, predictor: Predictor, *, data_root: Place | None = None) -> list[Case]:
    """The cases of a table, with those view columns of the bundle that it has; the others are absent everywhere.

    What a reader must know of them is in the log.
    """
    raw, _ = load_table(table)
    known = list(predictor.specs)
    views = known if raw is None else [m for m in known if m in raw.frame.columns] or known
    absent = [m for m in known if m not in views]
    if absent:
        log.warning("%s: no column %s; these views are absent in every case", table, ", ".join(absent))
    cases = read_cases(table, views=views, data_root=data_root)
    say_scales(cases, predictor.specs)
    return cases


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    *,
    batch_size: int = 16,
    maps: bool = False,
    change: Change | None = None,
) -> list[Outcome]:
    """Every outcome, with progress in the log; for the options see `Predictor.predict`."""
    outcomes = []
    for outcome in predictor.predict(cases, batch_size=batch_size, maps=maps, change=change):
        outcomes.append(outcome)
        if len(outcomes) % 100 == 0:
            log.info("predicted %d of %d cases", len(outcomes), len(cases))
    return outcomes


def asked_cases(
    source: Path,
    table: Place | None,
    views: Sequence[str],
    *,
    threads: int = 0,
    provider: str = "cpu",
    data_root: Place | None = None,
    prevalence: str | None = None,
) -> tuple[Predictor, list[Case]]:
    """The predictor, and the cases of a table, or the one of `modality=file` arguments (a modality may come again).

    Raises:
        ConfigError: not exactly one of table and views, an argument of another form, an unknown modality, or a file
            given twice.
    """
    if (table is None) == (not views):
        raise ConfigError("give either a TABLE or --view MODALITY=FILE, once for each view.")
    predictor = Predictor(source, threads=threads, provider=provider, prevalence=shares(prevalence))
    if table is not None:
        return predictor, cases_of(table, predictor, data_root=data_root)
    files: dict[str, tuple[Place, ...]] = {}
    for argument in views:
        modality, sign, file = argument.partition("=")
        if not sign or not file:
            raise ConfigError(f"--view {argument!r} is not of the form modality=file, such as clinical=photo.jpg.")
        if modality not in predictor.specs:
            raise ConfigError(f"--view {argument!r}: the network knows {', '.join(predictor.specs)}, not {modality!r}.")
        if any(place(file) in own for own in files.values()):
            raise ConfigError(f"--view {argument!r}: this file was given already. Give each image once.")
        files[modality] = (*files.get(modality, ()), place(file))
    case = Case(case_id="1", patient_id="1", row=1, views=files)
    say_scales([case], predictor.specs)
    return predictor, [case]


def shares(text: str | None) -> dict[str, float] | None:
    """Class -> share from CLASS=SHARE by commas; None of None.

    Raises:
        ConfigError: it is not of that form.
    """
    if text is None:
        return None
    try:
        parts = [(name.strip(), float(share)) for name, _, share in (part.rpartition("=") for part in text.split(","))]
    except ValueError as error:
        raise ConfigError(f"--prevalence {text!r} is not of the form naevus=0.9,melanoma=0.1.") from error
    if len(dict(parts)) < len(parts):
        raise ConfigError(f"--prevalence {text!r} names a class twice. Give one share for each.")
    return dict(parts)


def show(predictor: Predictor, outcomes: Sequence[Outcome], output: Path | None, screen: TextIO) -> int:
    """Write the outcomes to a table, or as CSV to the screen; returns how many have an error."""
    frame = outcome_table(outcomes, predictor)
    if output is None:
        screen.write(frame.write_csv())
    else:
        write_table(frame, output)
        log.info("%s: %d cases", output, len(outcomes))
    return sum(o.error is not None for o in outcomes)
