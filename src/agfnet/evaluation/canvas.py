"""The sheet that pictures are drawn on: size, colours, the notice, and how a file is written.

Only matplotlib's object interface is used: nothing global, no display. The colours are those of Okabe and
Ito (2008), which stay apart for the colour-blind, with a brown in place of the yellow that is faint on
white; past eight lines the dashes differ too.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from agfnet.files import write_atomically
from agfnet.types import RESEARCH_USE

log = logging.getLogger("agfnet")
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)))
GREY = "#555555"
FAMILIES = {"Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Micro Hei"}
"""Fonts of other scripts that machines have."""
NOTICE = 0.28  # inches at the bottom that are kept free for the notice


def canvas(height: float) -> tuple[Figure, Axes]:
    """One set of axes, `height` inches of 125 pixels high."""
    figure, rows = canvases(height, (1,))
    return figure, rows[0]


def canvases(height: float, ratios: Sequence[float]) -> tuple[Figure, list[Axes]]:
    """Rows of axes above each other that share x, on a sheet 1000 pixels wide with room for the notice.

    Args:
        height: of the sheet, in inches of 125 pixels.
        ratios: relative heights of the rows.

    Returns:
        The figure and its rows, top first.
    """
    layout = ConstrainedLayoutEngine(rect=(0, NOTICE / height, 1, 0.985 - NOTICE / height))
    figure = Figure(figsize=(8, height), dpi=125, layout=layout)
    grid = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(ratios)})
    rows = list(grid[:, 0])
    for axes in rows:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, rows


def line(number: int) -> dict[str, Any]:
    """Colour, dashes and width of the line with this number, counted from 0."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": DASHES[number // len(PALETTE) % len(DASHES)],
        "linewidth": 1.8,
    }


def interval_line(axes: Axes, place: float, entry: Mapping[str, float | None]) -> None:
    """A share and its interval, in percent, as a point and a level line; what is not defined is left out."""
    value, low, high = (entry[end] for end in ("value", "low", "high"))
    if low is not None and high is not None:
        axes.plot([100 * low, 100 * high], [place, place], color=PALETTE[0], linewidth=1.8)
    if value is not None:
        axes.plot([100 * value], [place], "o", color=PALETTE[0], markersize=5)


def legend_below(figure: Figure, axes: Axes, *others: Axes) -> None:
    """The legend of one or several rows under the lowest of them, where it covers nothing.

    Args:
        figure: that they are on.
        axes: the lowest row.
        others: further rows whose lines are explained.
    """
    handles, labels = [], []
    for row in (*others, axes):
        found = row.get_legend_handles_labels()
        handles += found[0]
        labels += found[1]
    inches = axes.get_position().height * figure.get_figheight()
    axes.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.6 / inches), ncols=2, fontsize=9, frameon=False
    )


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure, with the research-use notice, as a PNG.

    Under a temporary name, then renamed: there is never half a picture under the final name.

    Args:
        figure: from `canvas` or `canvases`.
        path: where the PNG goes.
    """
    figure.text(0.5, 0.09 / figure.get_figheight(), RESEARCH_USE, ha="center", va="bottom", fontsize=8.5, color=GREY)
    for text in figure.findobj(Text):
        text.set_fontfamily(_families())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        write_atomically(Path(path), partial(figure.savefig, format="png", metadata={"Software": None}))
    for one in said:
        if "missing from font" not in str(one.message):
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if any("missing from font" in str(one.message) for one in said):
        log.warning("%s: no font here has all letters of the names. Install one, such as fonts-noto-cjk.", path)


@cache
def _families() -> list[str]:
    """What letters are taken from, in turn: matplotlib's own font, then those of the machine for what it lacks."""
    return ["DejaVu Sans", *sorted(FAMILIES & set(fontManager.get_font_names()))]
