"""Whether class-evidence maps tell the truth about the network: it is asked again with parts of an image hidden.

Four checks of the map of the predicted class, none of which needs a mask:

- **Deletion and insertion** (Petsiuk et al. 2018, 1806.07421): cells are blurred, or brought back into the blurred
  image, in the map's order. The log-odds of the prediction must fall, or rise, sooner than in random order; than from
  the middle on, where lesions mostly lie; and than in the order of the same map put elsewhere, as much of a piece.
- **Occlusion** (Zeiler & Fergus 2013, 1311.2901): each block of cells is blurred alone; what that costs must rank the
  blocks as the map does, and better than a map that is brightest in the middle. How much of the answer hangs on what
  the blur hides at all is said beside it.
- **Gradients**: the gradient of the same network in PyTorch times what blurring takes away, the first order of the
  occlusion check, must rank the blocks as the map does.
- **Randomised weights** (Adebayo et al. 2018, 1810.03292): shuffled weights must give another map.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.special import logsumexp
from scipy.stats import rankdata

from agfnet.data.preprocess import normalise
from agfnet.evaluation.evaluate import chosen_cases, drawn_cases, readable_cases, table_facts
from agfnet.evaluation.focus import centre_prior, means_of, on_cells, randomised
from agfnet.evaluation.summary import figure_text, table_line
from agfnet.files import write_json, write_text
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.statistics import MetricSet, bootstrap
from agfnet.metrics.weighting import FloatArray, weighted_mean
from agfnet.prediction.overlay import cells_of
from agfnet.prediction.predictor import Look, Predictor
from agfnet.types import RESEARCH_USE, Case, Place, Prediction

log = logging.getLogger("agfnet")

STEPS = 10
"""Cells are hidden or shown in so many equal steps."""
BLOCKS = 7
"""Occlusion and gradients are compared with the map on a grid of at most so many blocks a side."""
BLUR = 0.08
"""Deviation of the blur that hides, over the image's longer side."""
RANDOM_ORDERS = 2
ORDERS = ("random", "middle", "elsewhere")
"""What the map's order is held against."""
READING = {
    "deletion over random": ("deletion: log-odds lost over random order, nats", "above 0"),
    "deletion over middle": ("deletion: over from the middle on", "above 0"),
    "deletion over elsewhere": ("deletion: over the same map elsewhere", "above 0"),
    "insertion over random": ("insertion: log-odds gained over random order, nats", "above 0"),
    "insertion over middle": ("insertion: over from the middle on", "above 0"),
    "insertion over elsewhere": ("insertion: over the same map elsewhere", "above 0"),
    "everything": ("blurring everything: log-odds lost, nats", "above 0, or there is nothing to explain"),
    "occlusion": ("rank correlation with occlusion", "above that of the middle"),
    "occlusion, middle": ("the same of a map that is brightest in the middle", ""),
    "gradients": ("rank correlation with gradients", "above that of the middle"),
    "gradients, middle": ("the same of a map that is brightest in the middle", ""),
    "randomised": ("rank correlation with the map of randomised weights", "near 0"),
}
"""Check -> what it says, and what a true map gives."""

Pixels = NDArray[np.uint8]
Heat = NDArray[np.floating[Any]]
Ask = Callable[[Sequence[Pixels]], NDArray[np.float64]]


