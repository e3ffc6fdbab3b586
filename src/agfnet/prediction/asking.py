"""Predictions for the command line: of a table, or of files named one by one."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

import polars as pl

from agfnet.data.doubts import letters
from agfnet.data.imagefile import MM_PER_PIXEL_RANGE, scale_of
from agfnet.data.locate import inside
from agfnet.data.table import infer_views, read_cases, say_scales
from agfnet.data.tablewrite import write_table
from agfnet.places import place, shown
from agfnet.prediction.output import NOT_CALIBRATED, outcome_table, told
from agfnet.prediction.predictor import Change, Outcome, Predictor
from agfnet.types import Case, ConfigError, Place, TableError, Warned

log = logging.getLogger("agfnet")
SCALES_ARE_IN_THE_TABLE = "--mm-per-pixel is for --view. A TABLE has the columns <view>_mm_per_pixel."


def cases_of(table: Place, predictor: Predictor, *, data_root: Place | None = None) -> list[Case]:
    """The cases of a table, with those view columns of the bundle that it has; the others are absent everywhere.

    What a reader must know of them is in the log.
    """
    known = list(predictor.specs)
    cases = read_cases(table, views=lambda frame: views_there(frame, known, table), data_root=data_root)
    say_scales(cases, predictor.specs)
    return cases


def views_there(frame: pl.DataFrame, known: Sequence[str], table: Place) -> list[str]:
    """Those views of a network that a table has a column for; all of them where it has none.

    What is absent is in the log, with the columns of images that may be meant.

    Raises:
        TableError: a column differs from an absent view in capitals or signs alone.
    """
    views = [m for m in known if m in frame.columns]
    absent = [m for m in known if m not in views]
    others = [column for column in frame.columns if column not in known]
    for view in absent:
        if meant := [column for column in others if letters(column) == letters(view)]:
            raise TableError(f"{table}: there is no column {view}, but {meant[0]}. Rename it to {view}.")
    images = [column for column in infer_views(frame) if column in others]
    if absent and (views or images):
        hint = f"; if {' or '.join(images)} is one of them, rename it" if images else ""
        log.warning("%s: no column %s; these views are absent in every case%s", table, ", ".join(absent), hint)
    return views or list(known)


def say_uncalibrated(predictor: Predictor) -> None:
    """Warn where nothing was fitted on calibration cases."""
    if predictor.decision is None:
        log.warning("the bundle is %s. `agfnet calibrate` fits all of it.", NOT_CALIBRATED)


def say_unscaled(predictor: Predictor, warnings: Iterable[Warned]) -> None:
    """Warn of images of `--view` without a scale, in views that the network sees at a fixed one.

    Unlike those of a table they are known to have none only once they are read: a file may have its own.
    """
    for warned in warnings:
        if warned.code == "no-scale":
            log.warning(
                "--view %s: an image has no scale. The network sees this view at %g mm per pixel; the image is fitted "
                "to its frame whatever it measures, and may be misjudged. Add --mm-per-pixel %s=MM.",
                warned.view, predictor.specs[warned.view].mm_per_pixel, warned.view,
            )  # fmt: skip


def predict_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    *,
    batch_size: int = 16,
    change: Change | None = None,
) -> list[Outcome]:
    """Every outcome, with progress in the log; for the options see `Predictor.predict`."""
    outcomes = []
    for outcome in predictor.predict(cases, batch_size=batch_size, change=change):
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
    scales: Sequence[str] = (),
) -> tuple[Predictor, list[Case]]:
    """The predictor, and the cases of a table, or the one of `modality=file` arguments (a modality may come again).

    Args:
        source: a run folder or a bundle.
        table: the cases.
        views: in its place, the images of one case.
        threads: processor threads.
        provider: what computes.
        data_root: the folder that every image must lie in.
        prevalence: see `parse_prevalence`.
        scales: `modality=mm` per pixel of the images of `views`.

    Raises:
        ConfigError: not exactly one of table and views, an argument of another form, an unknown modality, a file that
            is given twice or lies outside the data root, or a scale with a table or out of range.
    """
    if (table is None) == (not views):
        raise ConfigError("give either a TABLE or --view MODALITY=FILE, once for each view.")
    if table is not None and scales:
        raise ConfigError(SCALES_ARE_IN_THE_TABLE)
    predictor = Predictor(source, threads=threads, provider=provider, prevalence=parse_prevalence(prevalence))
    say_uncalibrated(predictor)
    if table is not None:
        return predictor, cases_of(table, predictor, data_root=data_root)
    files: dict[str, tuple[Place, ...]] = {}
    for argument in views:
        modality, file = _of_modality("--view", argument, "clinical=photo.jpg", predictor)
        where = place(file) if data_root is None else inside(file, data_root)
        if shown(str(where)) != str(where):
            raise ConfigError(f"--view {modality}={shown(str(where))}: its path is not UTF-8. Rename file and folder.")
        if any(where in own for own in files.values()):
            raise ConfigError(f"--view {modality}={where}: this file was given already. Give each image once.")
        files[modality] = (*files.get(modality, ()), where)
    known = _scales(scales, predictor)
    if alone := known.keys() - files.keys():
        raise ConfigError(f"--mm-per-pixel {min(alone)}: there is no --view {min(alone)}.")
    return predictor, [Case(case_id="1", patient_id="1", row=1, views=files, mm_per_pixel=known)]


def _of_modality(option: str, argument: str, example: str, predictor: Predictor) -> tuple[str, str]:
    """The two sides of a `modality=value` argument."""
    modality, _, value = argument.partition("=")
    if not value:
        raise ConfigError(f"{option} {str(place(argument))!r} is not of the form modality=value, such as {example}.")
    if modality not in predictor.specs:
        raise ConfigError(f"{option}: the network knows {', '.join(predictor.specs)}, not {modality!r}.")
    return modality, value


def _scales(arguments: Sequence[str], predictor: Predictor) -> dict[str, float]:
    low, high = MM_PER_PIXEL_RANGE
    made: dict[str, float] = {}
    for argument in arguments:
        modality, value = _of_modality("--mm-per-pixel", argument, "ultrasound=0.05", predictor)
        scale = scale_of(value)
        if scale is None:
            raise ConfigError(f"--mm-per-pixel {argument!r}: give millimetres per pixel, {low} to {high}.")
        if modality in made:
            raise ConfigError(
                f"--mm-per-pixel {modality}: was given already, and is the scale of all images of the view. Make them "
                "of one scale, or take DICOM files, which state their own."
            )
        made[modality] = scale
    return made


_SHARE = re.compile(r"\s*(.+?)\s*=\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(?:,|$)", re.IGNORECASE)


def parse_prevalence(text: str | None) -> dict[str, float] | None:
    """Class -> share from CLASS=SHARE by commas, which may also stand in a class's name; None of None.

    Raises:
        ConfigError: it is not of that form.

    >>> parse_prevalence("carcinoma, basal cell=0.25,naevus=0.75")
    {'carcinoma, basal cell': 0.25, 'naevus': 0.75}
    """
    if text is None:
        return None
    parts = [(name, float(share)) for name, share in _SHARE.findall(text)]
    if _SHARE.sub("", text) or not parts:
        raise ConfigError(f"--prevalence {text!r} is not of the form naevus=0.9,melanoma=0.1.")
    if len(dict(parts)) < len(parts):
        raise ConfigError(f"--prevalence {text!r} names a class twice. Give one share for each.")
    return dict(parts)


def show(
    predictor: Predictor, outcomes: Sequence[Outcome], output: Path | None, screen: TextIO, *, like: Place | None = None
) -> int:
    """Write the outcomes to a table, or as CSV to the screen; returns how many have an error.

    A single one is told in words where the screen is a person's. A CSV is written like the table that was asked about.
    """
    if output is None:
        in_words = len(outcomes) == 1 and screen.isatty()
        screen.write(told(outcomes[0], predictor) if in_words else outcome_table(outcomes, predictor).write_csv())
    else:
        write_table(outcome_table(outcomes, predictor), output, like=like)
        log.info("%s: %d cases", output, len(outcomes))
    return sum(o.error is not None for o in outcomes)
