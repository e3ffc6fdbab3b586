"""Where a network looks: the share of its maps' energy that lies in the evidence, beside three controls.

The maps are those that the exported graph gives: attention, and class evidence of the predicted class (its positive
part, relative to the mean over the classes). The controls: a map that is brightest in the middle; the mean of the other
cases' masks, where evidence usually lies, whatever the image shows; and the same graph with the entries of every weight
tensor shuffled (randomised weights, Adebayo et al. 2018, 1810.03292), on the mean of `SHUFFLES`: they differ much.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import numpy_helper

from agfnet.data.images import read_image, read_scaled_image
from agfnet.data.preprocess import ViewSpec, fit
from agfnet.data.table import table_error
from agfnet.data.tablefile import load_table
from agfnet.evaluation.answers import whole
from agfnet.evaluation.evaluate import chosen_cases, drawn_cases, readable_cases, table_facts
from agfnet.evaluation.summary import figure_text, table_line
from agfnet.files import write_json, write_text
from agfnet.metrics.patients import DRAWS
from agfnet.metrics.statistics import MetricSet, bootstrap
from agfnet.metrics.weighting import FloatArray, ratio, weighted_mean
from agfnet.places import joined
from agfnet.prediction.bundle import GRAPH, Bundle
from agfnet.prediction.overlay import cells_of, positive_part
from agfnet.prediction.predictor import Predictor
from agfnet.types import RESEARCH_USE, Case, ImageError, Place, Prediction, TableError

log = logging.getLogger("agfnet")
MAPS = ("attention", "class_evidence")
CONTROLS = ("centre", "usual_place", "random_attention", "random_class_evidence")
SHUFFLES = 3
_CONSTANT = "lifted_tensor"
"""In the name that the exporter gives to what is no parameter."""


def mask_files(table: Place, views: Sequence[str]) -> dict[str, dict[str, Place]]:
    """Case -> view -> mask file, from the columns `case_id` and `<view>_mask` of a table (the phantom's truth.csv).

    Raises:
        TableError: the table cannot be read, has no such column, or names a case twice.
    """
    raw, faults = load_table(table)
    if raw is None or faults:
        raise table_error(table, faults)
    columns = [view for view in views if f"{view}_mask" in raw.frame.columns]
    if "case_id" not in raw.frame.columns or not columns:
        raise TableError(f"{table}: needs the columns case_id and {' or '.join(f'{v}_mask' for v in views)}.")
    rows = raw.frame.select(pl.col("case_id").cast(pl.String), *(pl.col(f"{v}_mask").cast(pl.String) for v in columns))
    if (twice := rows["case_id"].is_duplicated()).any():
        raise TableError(f"{table}: names case {rows['case_id'].filter(twice)[0]} twice. Leave one row for each case.")
    return {
        str(row["case_id"]): {v: joined(table.parent, row[f"{v}_mask"]) for v in columns if row[f"{v}_mask"]}
        for row in rows.iter_rows(named=True)
    }


def mask_on_grid(
    file: Place, image: Place, spec: ViewSpec, shape: tuple[int, int], *, mm_per_pixel: float | None = None
) -> NDArray[np.float32]:
    """The share of each cell of a map (h, w) that is evidence (mask above 0), fitted as the image itself is.

    Raises:
        ImageError: a file cannot be read, or the mask has not the image's size (of a DICOM image: that of the region
            that is shown).
    """
    (shown, said), mask = read_scaled_image(image), read_image(file)
    if mask.shape != shown.shape:
        ours, theirs = (f"{own.shape[1]} x {own.shape[0]}" for own in (mask, shown))
        raise ImageError(f"{file}: the mask has {ours} pixels, and what is shown of {image} {theirs}. Draw it anew.")
    if (mask > 0).all():
        log.warning("%s: is evidence everywhere: draw black where there is none; transparent is white", file)
    mm_per_pixel = mm_per_pixel or said.mm_per_pixel
    pixels = np.where(mask > 0, np.uint8(255), np.uint8(0))
    frame = fit(pixels, replace(spec, mean=(0.0, 0.0, 0.0)), mm_per_pixel=mm_per_pixel)
    return on_cells(frame[..., 0].astype(np.float32) / 255.0, shape)


def on_cells(values: NDArray[np.floating[Any]], shape: tuple[int, int]) -> NDArray[np.float32]:
    """The mean of a frame's pixels (H, W) in each cell of a map (h, w), of which some may reach beyond the frame."""
    return means_of(values, *(cells_of(side, n) for side, n in zip(values.shape, shape, strict=True)))


