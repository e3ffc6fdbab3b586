"""A picture of results: both images of some cases, and what each network says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from agfnet.data.images import read_image
from agfnet.evaluation.canvas import GREY, NOTICE, PALETTE, save
from agfnet.prediction.predictor import Outcome
from agfnet.types import Place, Prediction

SHOWN = 4
RIVALS = 4  # classes whose bars are drawn


def telling_cases(outcomes: Mapping[str, Sequence[Outcome]], classes: Sequence[str]) -> list[int]:
    """Cases of different classes that the first network has right and a later one wrong; then any others.

    They show how the networks can differ, and are no sample: the picture says so.
    """
    names = list(outcomes)
    count = len(outcomes[names[0]])

    def right(name: str, i: int) -> bool:
        outcome = outcomes[name][i]
        return outcome.prediction is not None and classes[_top(outcome.prediction)] == outcome.case.label

    telling = [i for i in range(count) if right(names[0], i) and not all(right(n, i) for n in names[1:])]
    order = telling + [i for i in range(count) if i not in set(telling)]
    seen: set[str] = set()
    first = []
    for i in order:
        outcome = outcomes[names[0]][i]
        if outcome.prediction is not None and str(outcome.case.label) not in seen:
            seen.add(str(outcome.case.label))
            first.append(i)
    return first[:SHOWN]


def showcase_picture(outcomes: Mapping[str, Sequence[Outcome]], classes: Sequence[str], path: Path) -> None:
    """Draw some cases: one row each, its images and the probabilities of every network.

    Args:
        outcomes: network -> outcomes of the same cases in the same order.
        classes: in the order of the probabilities.
        path: where the PNG goes.
    """
    chosen = telling_cases(outcomes, classes)
    names = list(outcomes)
    views = list(outcomes[names[0]][chosen[0]].case.views)
    height = 2.05 * len(chosen) + 0.9
    layout = ConstrainedLayoutEngine(rect=(0, NOTICE / height, 1, 0.985 - NOTICE / height))
    figure = Figure(figsize=(8, height), dpi=125, layout=layout)
    grid = figure.subplots(len(chosen), len(views) + 1, squeeze=False, width_ratios=[*[1.0] * len(views), 1.5])
    for row, i in zip(grid, chosen, strict=True):
        case = outcomes[names[0]][i].case
        for axes, view in zip(row, views, strict=False):
            _picture(axes, case.views[view], view)
        _bars(row[-1], {n: outcomes[n][i].prediction for n in names}, classes, str(case.label))
    handles, labels = grid[0, -1].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=len(names), frameon=False, fontsize=10,
        title="Cases chosen where the networks differ: no sample of all cases", title_fontsize=9,
    )  # fmt: skip
    save(figure, path)


def _picture(axes: Axes, files: Sequence[Place], view: str) -> None:
    axes.set_axis_off()
    axes.set_title(view, fontsize=9, color=GREY)
    if files:
        axes.imshow(read_image(files[0]))
    else:
        axes.text(0.5, 0.5, "absent", ha="center", va="center", color=GREY, transform=axes.transAxes)


def _bars(axes: Axes, predictions: Mapping[str, Prediction | None], classes: Sequence[str], label: str) -> None:
    known = {name: p for name, p in predictions.items() if p is not None}
    best = np.max([p.probabilities for p in known.values()], axis=0)
    best[list(classes).index(label)] = 2.0  # the true class is always among those shown
    shown = [int(k) for k in np.argsort(-best, kind="stable")[:RIVALS]]
    thick = 0.8 / len(known)
    for n, (name, prediction) in enumerate(known.items()):
        places = np.arange(len(shown)) + (n - (len(known) - 1) / 2) * thick
        axes.barh(places, prediction.probabilities[shown], height=0.9 * thick, color=PALETTE[n], label=name)
    axes.set_yticks(range(len(shown)), [classes[k] for k in shown], fontsize=9)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"true: {label}", fontsize=9)


def _top(prediction: Prediction) -> int:
    return int(prediction.probabilities.argmax())
