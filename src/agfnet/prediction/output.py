"""Outcomes as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import polars as pl

from agfnet.prediction.predictor import Outcome, Predictor
from agfnet.types import RESEARCH_USE, Prediction


def percent(share: float, digits: int = 0) -> str:
    """A share for people: none but 1 itself is 100 %, and none but 0 itself is 0 %.

    >>> percent(0.874), percent(0.9993), percent(0.9996, 1), percent(1.0), percent(0.002)
    ('87%', '>99%', '>99.9%', '100%', '<1%')
    """
    step = 10.0 ** -(digits + 2)
    if 0.0 < share < step / 2:
        return f"<{step:.{digits}%}"
    if 1.0 - step / 2 < share < 1.0:
        return f">{1.0 - step:.{digits}%}"
    return f"{share:.{digits}%}"


NOT_CALIBRATED = (
    "not calibrated: probabilities are raw, images unlike the training images are not noticed, and nothing is referred"
)
SHOWN = 3
"""Diagnoses that a person is told."""
ANSWERED_BY = "bundle_sha256"
"""The column that tells which file answered: a table that has it holds answers."""


def outcome_table(outcomes: Iterable[Outcome], predictor: Predictor) -> pl.DataFrame:
    """One row per case.

    Columns: case_id; prediction (top class) and probability; p_<class>; views_present; views_missing (a prediction
    from fewer views than the network knows says so here); for each view <view>_prediction, <view>_p_<class> and
    weight_<view>; weight_fused; <further label>_prediction; diagnosis_set (see `Conformal`; by ;),
    referred (yes or no) and refer_reasons, of a calibrated bundle (of another the last is "not calibrated"); warnings
    (see `Warned`; by ;); error; prevalence (CLASS=SHARE by commas, where one is stated); bundle_sha256; notice.
    """
    classes, views, extra_classes = predictor.classes, tuple(predictor.specs), predictor.bundle.extra_classes
    origin = {
        "prevalence": stated_prevalence(predictor),
        ANSWERED_BY: predictor.bundle.sha256,
        "notice": RESEARCH_USE,
    }
    schema: dict[str, type[pl.DataType]] = {
        "case_id": pl.String,
        "prediction": pl.String,
        "probability": pl.Float64,
    }
    schema |= {f"p_{c}": pl.Float64 for c in classes}
    schema |= {"views_present": pl.String, "views_missing": pl.String, "weight_fused": pl.Float64}
    for view in views:
        schema |= {f"{view}_prediction": pl.String, **{f"{view}_p_{c}": pl.Float64 for c in classes}}
        schema[f"weight_{view}"] = pl.Float64
    schema |= {f"{column}_prediction": pl.String for column in extra_classes}
    schema |= dict.fromkeys(("diagnosis_set", "referred", "refer_reasons", "warnings", "error", *origin), pl.String)
    rows = [
        {
            "case_id": o.case.case_id,
            "error": o.error,
            **origin,
            **({} if o.prediction is None else _values(o.prediction, classes, views, extra_classes)),
        }
        for o in outcomes
    ]
    return pl.DataFrame(rows, schema=schema)


def told(outcome: Outcome, predictor: Predictor) -> str:
    """One case for a person: the diagnosis with those next to it, what may be made of it, and the notice."""
    p, decision = outcome.prediction, predictor.decision
    if p is None:
        return f"{outcome.error}\n"
    by_rank = np.argsort(-p.probabilities)
    ranked = [f"{predictor.classes[k]} {percent(p.probabilities[k], 1)}" for k in by_rank[:SHOWN]]
    missing = [view for view in predictor.specs if view not in p.views_present]
    lines = [f"{ranked[0]}; then {', '.join(ranked[1:])}"]
    if decision is None or p.diagnosis_set is None:
        lines.append(NOT_CALIBRATED)
    else:
        sure = (
            [f"referred: {', '.join(map(str, p.referred))}; do not go by the diagnosis"] if p.referred else ["answered"]
        )
        names = ", ".join(predictor.classes[k] for k in p.diagnosis_set)
        lines += [
            *sure,
            f"diagnosis set (holds it in {percent(decision.coverage)} of cases like those calibrated on): {names}",
        ]
    lines += [f"{view} alone: {predictor.classes[int(own.argmax())]}" for view, own in p.view_probabilities.items()]
    lines += [f"missing: {', '.join(missing)}"] if missing else []
    lines += [f"warning: {warned}" for warned in p.warnings]
    if (stated := stated_prevalence(predictor)) is not None:
        lines.append(f"for patients with {stated}")
    return "\n".join([*lines, f"bundle {predictor.bundle.sha256[:12]}; every figure: -o FILE.csv", RESEARCH_USE]) + "\n"


def stated_prevalence(predictor: Predictor) -> str | None:
    """CLASS=SHARE by commas, where one is stated."""
    stated = predictor.prevalence
    return None if stated is None else ",".join(f"{c}={s:.3g}" for c, s in zip(predictor.classes, stated, strict=True))


def _values(
    p: Prediction,
    classes: tuple[str, ...],
    views: tuple[str, ...],
    extra_classes: Mapping[str, tuple[str, ...]],
) -> dict[str, object]:
    top = int(p.probabilities.argmax())
    values: dict[str, object] = {
        "prediction": classes[top],
        "probability": float(p.probabilities[top]),
        **{f"p_{c}": float(v) for c, v in zip(classes, p.probabilities, strict=True)},
        "views_present": ";".join(p.views_present),
        "views_missing": ";".join(v for v in views if v not in p.views_present),
        "weight_fused": p.view_weights["fused"],
        "warnings": ";".join(map(str, p.warnings)) or None,
    }
    if p.diagnosis_set is not None and p.referred is not None:
        values["diagnosis_set"] = ";".join(classes[k] for k in p.diagnosis_set)
        values["referred"] = "yes" if p.referred else "no"
        values["refer_reasons"] = ";".join(map(str, p.referred))
    else:
        values["refer_reasons"] = "not calibrated"
    for view, own in p.view_probabilities.items():
        values[f"{view}_prediction"] = classes[int(own.argmax())]
        values |= {f"{view}_p_{c}": float(v) for c, v in zip(classes, own, strict=True)}
        values[f"weight_{view}"] = p.view_weights[view]
    for column, names in extra_classes.items():
        values[f"{column}_prediction"] = names[int(p.extra_probabilities[column].argmax())]
    return values
