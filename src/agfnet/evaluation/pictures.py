"""Pictures of a scorecard and of a training run, as PNG files 1000 pixels wide.

Everything drawn comes from the card itself, so that pictures can be made again from its JSON alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from agfnet.evaluation.canvas import GREY, PALETTE, canvas, canvases, legend_below, line, save

LONGEST_NAME = 24  # letters of a class name that fit beside an axis


def confusion_picture(card: Mapping[str, Any], path: str | Path) -> None:
    """The confusion matrix: counts, and percentages of the true class as shades.

    Args:
        card: from `scorecard`; `confusion` and `classes` are used.
        path: where the PNG goes.

    Raises:
        ValueError: the matrix does not fit the classes.
    """
    counts, names = np.asarray(card["confusion"]), [_short(name) for name in card["classes"]]
    k = len(names)
    if counts.shape != (k, k):
        raise ValueError(f"confusion must have the shape ({k}, {k}) to fit the classes, not {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure, axes = canvas(height=7.4)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 12 if k <= 6 else 9
    for i, j in itertools.product(range(k), range(k)):
        percent = f"\n{100 * shares[i, j]:.0f} %" if totals[i, 0] else "\n–"
        axes.text(
            j,
            i,
            f"{counts[i, j]}{percent}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if shares[i, j] > 0.65 else "black",
            fontweight="bold" if i == j else "normal",
        )
    axes.set_xticks(range(k), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), [f"{name} ({total})" for name, total in zip(names, totals[:, 0], strict=True)])
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True (cases)")
    axes.set_title("Confusion: cases, and percentage of the true class")
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    save(figure, path)


def roc_picture(card: Mapping[str, Any], path: str | Path) -> None:
    """One-vs-rest ROC curve of each class, with its AUC and interval in the legend.

    Args:
        card: from `scorecard`; `per_class` is used. A class without a curve is listed as not defined.
        path: where the PNG goes.
    """
    figure, axes = canvas(height=7.4)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)))
    for number, (name, part) in enumerate(card["per_class"].items()):
        auc, curve = part["auc"], part["roc"]
        axes.plot(
            curve["fpr"],
            curve["tpr"],
            label=f"{_short(name)} (n = {part['n_cases']}): {_interval(auc)}",
            **line(number),
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("1 − specificity (false-positive rate)")
    axes.set_ylabel("Sensitivity (true-positive rate)")
    axes.set_title("ROC, each class against the rest")
    axes.legend(loc="lower right", title="AUC (95 % interval)", fontsize=10, framealpha=0.95)
    save(figure, path)


def reliability_picture(card: Mapping[str, Any], path: str | Path) -> None:
    """Accuracy against confidence in bins of equal mass, above a histogram of the confidences.

    Bars are bootstrap intervals; the band is where a perfectly calibrated model would lie 95 times in 100.

    Args:
        card: from `scorecard`; `calibration` and `metrics` are used.
        path: where the PNG goes.
    """
    calibration, error = card["calibration"], card["metrics"]["ece"]
    figure, (axes, lower) = canvases(height=8.4, ratios=(4, 1))
    bins = calibration["bins"]
    x, y, low, high = (
        np.array([math.nan if value is None else value for value in column], dtype=float)
        for column in (
            [b["confidence"] for b in bins],
            *([b["accuracy"][end] for b in bins] for end in ("value", "low", "high")),
        )
    )
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (2, 3)), label="Perfect calibration")
    axes.fill_between(
        x,
        [b["if_calibrated"]["low"] for b in bins],
        [b["if_calibrated"]["high"] for b in bins],
        color="#BBBBBB",
        alpha=0.5,
        linewidth=0,
        label="95 % band of a calibrated model",
    )
    # Not errorbar, which wants reaches from the value: a percentile interval need not hold the value.
    axes.vlines(x, low, high, color=PALETTE[0], linewidth=1.4)
    axes.plot(x, y, "o", color=PALETTE[0], markersize=6, label="This model, 95 % interval per bin")
    reference = calibration["if_calibrated"]["ece"]
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    axes.set_ylabel("Accuracy")
    axes.set_title(f"Reliability: ECE {error['value']:.3f} (a calibrated model of this size: {reference['mean']:.3f})")
    edges = np.asarray(calibration["histogram"]["edges"])
    lower.bar(
        edges[:-1],
        calibration["histogram"]["counts"],
        np.diff(edges),
        align="edge",
        color=PALETTE[0],
        edgecolor="white",
    )
    lower.set(xlim=(0, 1))
    lower.set_xlabel("Confidence (highest probability)")
    lower.set_ylabel("Cases")
    lower.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    legend_below(figure, lower, axes)  # there are points everywhere
    save(figure, path)


def training_curves(history: Sequence[Mapping[str, float]], path: str | Path) -> None:
    """Losses, validation figures and learning rate over the epochs.

    Args:
        history: one mapping per epoch with `epoch` and any of `train_loss`, `val_loss`, `val_accuracy`,
            `val_balanced_accuracy`, `val_auc`, `lr`; what is missing or not finite is left out.
        path: where the PNG goes.

    Raises:
        ValueError: there is no epoch.
    """
    if not history:
        raise ValueError("the history has no epoch: there is nothing to draw")
    groups = [
        ("Loss", {"train_loss": "Training, all terms", "val_loss": "Validation, diagnosis only"}),
        (
            "Validation figure",
            {
                "val_accuracy": "Accuracy",
                "val_balanced_accuracy": "Balanced accuracy",
                "val_auc": "Macro AUC",
            },
        ),
        ("Learning rate", {"lr": "Learning rate"}),
    ]
    drawn = [(title, series) for title, keys in groups if (series := _series(history, keys))]
    if not drawn:
        raise ValueError("the history holds none of the figures that can be drawn")
    ratios = [1 if title == "Learning rate" else 3 for title, _ in drawn]
    figure, rows = canvases(height=1.6 + 0.95 * sum(ratios), ratios=ratios)
    for axes, (title, series) in zip(rows, drawn, strict=True):
        for number, (label, (epochs, values)) in enumerate(series.items()):
            axes.plot(epochs, values, label=label, marker="o", markersize=3.5, **line(number))
        axes.set_ylabel(title)
        if title != "Learning rate":
            axes.legend(fontsize=10)
        else:
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rows[0].set_title("Training")
    rows[-1].set_xlabel("Epoch")
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path)


def _series(
    history: Sequence[Mapping[str, float]], keys: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    out = {}
    for key, label in keys.items():
        points = [
            (epoch["epoch"], epoch[key])
            for epoch in history
            if "epoch" in epoch and key in epoch and math.isfinite(epoch[key])
        ]
        if points:
            out[label] = ([x for x, _ in points], [y for _, y in points])
    return out


def _short(name: str) -> str:
    # A dollar sign would start a formula.
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return short.replace("$", r"\$")


def _interval(entry: Mapping[str, float | None]) -> str:
    if entry["value"] is None:
        return "not defined"
    if entry["low"] is None or entry["high"] is None:
        return f"{entry['value']:.2f}"
    return f"{entry['value']:.2f} ({entry['low']:.2f}–{entry['high']:.2f})"
