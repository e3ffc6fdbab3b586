"""A comparison as Markdown, CSV, JSON and a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from agfnet.data.tablewrite import write_table
from agfnet.evaluation.canvas import GREY, canvas, interval_line, save
from agfnet.evaluation.plan import LOWER_IS_BETTER
from agfnet.evaluation.summary import cell, figure_text
from agfnet.files import write_json, write_text
from agfnet.types import RESEARCH_USE


def write_comparison(table: Mapping[str, Any], folder: Path, notes: Sequence[str]) -> None:
    """Write `table.md`, `table.csv`, `table.json` and `forest.png`.

    Args:
        table: from `comparison_table`.
        folder: of the comparison.
        notes: what a reader must know.
    """
    write_json(folder / "table.json", {**table, "notes": notes})
    write_text(folder / "table.md", f"{comparison_markdown(table, notes)}\n")
    write_table(_flat(table).with_columns(notice=pl.lit(RESEARCH_USE)), folder / "table.csv")
    forest_picture(table, folder / "forest.png")


def _ordered(table: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows, best balanced accuracy first."""
    return sorted(table["rows"].items(), key=lambda item: -item[1]["figures"]["balanced_accuracy"]["value"])


def _flat(table: Mapping[str, Any]) -> pl.DataFrame:
    rows = []
    for name, row in _ordered(table):
        flat: dict[str, Any] = {"row": name, "seeds": row["seeds"]}
        for kind in ("figures", "difference"):
            for figure, entry in row.get(kind, {}).items():
                prefix = figure if kind == "figures" else f"difference_{figure}"
                flat |= {prefix if end == "value" else f"{prefix}_{end}": value for end, value in entry.items()}
        flat |= {key: row[key] for key in ("holm_p", "parameters", "forward_ms", "training_minutes") if key in row}
        rows.append(flat)
    return pl.DataFrame(rows, infer_schema_length=None)


def forest_picture(table: Mapping[str, Any], path: Path) -> None:
    """Differences of balanced accuracy from the reference, in points, with their intervals.

    Args:
        table: from `comparison_table`.
        path: where the PNG goes.
    """
    rows = [(name, row) for name, row in _ordered(table) if "difference" in row]
    figure, axes = canvas(height=1.8 + 0.36 * max(1, len(rows)))
    for place, (_, row) in enumerate(rows):
        interval_line(axes, place, row["difference"]["balanced_accuracy"])
    axes.axvline(0.0, color=GREY, linewidth=1.0)
    axes.set_yticks(range(len(rows)), [f"{name} ({row['seeds']})" for name, row in rows])
    axes.set_ylim(max(1, len(rows)) - 0.4, -0.6)
    axes.set_xlabel(f"Balanced accuracy, points: row minus {table['reference']} (95 % interval)")
    axes.set_title("Difference from the reference (seeds)")
    save(figure, path)


def _percent(entry: Mapping[str, float | None], *, sign: bool = False) -> str:
    return figure_text(entry, "+.1f" if sign else ".1f", times=100)


def comparison_markdown(table: Mapping[str, Any], notes: Sequence[str]) -> str:
    """The rows, the claims and the notes."""
    return "\n".join([*_rows_markdown(table), "", *_claims_markdown(table), *(f"- {cell(note)}" for note in notes)])


def _rows_markdown(table: Mapping[str, Any]) -> list[str]:
    """The comparison as a table, best balanced accuracy first."""
    reference, rows = cell(table["reference"]), _ordered(table)
    lines = [
        (
            f"{table['cases']} cases of {table['patients']} patients. Mean over seeds; in brackets the 95 % interval "
            f"over patients and, with several seeds, trainings. Difference: row minus {reference}, same cases; p "
            "adjusted by Holm."
        ),
        "",
        (
            f"| Row | Seeds | Balanced accuracy, % | Difference from {reference} | p | Macro AUC, % | NLL "
            "| Parameters, M | Forward, ms | Training, min |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows:
        figures, apart = row["figures"], row.get("difference")
        difference = _percent(apart["balanced_accuracy"], sign=True) if apart else "reference"
        p = f"{row['holm_p']:.3f}" if "holm_p" in row else ""
        lines.append(
            f"| {cell(name)} | {row['seeds']} | {_percent(figures['balanced_accuracy'])} | {difference} | {p} "
            f"| {_percent(figures['macro_auc'])} | {figures['nll']['value']:.3f} | {row['parameters'] / 1e6:.2f} "
            f"| {row['forward_ms']:.1f} | {row['training_minutes']:.1f} |"
        )
    return lines


def _claims_markdown(table: Mapping[str, Any]) -> list[str]:
    """The claims as lines of a table: what was wanted, what came out, and whether it holds."""
    if not table["claims"]:
        return []
    lines = [
        (
            "A gain is positive where the first row does better; in brackets its 95 % interval (patients and, with "
            "several seeds, trainings). A claim holds, or does not, by itself; p is that of a gain of just the bound "
            "that the interval must lie above, corrected for all claims that have one (Holm)."
        ),
        "",
        "| Claim | Figure | First | Second | Gain | Wanted | Holds | p |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in table["claims"]:
        figure = f"{claim['figure'].replace('_', ' ')}, {claim['cases']}{', seed by seed' if claim['paired'] else ''}"
        says, first, second = (cell(claim[key]) for key in ("says", "row", "than"))
        if claim["than_cases"] or claim["than_figure"]:
            second += f" ({claim['than_figure'] or claim['than_cases']})"
        if "gain" not in claim:
            lines.append(f"| {says} | {figure} | {first} | {second} | – | {_wanted(claim)} | not run yet | |")
            continue
        holds = {True: "yes", False: "**no**", None: "not defined"}[claim["holds"]]
        values = [_figure(claim, value) for value in claim["values"]]
        percent = _in_percent(claim)
        unit = " %" if claim["relative"] else ""
        gain = figure_text(claim["gain"], "+.1f" if percent else "+.3f", times=100 if percent else 1, unit=unit)
        p = f"{claim['holm_p']:.3f}" if "holm_p" in claim else ""
        lines.append(
            f"| {says} | {figure} | {first}: {values[0]} | {second}: {values[1]} | {gain} | {_wanted(claim)} "
            f"| {holds} | {p} |"
        )
    return [*lines, ""]


def _in_percent(claim: Mapping[str, Any]) -> bool:
    return claim["relative"] or claim["figure"] not in LOWER_IS_BETTER


def _figure(claim: Mapping[str, Any], value: float | None) -> str:
    if value is None:
        return "not defined"
    return f"{value:.3f}" if claim["figure"] in LOWER_IS_BETTER else f"{100 * value:.1f} %"


def _gain(claim: Mapping[str, Any], value: float) -> str:
    unit = " %" if claim["relative"] else ""
    return f"{100 * value:+.1f}{unit}" if _in_percent(claim) else f"{value:+.3f}"


def _wanted(claim: Mapping[str, Any]) -> str:
    wanted = [f"at least {_gain(claim, claim['point'])}"] if claim["point"] is not None else []
    wanted += [f"interval above {_gain(claim, claim['bound'])}"] if claim["bound"] is not None else []
    return ", ".join(wanted)
