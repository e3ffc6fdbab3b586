"""A scorecard as a page that is read in a minute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agfnet.metrics.scores import LOWER_IS_BETTER, TITLES
from agfnet.types import RESEARCH_USE

CALIBRATED = {
    True: "Probabilities are calibrated (`agfnet calibrate`).",
    False: "Probabilities are the network's own, not calibrated; no case is referred.",
}
_RATES = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "auc": "AUC",
}


def summary_markdown(card: Mapping[str, Any]) -> str:
    """The scorecard as Markdown, about one screen.

    Args:
        card: from `scorecard`, or read back from its JSON.

    Returns:
        Markdown with the research-use notice, the figures with their intervals, and the notes.
    """
    lines = [
        "# Scorecard",
        "",
        f"**{RESEARCH_USE}**",
        "",
        (
            f"{card['n_cases']} cases of {card['n_patients']} patients. In brackets: "
            f"{100 * card['level']:.0f} % interval, bootstrap over patients, {card['draws']} draws."
        ),
        *([CALIBRATED[card["calibrated"]]] if "calibrated" in card else []),
        *([table_line(card)] if "table" in card else []),
        "",
        "| Figure | Value |",
        "|---|---|",
        *(f"| {title} | {text} |" for title, text in headline(card)),
        "",
        *class_table(card),
        "",
        *subgroup_tables(card),
    ]
    if card.get("further_labels"):
        lines += [
            "| Further label (not calibrated) | Cases | Accuracy | Balanced accuracy |",
            "|---|---|---|---|",
            *(
                f"| {cell(column)} | {own['n_cases']} | {figure_text(own['accuracy'])} "
                f"| {figure_text(own['balanced_accuracy'])} |"
                for column, own in card["further_labels"].items()
            ),
            "",
        ]
    return "\n".join([*lines, *(f"- {cell(note)}" for note in card["notes"])]) + "\n"


def table_line(told: Mapping[str, Any]) -> str:
    """Which cases figures are of, from what `table_facts` says."""
    return f"Of {cell(told['table'])}, part: {told['part'] or 'none'}."


def headline(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Title and text of every figure of all cases; a calibration error's beside what a calibrated model would score."""
    rows = []
    for name in TITLES:
        if name in card["metrics"]:
            text = figure_text(card["metrics"][name])
            if reference := card["calibration"]["if_calibrated"].get(name):
                text += f"; a calibrated model: {figure_text({**reference, 'value': reference['mean']})}"
            rows.append((figure_title(name), text))
    return rows


def class_table(card: Mapping[str, Any]) -> list[str]:
    """The figures of every class, as lines of Markdown."""
    return [
        f"| Class | Cases | {' | '.join(_RATES.values())} |",
        "|---|---|" + "---|" * len(_RATES),
        *(
            f"| {cell(name)} | {part['n_cases']} | {' | '.join(figure_text(part[rate]) for rate in _RATES)} |"
            for name, part in card["per_class"].items()
        ),
    ]


def subgroup_tables(card: Mapping[str, Any]) -> list[str]:
    """The figures of every subgroup, as lines of Markdown, a table for each column."""
    return [
        line
        for column, values in card["subgroups"].items()
        if values
        for line in (
            f"| {cell(column)} | Cases | Patients | Classes | Accuracy | Balanced accuracy | Macro AUC |",
            "|---|---|---|---|---|---|---|",
            *(_subgroup_row(value, part) for value, part in values.items()),
            "",
        )
    ]


def left_out_notes(left_out: Mapping[str, int], asked: int) -> list[str]:
    """A sentence for each kind of case, of so many that were asked about, that no figure is of.

    Args:
        left_out: `unlabelled` and `unreadable` -> number of cases.
        asked: how many cases there were.
    """
    return [
        f"{left_out[kind]} of {asked} cases {why}: no figure is of them."
        for kind, why in (("unlabelled", "have no label"), ("unreadable", "have images that cannot be read"))
        if left_out[kind]
    ]


def cell(text: str) -> str:
    """Names come from the user's table: a bar in one would break the row."""
    return text.replace("|", "\\|").replace("\n", " ")


def figure_text(entry: Mapping[str, float | None], form: str = ".3f", *, times: float = 1.0, unit: str = "") -> str:
    """A figure with its interval, for people.

    Args:
        entry: `value`, `low` and `high`; None where they are not defined.
        form: of the numbers.
        times: what they are multiplied by: 100 for percent.
        unit: after the value.
    """
    value, low, high = (entry[end] for end in ("value", "low", "high"))
    if value is None:
        return "not defined"
    ends = "no interval" if low is None or high is None else f"{times * low:{form}} to {times * high:{form}}"
    return f"{times * value:{form}}{unit} ({ends})"


def figure_title(name: str) -> str:
    """How readers see the name of a figure of all cases."""
    return f"{TITLES[name]}{', lower is better' if name in LOWER_IS_BETTER else ''}"


def _subgroup_row(value: str, part: Mapping[str, Any]) -> str:
    names = ("accuracy", "balanced_accuracy", "macro_auc")
    figures = [figure_text(part["metrics"][name]) for name in names]
    counts = (part[f"n_{what}"] for what in ("cases", "patients", "classes"))
    return f"| {' | '.join([cell(value), *map(str, counts), *figures])} |"
