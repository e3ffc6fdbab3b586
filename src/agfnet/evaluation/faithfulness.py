"""Whether class-evidence maps tell the truth about the network: it is asked again with parts of an image hidden.

Four checks of the map of the predicted class, none of which needs a mask:

- **Deletion and insertion** (Petsiuk et al. 2018, 1806.07421): cells are blurred, or brought back into the blurred
  image, in the map's order. The log-odds of the prediction must fall, or rise, sooner than in random order.
- **Occlusion** (Zeiler & Fergus 2013, 1311.2901): each block of cells is blurred alone; what that costs must rank the
  blocks as the map does.
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
from scipy.stats import rankdata

from agfnet.data.preprocess import normalise
from agfnet.evaluation.evaluate import chosen_cases, drawn_cases
from agfnet.evaluation.focus import randomised
from agfnet.evaluation.summary import figure_text
from agfnet.files import write_json, write_text
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.statistics import MetricSet, bootstrap
from agfnet.metrics.weighting import FloatArray, weighted_mean
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
BATCH = 32
CHECKS = ("deletion", "insertion", "occlusion", "gradients", "randomised")

Pixels = NDArray[np.uint8]
Heat = NDArray[np.floating[Any]]
Ask = Callable[[Sequence[Pixels]], NDArray[np.float64]]


def hidden(pixels: Pixels) -> Pixels:
    """An image (H, W, 3) in which nothing of the size of a lesion can be told: blurred."""
    radius = BLUR * max(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def mixed(pixels: Pixels, other: Pixels, chosen: NDArray[np.bool_]) -> Pixels:
    """The image (H, W, 3) with the chosen cells (h, w) taken from the other one."""
    rows, columns = (np.arange(n) * m // n for n, m in zip(pixels.shape[:2], chosen.shape, strict=True))
    return np.where(chosen[np.ix_(rows, columns)][..., None], other, pixels)


def blocks(heat: Heat, grid: tuple[int, int]) -> NDArray[np.float32]:
    """A map as means on a grid."""
    return np.asarray(Image.fromarray(heat.astype(np.float32)).resize(grid[::-1], Image.Resampling.BOX))


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
        looks = [self.look(**{view: pixels}) for pixels in images]
        asked = [self.predictor.ask(looks[i : i + BATCH])["logits"] for i in range(0, len(looks), BATCH)]
        log_p = np.minimum(np.concatenate(asked)[:, self.top].astype(np.float64), -1e-9)
        return np.asarray(log_p - np.log(-np.expm1(log_p)))


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


def occlusion(ask: Ask, pixels: Pixels, grid: tuple[int, int]) -> NDArray[np.float64]:
    """What blurring each block alone costs, in log-odds: (h, w) of the grid.

    Args:
        ask: images -> log-odds (n,).
        pixels: (H, W, 3).
        grid: h and w.
    """
    blurred = hidden(pixels)
    cells = np.eye(grid[0] * grid[1], dtype=bool).reshape(-1, *grid)
    values = ask([pixels, *(mixed(pixels, blurred, cell) for cell in cells)])
    return np.asarray(values[0] - values[1:]).reshape(grid)


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
        View -> name in `CHECKS` -> one number per case, None where the view is missing. Deletion: by how many nats the
        mean log-odds are lower than in random order; insertion: higher; the others: rank correlation with the map.

    Raises:
        ImageError: a case cannot be read.
        BundleError: the folder holds no finished run.
    """
    random = Predictor(randomised(predictor.bundle, seed), threads=predictor.threads)
    gradients = None if folder is None else GradientMaps(folder)
    found: dict[str, dict[str, list[float | None]]] = {
        view: {name: [] for name in CHECKS if name != "gradients" or gradients is not None} for view in predictor.specs
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
    shape = heat.shape[0], heat.shape[1]
    grid = min(shape[0], BLOCKS), min(shape[1], BLOCKS)
    deleted, inserted = order_areas(ask, pixels, np.argsort(-heat, axis=None, kind="stable"), shape)
    by_chance = [order_areas(ask, pixels, rng.permutation(heat.size), shape) for _ in range(RANDOM_ORDERS)]
    coarse = blocks(heat, grid)
    values = {
        "deletion": float(np.mean([hide for hide, _ in by_chance])) - deleted,
        "insertion": inserted - float(np.mean([show for _, show in by_chance])),
        "occlusion": rank_correlation(coarse, occlusion(ask, pixels, grid)),
        "randomised": rank_correlation(heat, asked.evidence(view, other)),
    }
    if slopes is not None:
        change = normalise(pixels, asked.predictor.specs[view]) - normalise(hidden(pixels), asked.predictor.specs[view])
        values["gradients"] = rank_correlation(coarse, blocks((slopes * change).sum(0), grid))
    return values


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
        draws: of the bootstrap over patients.
        threads: of ONNX Runtime.
        data_root: the folder that every image must lie in.

    Returns:
        `views`: view -> `cases` and `checks`: name -> {value, low, high}; `notes`; `bundle_sha256`.
    """
    predictor = Predictor(source, threads=threads)
    cases, notes = chosen_cases(source, predictor, table, part, include_test=include_test, data_root=data_root)
    cases = drawn_cases(cases, limit, notes)
    found = faithfulness_of(predictor, cases, folder=source if source.is_dir() else None)
    patients = [case.patient_id for case in cases]
    views = {}
    for view, columns in found.items():
        known = [i for i, value in enumerate(columns["deletion"]) if value is not None]
        if known:
            arrays = {name: np.array([values[i] for i in known], float) for name, values in columns.items()}
            intervals = bootstrap(_means(arrays), [patients[i] for i in known], draws=draws)
            views[view] = {"cases": len(known), "checks": {n: interval.as_json() for n, interval in intervals.items()}}
    return {"views": views, "notes": [*notes, RESEARCH_USE], "bundle_sha256": predictor.bundle.sha256}


def _means(arrays: Mapping[str, FloatArray]) -> MetricSet:
    return lambda weights: {name: weighted_mean(values, weights) for name, values in arrays.items()}


def write_faithfulness(made: Mapping[str, Any], folder: Path) -> None:
    """Write `faithfulness.json` and `faithfulness.md`, the figures and their tables."""
    write_json(folder / "faithfulness.json", made)
    write_text(folder / "faithfulness.md", faithfulness_markdown(made))


def faithfulness_markdown(made: Mapping[str, Any]) -> str:
    """The figures of `faithfulness` as tables."""
    lines = ["Class-evidence maps, checked by asking the network again; in brackets 95 % intervals over patients."]
    for view, own in made["views"].items():
        lines += ["", f"| {view}, {own['cases']} cases | Mean | What a true map gives |", "|---|---|---|"]
        for name, entry in own["checks"].items():
            what, wanted = _READING[name]
            lines.append(f"| {what} | {figure_text(entry, '.2f')} | {wanted} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in made["notes"])]) + "\n"


_READING = {
    "deletion": ("deletion: log-odds lost over random order, nats", "above 0"),
    "insertion": ("insertion: log-odds gained over random order, nats", "above 0"),
    "occlusion": ("rank correlation with occlusion", "above 0"),
    "gradients": ("rank correlation with gradients", "above 0"),
    "randomised": ("rank correlation with the map of randomised weights", "near 0"),
}
