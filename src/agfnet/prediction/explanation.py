"""Why a case was diagnosed so: where the evidence lies in each view, and each view's share in the decision."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.files import read_json, write_atomically, write_json
from agfnet.prediction.output import NOT_CALIBRATED, percent, stated_prevalence
from agfnet.prediction.overlay import Row, overlay, positive_part, sheet, spread
from agfnet.prediction.predictor import Array, Frames, Look, Predictor
from agfnet.types import RESEARCH_USE, Case, ConfigError, ImageError, Prediction, Warned

log = logging.getLogger("agfnet")


@dataclass(frozen=True, slots=True)
class Explanation:
    """An explained prediction.

    Attributes:
        prediction: with maps.
        shares: present modality -> its Shapley value on the log-odds of the likeliest class; together they lead from
            the log-odds of knowing nothing to those of the prediction.
        baseline: the log-odds of that class without any view.
        frames: present modality -> (H, W, 3) the network's input before normalisation, of the view's first image.
        heat: present modality -> (H, W) class evidence of the frame's pixels, 0 to 1 over the view's largest.
        mm_per_pixel: present modality -> scale of the frame, or None where it is not known.
        images: present modality -> how many images of it were judged.
        missing: the network's modalities that were not there.
        coverage: of the diagnosis sets; None from a bundle that is not calibrated.
        prevalence: CLASS=SHARE by commas that the answer is for, where one is stated.
    """

    prediction: Prediction
    shares: Mapping[str, float]
    baseline: float
    frames: Mapping[str, NDArray[np.uint8]]
    heat: Mapping[str, NDArray[np.float32]]
    mm_per_pixel: Mapping[str, float | None]
    images: Mapping[str, int]
    missing: tuple[str, ...]
    coverage: float | None
    prevalence: str | None = None


def log_odds(p: float) -> float:
    """ln(p / (1 - p)), with p kept within 1e-9 of 0 and 1."""
    kept = min(max(p, 1e-9), 1.0 - 1e-9)
    return math.log(kept / (1.0 - kept))


def shapley(values: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Exact Shapley values of views from the value of every set of them (Shapley 1953).

    >>> shares = shapley({frozenset(): 0.0, frozenset("a"): 1.0, frozenset("b"): 2.0, frozenset("ab"): 5.0})
    >>> shares["a"], shares["b"]
    (2.0, 3.0)
    """
    players = sorted(frozenset().union(*values))
    n = len(players)
    shares = dict.fromkeys(players, 0.0)
    for player in players:
        others = [p for p in players if p != player]
        for size in range(n):
            weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
            for chosen in combinations(others, size):
                before = frozenset(chosen)
                shares[player] += weight * (values[before | {player}] - values[before])
    return shares


def explain(predictor: Predictor, case: Case) -> Explanation:
    """Explain one case: one question for each set of its views.

    Raises:
        ImageError: an image cannot be read.
    """
    frames = predictor.frames(case)
    answers = {chosen: predictor.ask(own) for chosen, own in questions(predictor, frames).items()}
    return explained(predictor, frames, answers, case_id=case.case_id)


def questions(predictor: Predictor, frames: Frames) -> dict[frozenset[str], list[Look]]:
    """The looks at every set of the views that are there, the empty one left out."""
    return {
        frozenset(chosen): predictor.looks({view: frames[view] for view in chosen})
        for size in range(1, len(frames) + 1)
        for chosen in combinations(frames, size)
    }


