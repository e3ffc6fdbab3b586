"""From uploaded bytes to an answer's JSON: no HTTP here."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import agfnet
from agfnet.data.imagefile import CodedImageError, ImageLimits
from agfnet.data.preprocess import Framed, ViewSpec, read_frame
from agfnet.data.said import other_patient
from agfnet.kinds import KINDS
from agfnet.prediction.bundle import CARD
from agfnet.prediction.explanation import Explanation
from agfnet.prediction.overlay import colours
from agfnet.prediction.predictor import Frames, Predictor
from agfnet.serving.problems import Problem, image_problem
from agfnet.serving.schemas import (
    Answer,
    Explained,
    Limits,
    ModelFacts,
    Predicted,
    ViewAnswer,
    ViewExplained,
    ViewFacts,
)
from agfnet.types import RESEARCH_USE, ImageError, Prediction

VERSION: str = agfnet.__version__


@dataclass(frozen=True)
class Upload:
    """What a request brought.

    Attributes:
        files: modality -> the content of each image.
        mm_per_pixel: modality -> scale of its images, where it was given.
    """

    files: Mapping[str, Sequence[bytes]]
    mm_per_pixel: Mapping[str, float]

    @cached_property
    def hashes(self) -> dict[str, list[str]]:
        """Modality -> SHA-256 of each image."""
        return {view: [hashlib.sha256(one).hexdigest() for one in own] for view, own in self.files.items()}


@dataclass
class Deadline:
    """When nobody waits for an answer any more.

    Attributes:
        at: of `time.monotonic`; in the past once the caller has gone away.
    """

    at: float = math.inf


def read_upload(upload: Upload, predictor: Predictor, limits: ImageLimits, deadline: Deadline) -> Frames:
    """Decode and fit every image.

    Args:
        upload: the images.
        predictor: the network that is asked.
        limits: what an image may be.
        deadline: no image is begun after it.

    Raises:
        Problem: one that cannot be used, is of another patient or was sent twice, with its view.
        TimeoutError: it is too late.
    """
    if view := _sent_twice(upload.hashes):
        message = f"{view}: is the same file as another image. Send each image once, as the view that it is."
        raise Problem(422, "duplicate-image", message, view=view)
    frames: dict[str, list[Framed]] = {view: [] for view in upload.files}
    for view, contents in upload.files.items():
        for content in contents:
            if time.monotonic() > deadline.at:
                raise TimeoutError
            scale = upload.mm_per_pixel.get(view)
            frames[view].append(_framed(content, view, predictor.specs[view], scale, limits))
    if view := other_patient({view: [frame.patient for frame in own] for view, own in frames.items()}):
        raise Problem(422, "other-patient", f"{view}: an image is of another patient than the one before.", view=view)
    return frames


def _sent_twice(hashes: Mapping[str, Sequence[str]]) -> str | None:
    """The view with an image that came before, if one has."""
    seen: set[str] = set()
    for view, own in hashes.items():
        for one in own:
            if one in seen:
                return view
            seen.add(one)
    return None


def _framed(content: bytes, view: str, spec: ViewSpec, mm_per_pixel: float | None, limits: ImageLimits) -> Framed:
    try:
        return read_frame(content, spec, mm_per_pixel=mm_per_pixel, limits=limits)
    except CodedImageError as error:
        raise image_problem(error, view) from error
    except ImageError:
        message = f"{view}: the millimetres per pixel cannot be right. Check their unit."
        raise Problem(422, "implausible-scale", message, view=view) from None


def _common(p: Prediction, predictor: Predictor, request_id: str) -> dict[str, object]:
    classes, decision = predictor.classes, predictor.decision
    top = int(p.probabilities.argmax())
    return {
        "notice": RESEARCH_USE,
        "request_id": request_id,
        "version": VERSION,
        "bundle_sha256": predictor.bundle.sha256,
        "prevalence": _named(classes, predictor.prior),
        "prediction": classes[top],
        "probability": float(p.probabilities[top]),
        "probabilities": _named(classes, p.probabilities),
        "calibrated": decision is not None,
        "diagnosis_set": None if p.diagnosis_set is None else [classes[k] for k in p.diagnosis_set],
        "coverage": None if decision is None else decision.coverage,
        "referred": None if p.referred is None else bool(p.referred),
        "reasons": [reason._asdict() for reason in p.referred or ()],
        "views_missing": [view for view in predictor.specs if view not in p.views_present],
        "extra": {
            column: _named(predictor.bundle.extra_classes[column], own) for column, own in p.extra_probabilities.items()
        },
        "warnings": [warned._asdict() for warned in p.warnings],
    }


def _named(classes: Sequence[str], probabilities: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(p) for name, p in zip(classes, probabilities, strict=True)}


def _view(p: Prediction, view: str, classes: Sequence[str]) -> dict[str, object]:
    own = p.view_probabilities[view]
    top = int(own.argmax())
    return {
        "prediction": classes[top],
        "probability": float(own[top]),
        "probabilities": _named(classes, own),
        "weight": p.view_weights[view],
    }


def predicted(p: Prediction, predictor: Predictor, request_id: str) -> Predicted:
    """The answer to /v1/predict."""
    views = {view: ViewAnswer.model_validate(_view(p, view, predictor.classes)) for view in p.views_present}
    return Predicted.model_validate({**_common(p, predictor, request_id), "views": views})


def explained_answer(made: Explanation, predictor: Predictor, request_id: str) -> Explained:
    """The answer to /v1/explain."""
    p = made.prediction
    views = {
        view: ViewExplained.model_validate(
            {
                **_view(p, view, predictor.classes),
                "share": made.shares[view],
                "frame": _png(made.frames[view]),
                "evidence": _png(_glass(made.heat[view])),
                "mm_per_pixel": made.mm_per_pixel[view],
            }
        )
        for view in p.views_present
    }
    return Explained.model_validate({**_common(p, predictor, request_id), "views": views, "baseline": made.baseline})


def _glass(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Evidence as colours with transparency, (H, W, 4): clear where there is none."""
    opacity = np.rint(255.0 * np.sqrt(heat)).astype(np.uint8)
    return np.dstack([colours(heat), opacity])


def _png(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def audited(answer: Answer, upload: Upload) -> dict[str, object]:
    """What the audit log keeps of an answer: all that it says, and of what; no image, no identifier."""
    said = answer.model_dump(exclude={"notice": True, "request_id": True, "views": {"__all__": {"frame", "evidence"}}})
    return {**said, "inputs_sha256": upload.hashes, "mm_per_pixel": dict(upload.mm_per_pixel)}


def model_facts(predictor: Predictor, limits: ImageLimits) -> ModelFacts:
    """The answer to /v1/model."""
    bundle, decision = predictor.bundle, predictor.decision
    card = bundle.parts.get(CARD)
    return ModelFacts(
        notice=RESEARCH_USE,
        version=VERSION,
        sha256=bundle.sha256,
        format=bundle.facts["format"],
        signature=bundle.signed,
        classes=list(bundle.classes),
        malignant=list(bundle.facts["malignant"]),
        prevalence=_named(predictor.classes, predictor.prior),
        views={
            view: ViewFacts(
                kind=spec.kind, depth=KINDS[spec.kind].depth, size=spec.size, mm_per_pixel=spec.mm_per_pixel
            )
            for view, spec in predictor.specs.items()
        },
        calibrated=decision is not None,
        coverage=None if decision is None else decision.coverage,
        risk=None if decision is None else decision.risk,
        limits=Limits(max_bytes=limits.max_bytes, max_pixels=limits.max_pixels),
        card=None if card is None else card.decode("utf-8", "replace"),
    )
