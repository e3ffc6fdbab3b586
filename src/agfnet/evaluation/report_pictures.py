"""Pictures of a report that a scorecard alone does not have: precision-recall, decision curve, risk, coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agfnet.evaluation.canvas import GREY, canvas, interval_line, legend_below, line, save


def precision_recall_picture(curves: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Precision against recall of each class against the rest.

    Args:
        curves: class -> `precision`, `recall` (lists), `cases` and `prevalence`.
        path: where the PNG goes.
    """
    figure, axes = canvas(height=6.0 + 0.13 * len(curves))
    for number, (name, curve) in enumerate(curves.items()):
        label = f"{name} (n = {curve['cases']}, prevalence {curve['prevalence']:.2f})"
        axes.plot(curve["recall"], curve["precision"], label=label, **line(number))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
    axes.set_xlabel("Recall (sensitivity)")
    axes.set_ylabel("Precision (positive predictive value)")
    axes.set_title("Precision and recall, each class against the rest")
    legend_below(figure, axes)  # the curves go everywhere
    save(figure, path)


def decision_picture(curve: Mapping[str, Any], path: Path) -> None:
    """Net benefit of acting on suspicion of malignancy, against the threshold.

    Args:
        curve: `threshold`, `model`, `all` (lists), `cases` and how many are `malignant`.
        path: where the PNG goes.
    """
    figure, axes = canvas(height=5.6)
    axes.plot(curve["threshold"], curve["model"], label="act as the network says", **line(0))
    axes.plot(curve["threshold"], curve["all"], label="act on everyone", **line(1))
    axes.axhline(0.0, color=GREY, linewidth=1.2, linestyle=(0, (2, 3)), label="act on no one")
    top = max(0.05, *curve["model"])
    axes.set(xlim=(0, 1), ylim=(-0.25 * top, 1.1 * top))
    axes.set_xlabel("Probability of malignancy from which one acts")
    axes.set_ylabel("Net benefit")
    axes.set_title(f"Decision curve: {curve['malignant']} malignant of {curve['cases']} cases; no interval")
    axes.legend(fontsize=10)
    save(figure, path)


def risk_picture(card: Mapping[str, Any], path: Path) -> None:
    """Share of errors among the surest cases, against how many are answered.

    Args:
        card: from `scorecard`; `risk_coverage` is used.
        path: where the PNG goes.
    """
    curve = card["risk_coverage"]
    figure, axes = canvas(height=5.2)
    axes.plot([100 * c for c in curve["coverage"]], [100 * r for r in curve["risk"]], **line(0))
    axes.set(xlim=(0, 100.5), ylim=(0, None))
    axes.set_xlabel("Answered: the surest cases, %")
    axes.set_ylabel("Errors among them, %")
    axes.set_title(f"Risk and coverage of {card['n_cases']} cases: towards the left, of few")
    save(figure, path)


def coverage_picture(sets: Mapping[str, Any], path: Path) -> None:
    """How often the diagnosis set holds the diagnosis, class by class, with intervals.

    Args:
        sets: from `set_figures`.
        path: where the PNG goes.
    """
    rows = list(sets["per_class"].items())
    figure, axes = canvas(height=1.9 + 0.38 * len(rows))
    for place, (_, entry) in enumerate(rows):
        interval_line(axes, place, entry)
    axes.axvline(100 * sets["chosen"], color=GREY, linewidth=1.2, linestyle=(0, (2, 3)))
    axes.set_yticks(range(len(rows)), [f"{name} (n = {sets['cases_per_class'][name]})" for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    promised = "each class" if sets["by_class"] else "all together"
    axes.set_xlabel(f"Sets that hold the diagnosis, % (dashed: chosen for {promised})")
    axes.set_title("Coverage of the diagnosis sets, 95 % intervals")
    save(figure, path)
