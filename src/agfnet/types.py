"""The few records and errors that cross the package's rooms. NumPy only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

RESEARCH_USE = "Research use only. Not a medical device: no output may guide the care of a patient."

SYNTHETIC = "Synthetic (agfnet phantom): no figure on these images is a clinical result."
SYNTHETIC_STANDARD = "synthetic"
"""The reference standard of phantom cases; whatever reports figures on such cases says so."""


class AgfnetError(Exception):
    """Something the user can put right; the message names what, where and the remedy."""


class TableError(AgfnetError):
    """The case table itself cannot be used."""


class ImageError(AgfnetError):
    """An image file cannot be read; the message names the file."""


class ConfigError(AgfnetError):
    """The configuration does not fit itself, the table or the machine."""


class BundleError(AgfnetError):
    """A run folder or exported bundle cannot be used."""


class Place(Protocol):
    """Where a table or an image lies: a `pathlib.Path`, or an `agfnet.places.Url`, which reads like one."""

    @property
    def name(self) -> str:
        """What comes after the last slash."""

    @property
    def suffix(self) -> str:
        """The name's ending with its dot, or nothing."""

    @property
    def parent(self) -> Self:
        """The folder."""

    def __truediv__(self, relative: str, /) -> Self: ...

    def resolve(self) -> Self:
        """The same place, whatever the working directory."""

    def stat(self) -> os.stat_result:
        """Kind, size and version."""

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it for reading."""

    def read_bytes(self) -> bytes:
        """The whole content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One lesion of one patient, as a row of the case table says it.

    Attributes:
        case_id: unique in the table.
        patient_id: what splits keep together.
        row: the row in the file, counted as a spreadsheet does (the header is row 1).
        views: modality -> image files of that view; an absent view has an empty tuple.
        label: the diagnosis, or None where it is not known.
        extra_labels: further label column -> value, or None where it is not known.
        mm_per_pixel: modality -> size of a pixel in mm, where the table gives it.
        split: train, validation, calibration or test, where the table gives it.
        site: where the case comes from, where the table gives it.
        reference_standard: how the diagnosis was made (histology, clinical, ...), where the table gives it.
        attributes: free columns, for subgroups.
    """

    case_id: str
    patient_id: str
    row: int
    views: Mapping[str, tuple[Place, ...]]
    label: str | None = None
    extra_labels: Mapping[str, str | None] = field(default_factory=dict)
    mm_per_pixel: Mapping[str, float] = field(default_factory=dict)
    split: str | None = None
    site: str | None = None
    reference_standard: str | None = None
    attributes: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def images(self) -> list[Place]:
        """The image files of all its views."""
        return [path for paths in self.views.values() for path in paths]

    def with_views(self, *views: str) -> Case:
        """The case as if these alone of its views had been taken."""
        return replace(self, views={view: self.views[view] for view in views})


ReasonCode = Literal["unsure", "disagree", "strange"]
WarnedCode = Literal["burned-in", "no-scale", "clip", "upside-down"]


class Reason(NamedTuple):
    """Why a case is handed back; as text what a reader is told.

    Attributes:
        code: unsure; disagree, the views speak for different diagnoses; strange, an image is unlike those trained on.
        view: the modality whose image is strange.
    """

    code: ReasonCode
    view: str | None = None

    def __str__(self) -> str:
        words = {"unsure": "unsure", "disagree": "views disagree", "strange": "unlike the training images"}[self.code]
        return words if self.view is None else f"{self.view}: {words}"


class Warned(NamedTuple):
    """What a reader must know of an image; it is answered all the same.

    Attributes:
        code: burned-in, the file says that text is burned into it; no-scale, it was fitted to the frame whatever it
            measures, though the network sees the view at a fixed scale; clip, one frame of several was looked at;
            upside-down, the file says that depth grows upwards.
        view: its modality.
        detail: of a clip, the frame's number, from 1, and how many there are: 13/25.
    """

    code: WarnedCode
    view: str
    detail: str | None = None

    def __str__(self) -> str:
        words = {
            "burned-in": "text is burned in",
            "no-scale": "no scale",
            "clip": f"of a clip frame {self.detail}",
            "upside-down": "may be upside down",
        }
        return f"{self.view}: {words[self.code]}"


class Split(NamedTuple):
    """The cases of one training.

    Attributes:
        train: are learnt from.
        validation: are looked at meanwhile; of a fold, those held out.
    """

    train: Sequence[Case]
    validation: Sequence[Case]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the network says of one case.

    Attributes:
        case_id: the case.
        probabilities: (K,) float, sums to 1; calibrated where the bundle is.
        view_probabilities: modality -> (K,) float: what that view says alone, for the same prevalence, but never
            calibrated; absent views are not in it.
        view_weights: "fused" and each present modality -> weight of its opinion in the result, sums to 1.
        views_present: the modalities that were there.
        attention: modality -> (H, W) float in (0, 1), where maps were asked for.
        evidence: modality -> (K, H, W) float in logits, where maps were asked for.
        extra_probabilities: further label column -> (K',) float.
        statistics: modality -> (I, 2 C) mean and log deviation of the encoder's channels, one row per image of
            the view, repeated from the first where another view has more looks, until it has as many.
        distances: modality -> how far the view's farthest image lies from those trained on, see `Reference.distance`;
            empty from a bundle that is not calibrated.
        calibrated: (K,) float: `probabilities` at the prevalence that was calibrated for, whatever is stated, which is
            what drift is told from; None from a bundle that is not calibrated.
        diagnosis_set: places of its classes, see `Conformal`; None from a bundle that is not calibrated.
        referred: why the case is handed back; empty where it is answered, None from a bundle that is not calibrated.
        warnings: of its images.
    """

    case_id: str
    probabilities: NDArray[np.float64]
    view_probabilities: Mapping[str, NDArray[np.float64]]
    view_weights: Mapping[str, float]
    views_present: tuple[str, ...]
    attention: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    evidence: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    extra_probabilities: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    statistics: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)
    calibrated: NDArray[np.float64] | None = None
    diagnosis_set: tuple[int, ...] | None = None
    referred: tuple[Reason, ...] | None = None
    warnings: tuple[Warned, ...] = ()
