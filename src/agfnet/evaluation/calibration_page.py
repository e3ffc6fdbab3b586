"""What a calibration found, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agfnet.evaluation.missed import missed_text
from agfnet.evaluation.summary import cell, figure_text, table_line
from agfnet.prediction.output import percent
from agfnet.types import RESEARCH_USE

MIX = {
    "training": "the training cases' own prevalence",
    "sqrt": "the square root of the training cases' prevalence (`prediction.prevalence`)",
    "equal": "equal shares of all diagnoses (`prediction.prevalence`)",
}
"""`prediction.prevalence` -> what probabilities are for."""


def calibration_markdown(made: Mapping[str, Any], classes: Sequence[str]) -> str:
    """The figures before and after, and what was fitted.

    Args:
        made: from `agfnet.evaluation.calibrate.calibrate`.
        classes: the diagnoses.
    """
    facts = made["facts"]
    lines = [
        "# Calibration",
        "",
        f"**{RESEARCH_USE}**",
        "",
        f"{facts['cases']} cases of {facts['patients']} patients. {table_line(facts)}",
        "",
        "Before and after: probabilities for diagnoses as frequent as among these cases.",
        f"Sets, referral and missed cases: answers for {MIX[made['prevalence']]}.",
        "",
        "| Figure | Before | After (fitted on other patients) |",
        "|---|---|---|",
    ]
    for figure in ("nll", "brier", "ece", "classwise_ece"):
        cells = [figure_text(made[name][figure]) for name in ("before", "after")]
        lines.append(f"| {figure.replace('_', ' ')} | {cells[0]} | {cells[1]} |")
    lines.append(
        f"| ece of a calibrated model of this size | {made['before']['ece_if_calibrated']:.3f} "
        f"| {made['after']['ece_if_calibrated']:.3f} |"
    )
    lines += [
        "",
        (
            "Promised for new cases like these, one lesion a patient: diagnosis sets cover "
            f"{percent(made['coverage'])} of them, on average over calibrations; answers are wrong in at most "
            f"{percent(made['risk'])}, with 95 % confidence for cases of the same views. Temperatures were fitted on "
            "the same cases, which makes both a little optimistic. Cases with several views were asked with fewer, "
            "too, as a case whose other views are missing is:"
        ),
        "",
        "| Views | Cases | Temperature | Sets cover | Certainty of an answer | Answered | Wrong: answered, all |",
        "|---|---|---|---|---|---|---|",
        *(_row(views, own, classes) for views, own in made["views"].items()),
        "",
        (
            "The last two columns are of the very cases that this was fitted on: optimistic. "
            f"A stranger image, or views further apart, than in all but {facts['false_refers']:.1%} of them is handed "
            "back. Other views than these are always handed back."
        ),
        *(["", f"{missed_text(made['missed'])} On the same cases, so optimistic too."] if made["missed"] else []),
        "",
        *(f"- {note}" for note in facts["notes"]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _row(views: str, own: Mapping[str, Any], classes: Sequence[str]) -> str:
    temperature = own["temperature"]
    told = (
        f"{temperature[0]:.2f}"
        if len(temperature) == 1
        else cell(", ".join(f"{name} {t:.2f}" for name, t in zip(classes, temperature, strict=True)))
    )
    kind = "each class" if own["conformal"]["per_class"] else "all classes together"
    certainty = "never enough" if own["certainty"] > 1.0 else f"{own['certainty']:.2f}"
    wrong = ", ".join(_share(own[name]) for name in ("error_answered", "error_all"))
    cells = (views.replace(";", ", "), own["cases"], told, kind, certainty, f"{own['answered']:.0%}", wrong)
    return f"| {' | '.join(map(str, cells))} |"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
