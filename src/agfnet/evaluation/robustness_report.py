"""Robustness as Markdown, CSV, JSON and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from agfnet.data.tablewrite import write_table
from agfnet.evaluation.canvas import GREY, canvases, line, save
from agfnet.evaluation.corruptions import SEVERITIES
from agfnet.evaluation.summary import cell, figure_text, table_line
from agfnet.files import write_json, write_text
from agfnet.types import RESEARCH_USE


def write_robustness(made: Mapping[str, Any], folder: Path) -> None:
    """Write `robustness.json`, `.md`, `.csv`, and one picture for each group of views.

    Args:
        made: from `robustness`.
        folder: where they go.
    """
    write_json(folder / "robustness.json", made)
    write_text(folder / "robustness.md", f"{robustness_markdown(made)}\n")
    write_table(_flat(made).with_columns(notice=pl.lit(RESEARCH_USE)), folder / "robustness.csv")
    for group in made["groups"]:
        robustness_picture(made, group, folder / f"robustness-{group.replace(' ', '')}.png")


def _of_group(made: Mapping[str, Any], group: str) -> dict[str, list[Mapping[str, Any]]]:
    """Corruption -> its settings, mildest first."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for entry in made["settings"]:
        if " + ".join(entry["views"]) == group:
            rows.setdefault(entry["corruption"], []).append(entry)
    return rows


def _points(entry: Mapping[str, float | None]) -> str:
    return figure_text(entry, ".1f", times=100)


def _ece(own: Mapping[str, Any]) -> str:
    return f"{own['ece']:.3f} ({own['ece_if_calibrated']:.3f})"


def _group_row(name: str, own: Mapping[str, Any], fall: str) -> str:
    return (
        f"| {name} | {own['cases']} | {_points(own['balanced_accuracy'])} | {fall} | {own['nll']['value']:.3f} "
        f"| {_ece(own)} | {100 * own['overconfidence']:+.1f} |"
    )


def robustness_markdown(made: Mapping[str, Any]) -> str:
    """Means over corruptions and severities, balanced accuracy of every corruption by severity, and the notes."""
    lines = [
        table_line(made),
        "",
        (
            f"{made['cases']} cases of {made['patients']} patients, of which those with an image of a view that is "
            "made worse; in brackets 95 % intervals over patients. "
            "ECE: in brackets that of a calibrated model. Overconfidence: mean confidence minus accuracy, points."
        ),
        "",
        "| Images | Cases | Balanced accuracy, % | Fall from clean, points | NLL | ECE | Overconfidence |",
        "|---|---|---|---|---|---|---|",
        _group_row("as they are", made["clean"], "–"),
        *(_group_row(f"{group} corrupted, mean", own, _points(own["fall"])) for group, own in made["groups"].items()),
    ]
    for group in made["groups"]:
        lines += [
            "",
            f"Balanced accuracy, %, {group} corrupted, by severity:",
            "",
            "| Corruption | " + " | ".join(map(str, SEVERITIES)) + " |",
            "|---" * (1 + len(SEVERITIES)) + "|",
        ]
        for corruption, entries in _of_group(made, group).items():
            values = [f"{100 * e['balanced_accuracy']['value']:.1f}" for e in entries]
            lines.append(f"| {corruption} | {' | '.join(values)} |")
    return "\n".join([*lines, "", *(f"- {cell(note)}" for note in made["notes"])])


def _flat(made: Mapping[str, Any]) -> pl.DataFrame:
    rows = [{"views": "", "corruption": "clean", "severity": 0, **_columns(made["clean"])}]
    rows += [
        {"views": "+".join(e["views"]), "corruption": e["corruption"], "severity": e["severity"], **_columns(e)}
        for e in made["settings"]
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _columns(entry: Mapping[str, Any]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            out |= {name if end == "value" else f"{name}_{end}": number for end, number in value.items()}
        elif isinstance(value, int | float):
            out[name] = value
    return out


def robustness_picture(made: Mapping[str, Any], group: str, path: Path) -> None:
    """Balanced accuracy, and below it overconfidence, against severity, a line for each corruption.

    Args:
        made: from `robustness`.
        group: which views are corrupted, a key of `groups`.
        path: where the PNG goes.
    """
    figure, (upper, lower) = canvases(height=8.4, ratios=(2, 1))
    clean = made["groups"][group]["clean"]
    severities: Sequence[int] = (0, *SEVERITIES)
    for number, (corruption, entries) in enumerate(_of_group(made, group).items()):
        style = line(number)
        values = [100 * clean["balanced_accuracy"], *(100 * e["balanced_accuracy"]["value"] for e in entries)]
        upper.plot(severities, values, marker="o", markersize=4, label=corruption, **style)
        lower.plot(
            severities, [100 * e["overconfidence"] for e in (clean, *entries)], marker="o", markersize=4, **style
        )
    upper.axhline(100 * clean["balanced_accuracy"], color=GREY, linewidth=1, linestyle=(0, (2, 3)))
    lower.axhline(0.0, color=GREY, linewidth=1, linestyle=(0, (2, 3)))
    upper.set_ylabel("Balanced accuracy, %")
    upper.set_title(f"Corrupted: {group} ({made['groups'][group]['cases']} cases)")
    upper.legend(fontsize=10, ncols=2)
    lower.set_ylabel("Overconfidence, points")
    lower.set_xlabel("Severity (0: images as they are)")
    save(figure, path)