def means_of(
    values: NDArray[np.floating[Any]], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Means of values (H, W) over groups of rows (H,) and of columns (W,), each numbered from 0 on."""
    down, across = (np.eye(groups.max() + 1, dtype=np.float64)[groups] for groups in (rows, columns))
    return np.asarray((down / down.sum(0)).T @ values @ (across / across.sum(0)), np.float32)


def energy_inside(heat: NDArray[np.floating[Any]], inside: NDArray[np.floating[Any]]) -> float:
    """Share of a map's energy that lies inside, sum(heat * inside) / sum(heat).

    Args:
        heat: (h, w), not negative.
        inside: (h, w), the share of each cell that is inside, 0 to 1.

    Returns:
        0 to 1; for a map of zeros the share of the area, as it points nowhere.

    >>> import numpy as np
    >>> energy_inside(np.array([[3.0, 1.0]]), np.array([[1.0, 0.0]]))
    0.75
    """
    total = float(heat.sum())
    return float((heat * inside).sum() / total) if total > 0.0 else float(inside.mean())


def class_evidence(prediction: Prediction, view: str) -> NDArray[np.float32]:
    """The positive part of the predicted class's evidence: (h, w)."""
    return positive_part(prediction.evidence[view], int(prediction.probabilities.argmax()))


def randomised(bundle: Bundle, seed: int) -> Bundle:
    """The bundle with the entries of every weight tensor of its graph shuffled.

    One-element tensors stay, and the constants of the layout (positions, windows): they are not learnt.
    """
    model = onnx.load_model_from_string(bundle.graph)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1 and _CONSTANT not in tensor.name:
            mixed = rng.permutation(values.reshape(-1)).reshape(values.shape)
            tensor.CopyFrom(numpy_helper.from_array(mixed, tensor.name))
    return replace(bundle, parts={**bundle.parts, GRAPH: model.SerializeToString()})


def focus_of(
    predictor: Predictor, cases: Sequence[Case], masks: Mapping[str, Mapping[str, Place]], *, seed: int = 0
) -> dict[str, dict[str, list[float | None]]]:
    """The energy inside the evidence of every case, map and control.

    Args:
        predictor: the network.
        cases: the cases.
        masks: case -> view -> mask file.
        seed: of the randomised weights.

    Returns:
        View -> name in `MAPS` and `CONTROLS` -> one number per case; None where the view or its mask is missing, or
        its mask is empty, or the network has no such map.

    Raises:
        ImageError: a case or a mask cannot be read.
    """
    random = [Predictor(randomised(predictor.bundle, seed + i), threads=predictor.threads) for i in range(SHUFFLES)]
    insides: dict[str, list[NDArray[np.float32] | None]] = {view: [] for view in predictor.specs}
    found: dict[str, dict[str, list[float | None]]] = {
        view: {name: [] for name in (*MAPS, *CONTROLS)} for view in predictor.specs
    }
    asked = (whole(network.predict(cases, maps=True)) for network in (predictor, *random))
    for (case, own), *others in zip(*asked, strict=True):
        for view, spec in predictor.specs.items():
            file = masks.get(case.case_id, {}).get(view)
            inside = None
            if file is not None and view in own.evidence:
                rows, columns = own.evidence[view].shape[1:]  # that of attention, too, where there is any
                inside = mask_on_grid(
                    file, case.views[view][0], spec, (rows, columns), mm_per_pixel=case.mm_per_pixel.get(view)
                )
            if inside is None or inside.max() == 0.0:
                insides[view].append(None)
                for values in found[view].values():
                    values.append(None)
                continue
            insides[view].append(inside)
            for name, told in (("", [own]), ("random_", [other for _, other in others])):
                attention = [energy_inside(p.attention[view], inside) for p in told if view in p.attention]
                evidence = [energy_inside(class_evidence(p, view), inside) for p in told]
                found[view][f"{name}attention"].append(float(np.mean(attention)) if attention else None)
                found[view][f"{name}class_evidence"].append(float(np.mean(evidence)))
            found[view]["centre"].append(energy_inside(centre_prior(inside.shape), inside))
    for view, own_insides in insides.items():
        known = [inside for inside in own_insides if inside is not None]
        every = np.sum(known, axis=0)
        # Without the case's own: of a few cases that would be a good part of it. Of one alone nothing is left.
        found[view]["usual_place"] = [
            None if inside is None else energy_inside((every - inside).clip(0.0), inside) for inside in own_insides
        ]
    return found


def centre_prior(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """A Gaussian about the middle of the image, deviation a quarter of each side: (h, w)."""
    y, x = ((np.arange(n) + 0.5) / n - 0.5 for n in shape)
    return np.asarray(np.exp(-((y[:, None] ** 2 + x[None] ** 2) / (2 * 0.25**2))))


def focus(
    source: Path,
    table: Place,
    masks: Place,
    *,
    part: str | None = None,
    include_test: bool = False,
    limit: int | None = None,
    skip_bad: bool = False,
    draws: int = DRAWS,
    threads: int = 0,
    data_root: Place | None = None,
) -> dict[str, Any]:
    """Focus of an exported network on a table's cases.

    Args:
        source: run folder or bundle.
        table: the cases.
        masks: see `mask_files`.
        part: only cases of this part, see `chosen_part`.
        include_test: allow test cases.
        limit: at most so many cases, drawn.
        skip_bad: leave out cases whose images cannot be read, instead of stopping.
        draws: of the bootstrap.
        threads: of ONNX Runtime.
        data_root: the folder that every image must lie in.

    Returns:
        `views`: see `focus_figures`; `notes`; `bundle_sha256`; see also `table_facts`.

    Raises:
        TableError: no case has a mask.
    """
    predictor = Predictor(source, threads=threads)
    cases, notes = chosen_cases(source, predictor, table, part, include_test=include_test, data_root=data_root)
    cases = readable_cases(predictor, drawn_cases(cases, limit, notes), notes, skip_bad=skip_bad)
    found = focus_of(predictor, cases, mask_files(masks, list(predictor.specs)))
    made = focus_figures(found, [case.patient_id for case in cases], draws=draws)
    if not made:
        raise TableError(f"{masks}: holds a mask of none of the {len(cases)} cases.")
    said = {"views": made, "notes": [*notes, RESEARCH_USE], "bundle_sha256": predictor.bundle.sha256}
    return said | table_facts(table, cases, include_test=include_test)


def focus_figures(
    found: Mapping[str, Mapping[str, Sequence[float | None]]], patients: Sequence[str], *, draws: int = DRAWS
) -> dict[str, Any]:
    """Mean energy of every map and control with its interval, and how many times each control a map scores.

    Args:
        found: from `focus_of`.
        patients: one id per case.
        draws: of the bootstrap over patients.

    Returns:
        View -> `cases`, `energy`: name -> {value, low, high}, and `times`: "map / control" -> {value, low, high}.
        Views without a single mask are left out.
    """
    out: dict[str, Any] = {}
    for view, columns in found.items():
        known = [i for i, value in enumerate(columns["centre"]) if value is not None]
        if not known:
            continue
        arrays = {
            name: np.array([values[i] for i in known], dtype=float)
            for name, values in columns.items()
            if all(values[i] is not None for i in known)
        }
        intervals = bootstrap(_energies(arrays), [patients[i] for i in known], draws=draws)
        told = {name: interval.as_json() for name, interval in intervals.items()}
        out[view] = {
            "cases": len(known),
            "energy": {name: entry for name, entry in told.items() if " / " not in name},
            "times": {name: entry for name, entry in told.items() if " / " in name},
        }
    return out


def _energies(arrays: Mapping[str, FloatArray]) -> MetricSet:
    def figures(weights: FloatArray) -> dict[str, FloatArray]:
        means = {name: weighted_mean(values, weights) for name, values in arrays.items()}
        ratios = {
            f"{name} / {control}": ratio(means[name], means[control])
            for name in MAPS
            if name in means
            for control in ("centre", "usual_place", f"random_{name}")
        }
        return means | ratios

    return figures


def write_focus(made: Mapping[str, Any], folder: Path) -> None:
    """Write `focus.json` and `focus.md`, the figures and their tables."""
    write_json(folder / "focus.json", made)
    write_text(folder / "focus.md", focus_markdown(made))


def focus_markdown(made: Mapping[str, Any]) -> str:
    """The figures of `focus` as tables."""
    lines = [
        table_line(made),
        "",
        "Share of a map's energy that lies in the evidence; in brackets 95 % intervals over patients.",
    ]
    for view, own in made["views"].items():
        lines += ["", f"| {view}, {own['cases']} cases | Energy inside, % |", "|---|---|"]
        for name, entry in own["energy"].items():
            lines.append(f"| {name.replace('_', ' ')} | {figure_text(entry, '.1f', times=100)} |")
        lines += ["", f"| {view}: map / control | Times |", "|---|---|"]
        for name, entry in own["times"].items():
            lines.append(f"| {name.replace('_', ' ')} | {figure_text(entry, '.2f')} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in made["notes"])]) + "\n"
