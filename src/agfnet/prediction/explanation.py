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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.files import read_json, write_atomically, write_json
from agfnet.prediction.output import stated_prevalence
from agfnet.prediction.overlay import Row, overlay, positive_part, sheet, spread
from agfnet.prediction.predictor import Array, Frames, Look, Predictor
from agfnet.types import RESEARCH_USE, Case, ConfigError, ImageError, Prediction

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
        prevalence: CLASS=SHARE by commas that the answer is for, where one is stated.
    """

    prediction: Prediction
    shares: Mapping[str, float]
    baseline: float
    frames: Mapping[str, NDArray[np.uint8]]
    heat: Mapping[str, NDArray[np.float32]]
    mm_per_pixel: Mapping[str, float | None]
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
        prevalence=stated_prevalence(predictor),
    )


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
    lines.append(f"{classes[top]}: {p.probabilities[top]:.0%}")
    if p.diagnosis_set is not None and p.referred is not None:
        lines.append("diagnosis set: " + ", ".join(classes[k] for k in p.diagnosis_set))
        lines.append(f"refer: {'; '.join(map(str, p.referred))}" if p.referred else "answered")
    lines += [f"note: {warned}" for warned in p.warnings]
    if explanation.prevalence is not None:
        lines.append(f"as if diagnoses were so frequent: {explanation.prevalence}")
    rows = []
    for view in p.views_present:
        own = p.view_probabilities[view]
        caption = (
            f"{view}: share {explanation.shares[view]:+.2f} log-odds; alone it says {classes[int(own.argmax())]} "
            f"({own.max():.0%})"
        )
        scale = explanation.mm_per_pixel[view]
        rows.append(
            Row(caption, explanation.frames[view], overlay(explanation.frames[view], explanation.heat[view]), scale)
        )
    return sheet(rows, lines, RESEARCH_USE)


_OF_A_CASE = re.compile(r"\d{4,}(\.png|-report\.dcm|-overlay\.dcm)")
Also = Callable[[Explanation, Case, Path], list[Path]]
"""What else is written of a case: its explanation, itself, and folder and start of the files' names to the files."""


def explain_cases(
    predictor: Predictor, cases: Sequence[Case], folder: Path, *, also: Also | None = None, skip_bad: bool = False
) -> list[Path]:
    """Write a sheet for each case, and `explanations.json` with every share; those of an earlier call go.

    Args:
        predictor: that is asked.
        cases: the cases.
        folder: for the files.
        also: writes further files of a case.
        skip_bad: say which cases have unreadable images, and go on.

    Returns:
        The files.

    Raises:
        ImageError: an image cannot be read and `skip_bad` is off.
        ConfigError: the folder holds explanations by another network, or by this one before it was calibrated, or files
            of other origin under the names of explanations.
    """
    listing = folder / "explanations.json"
    there = [file for file in folder.iterdir() if _OF_A_CASE.fullmatch(file.name)] if folder.is_dir() else []
    if listing.exists():
        if read_json(listing, "bundle_sha256")["bundle_sha256"] != predictor.bundle.sha256:
            raise ConfigError(f"{folder}: holds explanations by another network; choose another folder.")
        for file in there:  # beside one of these calls' it would be taken for the same case's
            file.unlink()
    elif there:
        raise ConfigError(
            f"{there[0]}: is no explanation of an earlier call, and would be lost; choose another folder."
        )
    told: list[dict[str, Any]] = []
    files: list[Path] = []

    def write_listing() -> None:
        head = {"bundle_sha256": predictor.bundle.sha256, "prevalence": stated_prevalence(predictor)}
        write_json(listing, {"notice": RESEARCH_USE, **head, "cases": told})

    write_listing()
    for number, case in enumerate(cases, start=1):
        # Numbered: an id may hold what a file name must not.
        file = folder / f"{number:04d}.png"
        try:
            made = explain(predictor, case)
            further = also(made, case, file.with_suffix("")) if also else []
        except ImageError as error:
            if not skip_bad:
                raise ImageError(f"row {case.row}, case {case.case_id}: {error}") from error
            log.warning("row %d, case %s: %s", case.row, case.case_id, error)
            continue
        p = made.prediction
        heading = f"case {case.case_id}" + (f", diagnosis {case.label}" if case.label else "")
        page = explanation_sheet(made, predictor.classes, heading)
        write_atomically(file, partial(page.save, format="PNG"))
        told.append(
            {
                "case_id": case.case_id,
                "picture": file.name,
                "dicom": [other.name for other in further],
                "prediction": predictor.classes[int(p.probabilities.argmax())],
                "probability": float(p.probabilities.max()),
                "diagnosis_set": None if p.diagnosis_set is None else [predictor.classes[k] for k in p.diagnosis_set],
                "referred": None if p.referred is None else bool(p.referred),
                "refer_reasons": None if p.referred is None else [str(reason) for reason in p.referred],
                "warnings": [str(warned) for warned in p.warnings],
                "log_odds_without_a_view": made.baseline,
                "shares": dict(made.shares),
            }
        )
        files += [file, *further]
        write_listing()
    return [*files, listing]
