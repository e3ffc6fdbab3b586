"""What the service answers, as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from agfnet.types import ReasonCode, WarnedCode

OTHER = "other"
"""A confirmed diagnosis that is none of the model's classes; a class of that name is the same."""


class Record(BaseModel):
    """Base of all: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Reason(Record):
    """Why a case is handed back."""

    code: ReasonCode
    view: str | None = Field(description="The view whose image is strange.")


class Warned(Record):
    """What a reader must know of an image."""

    code: WarnedCode
    view: str
    detail: str | None = Field(description="Of a clip, the frame that was looked at, from 1, and how many there are.")


class ViewAnswer(Record):
    """What one view alone says."""

    prediction: str
    probability: float
    probabilities: dict[str, float]
    weight: float = Field(description="Weight of this view's own opinion in the result.")


class ViewExplained(ViewAnswer):
    """The same, with its share in the decision and where the evidence lies."""

    share: float = Field(description="Shapley value on the log-odds of the prediction.")
    frame: str = Field(description="The view as the network sees it: PNG, data URI.")
    evidence: str = Field(description="What to lay over it: PNG with transparency, data URI.")
    mm_per_pixel: float | None = Field(description="Scale of the frame, where it is known.")


class Answer(Record):
    """What the network says of a case."""

    notice: str
    request_id: str
    version: str
    bundle_sha256: str
    prevalence: dict[str, float] = Field(description="Of the patients that the answer is for: class to share.")
    prediction: str
    probability: float
    probabilities: dict[str, float]
    calibrated: bool
    diagnosis_set: list[str] | None = Field(
        description="Holds the true diagnosis at the stated coverage; others are not excluded."
    )
    coverage: float | None = Field(description="Of the diagnosis sets.")
    referred: bool | None = Field(description="The case is handed back: do not go by the prediction.")
    reasons: list[Reason]
    views_missing: list[str]
    extra: dict[str, dict[str, float]] = Field(description="Further labels and their probabilities.")
    warnings: list[Warned]


class Predicted(Answer):
    """Answer to /v1/predict."""

    views: dict[str, ViewAnswer]


class Explained(Answer):
    """Answer to /v1/explain."""

    views: dict[str, ViewExplained]
    baseline: float = Field(description="Log-odds of the prediction before any view was seen.")


class ViewFacts(Record):
    """What a view's images become."""

    kind: str
    depth: bool = Field(description="Down is depth below the skin: the millimetres per pixel matter.")
    size: tuple[int, int] = Field(description="Height and width of the network's input, pixels.")
    mm_per_pixel: float | None


class Limits(Record):
    """Of each image."""

    max_bytes: int
    max_pixels: int


class ModelFacts(Record):
    """The bundle that answers."""

    notice: str
    version: str
    sha256: str
    format: int
    signature: Literal["verified", "not checked", "none"] = Field(
        description="Verified with the key that the service was started with, or there but not checked, or none."
    )
    classes: list[str]
    malignant: list[str]
    prevalence: dict[str, float] = Field(
        description="Share of each diagnosis among the patients that the probabilities are for, 1 in all."
    )
    views: dict[str, ViewFacts]
    calibrated: bool
    coverage: float | None
    risk: float | None = Field(description="Wanted share of errors among the answered cases.")
    limits: Limits
    card: str | None = Field(description="The model card, Markdown.")


class Feedback(Record):
    """The diagnosis that was confirmed later."""

    request_id: str = Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", description="Of the answer.")
    diagnosis: str = Field(max_length=200, description=f"One of the model's classes, or `{OTHER}`: none of them.")


class Recorded(Record):
    """Answer to /v1/feedback."""

    request_id: str
    recorded: Literal[True]


class Status(Record):
    """Answer of the probes."""

    status: Literal["ok"]


class ProblemBody(Record):
    """Every answer that is not what was asked for."""

    code: str
    message: str
    view: str | None