def explained(
    predictor: Predictor,
    frames: Frames,
    answers: Mapping[frozenset[str], Mapping[str, Array]],
    *,
    case_id: str = "",
) -> Explanation:
    """The explanation, from the answers to `questions`.

    "No view" has the prevalence that is stated, or else that of the training cases (see `Bundle.prior`).

    Args:
        predictor: that was asked.
        frames: the views' images.
        answers: set of views -> the outputs for its looks.
        case_id: the case.
    """
    prediction = predictor.conclude(
        tuple(frames), answers[frozenset(frames)], case_id=case_id, maps=True, warnings=predictor.warned(frames)
    )
    top = int(prediction.probabilities.argmax())
    nothing = log_odds(float(predictor.prior[top]))
    values = {frozenset[str](): nothing}
    for chosen, own in answers.items():
        values[chosen] = log_odds(float(predictor.conclude(tuple(chosen), own).probabilities[top]))
    first = {view: own[0].pixels for view, own in frames.items()}
    return Explanation(
        prediction=prediction,
        shares=shapley(values),
        baseline=nothing,
        frames=first,
        heat={view: spread(positive_part(prediction.evidence[view], top), first[view].shape[:2]) for view in first},
        mm_per_pixel={view: own[0].mm_per_pixel for view, own in frames.items()},
        images={view: len(own) for view, own in frames.items()},
        missing=tuple(view for view in predictor.specs if view not in frames),
        coverage=_coverage(predictor),
        prevalence=stated_prevalence(predictor),
    )


def _coverage(predictor: Predictor) -> float | None:
    return None if predictor.decision is None else predictor.decision.coverage


def set_says(coverage: float | None) -> str:
    """What a reader must know of a diagnosis set of this coverage, or of there being none."""
    if coverage is None:
        return NOT_CALIBRATED
    return f"diagnosis set ({100.0 * coverage:g} %; others are not excluded)"


def explanation_sheet(explanation: Explanation, classes: tuple[str, ...], heading: str = "") -> Image.Image:
    """The explanation as one picture with a legend.

    Args:
        explanation: from `explain`.
        classes: their names.
        heading: a line above, such as the case and its diagnosis.
    """
    p = explanation.prediction
    top = int(p.probabilities.argmax())
    lines = [heading] if heading else []
    lines.append(f"{classes[top]}: {percent(float(p.probabilities[top]))}")
    if p.diagnosis_set is None or p.referred is None:
        lines.append(set_says(None))
    else:
        lines.append(f"{set_says(explanation.coverage)}: {', '.join(classes[k] for k in p.diagnosis_set)}")
        lines.append(f"refer: {'; '.join(map(str, p.referred))}" if p.referred else "answered")
    if explanation.missing:
        lines.append(f"missing: {', '.join(explanation.missing)}")
    lines += [f"note: {warned}" for warned in p.warnings]
    if explanation.prevalence is not None:
        lines.append(f"as if diagnoses were so frequent: {explanation.prevalence}")
    rows = []
    for view in p.views_present:
        own = p.view_probabilities[view]
        count = explanation.images[view]
        caption = (
            f"{view}{f', image 1 of {count}' if count > 1 else ''}: share {explanation.shares[view]:+.2f} log-odds; "
            f"alone it says {classes[int(own.argmax())]} ({percent(float(own.max()))})"
        )
        scale = explanation.mm_per_pixel[view]
        rows.append(
            Row(caption, explanation.frames[view], overlay(explanation.frames[view], explanation.heat[view]), scale)
        )
    return sheet(rows, lines, RESEARCH_USE)


_ENDINGS = (".png", "-report.dcm", "-overlay.dcm")
_OF_A_CASE = re.compile(rf"\.?(?P<name>\d{{4,}}({'|'.join(map(re.escape, _ENDINGS))}))(\.\w+\.tmp)?")
"""A file of a case, or what is left of one that was being written."""
Also = Callable[[Explanation, Case, Path], list[Path]]
"""What else is written of a case: its explanation, itself, and folder and start of the files' names to the files."""


class Written(NamedTuple):
    """What was written of cases.

    Attributes:
        files: of the cases, and the listing.
        left_out: ids of the cases that could not be read.
        warnings: of the others' images.
    """

    files: list[Path]
    left_out: list[str]
    warnings: list[Warned]


