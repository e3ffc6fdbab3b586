"""A checklist in the style of TRIPOD+AI (2024) and CLAIM (2024), filled in as far as a run allows.

The items are this project's short wording of what those statements ask for; where the run cannot know, it says who must
fill it in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agfnet.evaluation.summary import figure_text

OPEN = "To be filled in by the authors of the study."


def checklist(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Item and answer, in order.

    Args:
        facts: from `report_facts`.
    """
    card, cohort, run = facts["card"], facts["cohort"], facts["run"]
    parts = cohort["parts"]
    patients = ", ".join(f"{name}: {own['cases']} cases of {own['patients']} patients" for name, own in parts.items())
    calibrated = facts["calibration"]
    standard = cohort["reference_standard"]
    return [
        ("Title and abstract: study type, data, main figure with interval", OPEN),
        ("Intended use, user and place in the care pathway", f"No place in care. {facts['notice']}"),
        ("Source of data, dates, setting, eligibility", OPEN),
        ("Ethics approval, consent, registration, funding", OPEN),
        ("Reference standard", _listed(standard) if standard else f"Not in the table. {OPEN}"),
        ("Sites", _listed(cohort["site"]) if cohort["site"] else f"Not in the table. {OPEN}"),
        ("Participants in training", patients),
        (
            "Participants here",
            f"{cohort['cases']} cases of {cohort['patients']} patients; {_listed(cohort['classes'])}",
        ),
        ("Sample size rationale", OPEN),
        ("Missing data", f"Images of a view: {_listed(cohort['views'])}; left out: {_listed(card['left_out'])}"),
        (
            "Separation of the parts",
            f"Images (byte for byte) and a run's patient ids are compared with those trained on: see the notes. {OPEN}",
        ),
        ("Preprocessing", "Aspect kept, fixed frame; see `views` in the JSON for sizes and scale."),
        (
            "Model and how it combines the inputs",
            f"Fusion: {facts['fusion']}; the configuration is in the bundle (config.yaml).",
        ),
        (
            "Training procedure, hyperparameters, seed",
            f"Seed {run['run']['seed']}; configuration and versions in the JSON.",
        ),
        (
            "Selection of the final model",
            "By the configuration: fixed schedule, or early stopping on validation cases.",
        ),
        ("Measures of performance with uncertainty", f"Bootstrap over patients, {card['draws']} draws, 95 %."),
        ("Discrimination", _value(card, "macro_auc")),
        ("Calibration", _value(card, "ece") + ("" if calibrated else "; not calibrated")),
        ("Clinical utility", "See the decision curve." if facts["decision"] else "No malignant classes are named."),
        ("Fairness: subgroups", _listed_names(card["subgroups"]) or "None was asked for (--subgroup)."),
        (
            "Robustness",
            "Measured: see the section on robustness." if facts["robustness"] else "Not measured in this report.",
        ),
        ("Failure analysis", f"{len(facts['shown']['errors'])} most confident errors are shown."),
        ("Explainability", "Class evidence over each view and Shapley shares of the cases that are shown."),
        ("External validation", OPEN),
        ("Availability of model, code and data", f"Bundle SHA-256 {facts['bundle_sha256']}. {OPEN}"),
        ("Limits", "See the notes of this report."),
    ]


def _listed(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _listed_names(groups: Mapping[str, Any]) -> str:
    return ", ".join(groups)


def _value(card: Mapping[str, Any], name: str) -> str:
    return f"{name.replace('_', ' ')} {figure_text(card['metrics'][name])}"