def hidden(pixels: Pixels) -> Pixels:
    """An image (H, W, 3) without its detail: blurred. Of a lesion that is much larger than the blur a trace is left."""
    radius = BLUR * max(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def mixed(pixels: Pixels, other: Pixels, chosen: NDArray[np.bool_]) -> Pixels:
    """The image (H, W, 3) with the chosen cells (h, w) of a map taken from the other one."""
    rows, columns = (cells_of(side, n) for side, n in zip(pixels.shape[:2], chosen.shape, strict=True))
    return np.where(chosen[np.ix_(rows, columns)][..., None], other, pixels)


def blocks_of(shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In which block, of at most `BLOCKS` a side, each row (h,) and each column (w,) of a map's cells lies."""
    rows, columns = (np.arange(n) * min(n, BLOCKS) // n for n in shape)
    return rows, columns


def rank_correlation(first: Heat, second: Heat) -> float:
    """Spearman's rho of two maps of one shape; 0 where one of them is flat.

    >>> import numpy as np
    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    a, b = (rankdata(m.ravel()) - (m.size + 1) / 2 for m in (first, second))
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return round(float(a @ b) / norm, 12) if norm > 0.0 else 0.0


class _Asked:
    """One case, and the network's log-odds of its own answer when one view is changed."""

    def __init__(self, predictor: Predictor, case: Case) -> None:
        self.predictor = predictor
        self.frames = {view: own[0].pixels for view, own in predictor.frames(case).items()}
        self.prediction = self.told_by(predictor)
        self.top = int(self.prediction.probabilities.argmax())

    def look(self, **changed: Pixels) -> Look:
        frames = self.frames | changed
        return {view: normalise(pixels, self.predictor.specs[view]) for view, pixels in frames.items()}

    def told_by(self, predictor: Predictor) -> Prediction:
        return predictor.conclude(tuple(self.frames), predictor.ask([self.look()]), maps=True)

    def evidence(self, view: str, prediction: Prediction) -> NDArray[np.float32]:
        """(h, w) evidence for the predicted class over the mean of the classes, also where it is negative."""
        own = prediction.evidence[view]
        return np.asarray(own[self.top] - own.mean(0))

    def log_odds(self, view: str, images: Sequence[Pixels]) -> NDArray[np.float64]:
        """(n,) of the predicted class, for each image in the view's place."""
        log_p = self.predictor.ask([self.look(**{view: pixels}) for pixels in images])["logits"].astype(np.float64)
        # From the others, not as 1 - p: finite and exact also where the answer is as good as certain.
        return np.asarray(log_p[:, self.top] - logsumexp(np.delete(log_p, self.top, axis=1), axis=1))


def order_areas(ask: Ask, pixels: Pixels, order: NDArray[np.intp], grid: tuple[int, int]) -> tuple[float, float]:
    """Mean log-odds while cells are hidden, and while they are shown, in an order.

    Args:
        ask: images -> log-odds (n,).
        pixels: (H, W, 3).
        order: (h * w,) the cells, first to last.
        grid: h and w.
    """
    blurred = hidden(pixels)
    masks = []
    for step in range(1, STEPS):
        chosen = np.zeros(order.size, bool)
        chosen[order[: round(step * order.size / STEPS)]] = True
        masks.append(chosen.reshape(grid))
    values = ask([mixed(pixels, blurred, m) for m in masks] + [mixed(blurred, pixels, m) for m in masks])
    return float(values[: len(masks)].mean()), float(values[len(masks) :].mean())


def occlusion(ask: Ask, pixels: Pixels, shape: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """What blurring each block alone costs, in log-odds, (rows, columns) of blocks; and what blurring everything costs.

    Args:
        ask: images -> log-odds (n,).
        pixels: (H, W, 3).
        shape: h and w of the map; see `blocks_of`.
    """
    blurred, (rows, columns) = hidden(pixels), blocks_of(shape)
    grid = int(rows.max()) + 1, int(columns.max()) + 1
    each = np.eye(grid[0] * grid[1], dtype=bool).reshape(-1, *grid)
    values = ask([pixels, blurred, *(mixed(pixels, blurred, block[np.ix_(rows, columns)]) for block in each)])
    return np.asarray(values[0] - values[2:]).reshape(grid), float(values[0] - values[1])


def faithfulness_of(
    predictor: Predictor, cases: Sequence[Case], *, folder: Path | None = None, seed: int = 0
) -> dict[str, dict[str, list[float | None]]]:
    """Every check on every case.

    Args:
        predictor: the network.
        cases: the cases; of a view with several images the first is taken, without flips.
        folder: the run folder of the same network, for the check against gradients.
        seed: of random orders and randomised weights.

    Returns:
        View -> name in `READING` -> one number per case, None where the view is missing; without a folder none of
        gradients.

    Raises:
        ImageError: a case cannot be read.
        BundleError: the folder holds no finished run.
    """
    random = Predictor(randomised(predictor.bundle, seed), threads=predictor.threads)
    gradients = None if folder is None else GradientMaps(folder)
    found: dict[str, dict[str, list[float | None]]] = {
        view: {name: [] for name in READING if not name.startswith("gradients") or gradients}
        for view in predictor.specs
    }
    for number, case in enumerate(cases):
        rng = np.random.default_rng([seed, number])
        asked = _Asked(predictor, case)
        other = asked.told_by(random)
        slopes = gradients(asked.look(), asked.top) if gradients is not None else {}
        for view, columns in found.items():
            if view not in asked.frames:
                values: Mapping[str, float | None] = dict.fromkeys(columns)
            else:
                values = _checked(asked, view, other, slopes.get(view), rng)
            for name, column in columns.items():
                column.append(values[name])
        if (number + 1) % 10 == 0:
            log.info("checked %d of %d cases", number + 1, len(cases))
    return found


def _checked(
    asked: _Asked, view: str, other: Prediction, slopes: Heat | None, rng: np.random.Generator
) -> dict[str, float]:
    ask, pixels, heat = partial(asked.log_odds, view), asked.frames[view], asked.evidence(view, asked.prediction)
    shape, middle = (heat.shape[0], heat.shape[1]), centre_prior(heat.shape)
    away = tuple(int(rng.integers(max(1, n // 4), max(2, min(n, n - n // 4 + 1)))) for n in shape)
    deleted, inserted = order_areas(ask, pixels, falling(heat), shape)
    orders = {
        "random": [rng.permutation(heat.size) for _ in range(RANDOM_ORDERS)],
        "middle": [falling(middle)],
        "elsewhere": [falling(np.roll(heat, away, axis=(0, 1)))],
    }
    values = {}
    for name in ORDERS:
        hides, shows = zip(*(order_areas(ask, pixels, order, shape) for order in orders[name]), strict=True)
        values[f"deletion over {name}"] = float(np.mean(hides)) - deleted
        values[f"insertion over {name}"] = inserted - float(np.mean(shows))
    coarse, coarse_middle = (means_of(one, *blocks_of(shape)) for one in (heat, middle))
    costs, values["everything"] = occlusion(ask, pixels, shape)
    values["occlusion"] = rank_correlation(coarse, costs)
    values["occlusion, middle"] = rank_correlation(coarse_middle, costs)
    values["randomised"] = rank_correlation(heat, asked.evidence(view, other))
    if slopes is not None:
        change = normalise(pixels, asked.predictor.specs[view]) - normalise(hidden(pixels), asked.predictor.specs[view])
        first_order = means_of(on_cells((slopes * change).sum(0), shape), *blocks_of(shape))
        values["gradients"] = rank_correlation(coarse, first_order)
        values["gradients, middle"] = rank_correlation(coarse_middle, first_order)
    return values


def falling(heat: Heat) -> NDArray[np.intp]:
    """The cells (h * w,) of a map, the hottest first."""
    return np.argsort(-heat, axis=None, kind="stable")


class GradientMaps:
    """Gradients of the log-odds of a class with respect to the images, from the run's PyTorch network.

    Args:
        folder: of a finished run.

    Raises:
        BundleError: it holds none.
    """

    def __init__(self, folder: Path) -> None:
        import torch  # noqa: PLC0415 - the other checks need none

        from agfnet.training.run import load_run  # noqa: PLC0415

        self.torch = torch
        self.network = load_run(folder)[2]

    def __call__(self, look: Look, chosen: int) -> dict[str, NDArray[np.float32]]:
        """Modality -> (3, H, W) of one look."""
        images = {view: self.torch.from_numpy(x)[None].requires_grad_() for view, x in look.items()}
        log_p = self.network(images).logits[0].double()
        others = self.torch.arange(len(log_p)) != chosen
        odds = log_p[chosen] - log_p[others].logsumexp(0)  # finite also where the answer is as good as certain
        gradients = self.torch.autograd.grad(odds, list(images.values()))
        return {view: own[0].numpy() for view, own in zip(images, gradients, strict=True)}


def faithfulness(
    source: Path,
    table: Place,
    *,
    part: str | None = None,
    include_test: bool = False,
    limit: int | None = 100,
    skip_bad: bool = False,
    draws: int = DRAWS,
    threads: int = 0,
    data_root: Place | None = None,
) -> dict[str, Any]:
    """The checks of an exported network on a table's cases.

    Args:
        source: run folder or bundle; the check against gradients is made of a run folder.
        table: the cases.
        part: only cases of this part, see `chosen_part`.
        include_test: allow test cases.
        limit: at most so many cases, drawn.
        skip_bad: leave out cases whose images cannot be read, instead of stopping.
        draws: of the bootstrap over patients.
        threads: of ONNX Runtime.
        data_root: the folder that every image must lie in.

    Returns:
        `views`: view -> `cases` and `checks`: name -> {value, low, high}; `notes`; `bundle_sha256`; see also
        `table_facts`.
    """
    predictor = Predictor(source, threads=threads)
    cases, notes = chosen_cases(source, predictor, table, part, include_test=include_test, data_root=data_root)
    cases = readable_cases(predictor, drawn_cases(cases, limit, notes), notes, skip_bad=skip_bad)
    found = faithfulness_of(predictor, cases, folder=source if source.is_dir() else None)
    patients = [case.patient_id for case in cases]
    views = {}
    for view, columns in found.items():
        known = [i for i, value in enumerate(columns["everything"]) if value is not None]
        if known:
            arrays = {name: np.array([values[i] for i in known], float) for name, values in columns.items()}
            intervals = bootstrap(_means(arrays), [patients[i] for i in known], draws=draws)
            views[view] = {"cases": len(known), "checks": {n: interval.as_json() for n, interval in intervals.items()}}
    said = {"views": views, "notes": [*notes, RESEARCH_USE], "bundle_sha256": predictor.bundle.sha256}
    return said | table_facts(table, cases, include_test=include_test)


def _means(arrays: Mapping[str, FloatArray]) -> MetricSet:
    return lambda weights: {name: weighted_mean(values, weights) for name, values in arrays.items()}


def write_faithfulness(made: Mapping[str, Any], folder: Path) -> None:
    """Write `faithfulness.json` and `faithfulness.md`, the figures and their tables."""
    write_json(folder / "faithfulness.json", made)
    write_text(folder / "faithfulness.md", faithfulness_markdown(made))


def faithfulness_markdown(made: Mapping[str, Any]) -> str:
    """The figures of `faithfulness` as tables."""
    lines = [
        table_line(made),
        "",
        "Class-evidence maps, checked by asking the network again; in brackets 95 % intervals over patients.",
    ]
    for view, own in made["views"].items():
        lines += ["", f"| {view}, {own['cases']} cases | Mean | What a true map gives |", "|---|---|---|"]
        for name, entry in own["checks"].items():
            what, wanted = READING[name]
            lines.append(f"| {what} | {figure_text(entry, '.2f')} | {wanted} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in made["notes"])]) + "\n"