def explain_cases(
    predictor: Predictor, cases: Sequence[Case], folder: Path, *, also: Also | None = None, skip_bad: bool = False
) -> Written:
    """Write a sheet for each case, and `explanations.json` with every share; those of an earlier call go.

    Args:
        predictor: that is asked.
        cases: the cases.
        folder: for the files.
        also: writes further files of a case.
        skip_bad: say which cases have unreadable images, and go on.

    Raises:
        ImageError: an image cannot be read and `skip_bad` is off.
        ConfigError: the folder holds explanations by another network, or by this one before it was calibrated, or files
            of other origin under the names of explanations.
    """
    listing = folder / "explanations.json"
    _make_room(listing, predictor.bundle.sha256)
    coverage = _coverage(predictor)
    told: list[dict[str, Any]] = []
    unfinished: list[str] = []
    made = Written([], [], [])

    def write_listing() -> None:
        head = {
            "notice": RESEARCH_USE,
            "bundle_sha256": predictor.bundle.sha256,
            "prevalence": stated_prevalence(predictor),
            "coverage": coverage,
            "calibration": set_says(coverage),
        }
        write_json(listing, {**head, "cases": told, "left_out": made.left_out, "unfinished": unfinished})

    for number, case in enumerate(cases, start=1):
        # Numbered: an id may hold what a file name must not. Listed first: a call that is stopped leaves no other file.
        stem = folder / f"{number:04d}"
        unfinished.append(stem.name)
        write_listing()
        try:
            explanation = explain(predictor, case)
            further = also(explanation, case, stem) if also else []
        except ImageError as error:
            if not skip_bad:
                raise ImageError(f"row {case.row}, case {case.case_id}: {error}") from error
            log.warning("row %d, case %s: %s", case.row, case.case_id, error)
            made.left_out.append(case.case_id)
            continue
        heading = f"case {case.case_id}" + (f", diagnosis {case.label}" if case.label else "")
        page = explanation_sheet(explanation, predictor.classes, heading)
        picture = stem.with_suffix(".png")
        write_atomically(picture, partial(page.save, format="PNG"))
        files = {"picture": picture.name, "dicom": [other.name for other in further]}
        told.append({"case_id": case.case_id, **files, **_told(explanation, predictor.classes)})
        unfinished.pop()
        made.files.extend([picture, *further])
        made.warnings.extend(explanation.prediction.warnings)
    write_listing()
    if made.left_out:
        log.warning(
            "%d of %d cases could not be explained; see `left_out` in %s", len(made.left_out), len(cases), listing
        )
    made.files.append(listing)
    return made


def _make_room(listing: Path, bundle_sha256: str) -> None:
    """Delete the files that an earlier call listed: beside one of this call's one would be taken for the same case's.

    Raises:
        ConfigError: see `explain_cases`.
    """
    folder, listed = listing.parent, set[str]()
    if listing.exists():
        before = read_json(listing, "bundle_sha256", "cases", "unfinished")
        if before["bundle_sha256"] != bundle_sha256:
            raise ConfigError(f"{folder}: holds explanations by another network; choose another folder.")
        listed = {name for case in before["cases"] for name in (case["picture"], *case["dicom"])}
        listed |= {number + ending for number in before["unfinished"] for ending in _ENDINGS}
    found = [match for file in folder.glob("*") if (match := _OF_A_CASE.fullmatch(file.name))]
    for match in found:
        if match["name"] not in listed:
            raise ConfigError(
                f"{folder / match[0]}: is no explanation of an earlier call, and would be lost; choose another folder."
            )
    for match in found:
        (folder / match[0]).unlink()


def _told(explanation: Explanation, classes: Sequence[str]) -> dict[str, Any]:
    """The explanation as JSON."""
    p = explanation.prediction
    return {
        "prediction": classes[int(p.probabilities.argmax())],
        "probability": float(p.probabilities.max()),
        "diagnosis_set": None if p.diagnosis_set is None else [classes[k] for k in p.diagnosis_set],
        "referred": None if p.referred is None else bool(p.referred),
        "refer_reasons": None if p.referred is None else [str(reason) for reason in p.referred],
        "views_missing": list(explanation.missing),
        "warnings": [str(warned) for warned in p.warnings],
        "log_odds_without_a_view": explanation.baseline,
        "shares": dict(explanation.shares),
        "images": dict(explanation.images),
    }
