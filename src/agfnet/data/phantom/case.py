"""One paired case: who, what, how it was seen, and the images. Nothing is written here."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.data.phantom.appearance import PREVALENCE
from agfnet.data.phantom.doppler import colour_flow
from agfnet.data.phantom.fields import stream
from agfnet.data.phantom.lesion import Lesion, draw_lesion
from agfnet.data.phantom.marks import draw_marks
from agfnet.data.phantom.photo import render_photo
from agfnet.data.phantom.scan import render_scan
from agfnet.data.phantom.settings import SITES, Shot, Skin, draw_shot, draw_skin

SiteName = Literal["internal", "external"]
Marks = Literal["some", "none", "all"]
SEVERAL = {1: 0.78, 2: 0.16, 3: 0.06}
"""Chance that a patient has so many lesions; an assumption."""
ALIKE = 0.5
"""Chance that a further lesion repeats the class of the patient's first; otherwise it is drawn anew. An assumption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One case before it is drawn: its place in the set and its class.

    Attributes:
        case_id, patient_id: names.
        number: of the case in the set.
        patient: number of the patient.
        label: the class.
        site: north, south or external.
    """

    case_id: str
    patient_id: str
    number: int
    patient: int
    label: str
    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The images of a case as the bytes of their files, masks as arrays, and its parameters.

    Attributes:
        photo: JPEG.
        scan, doppler: PNG; Doppler only where it was asked for.
        photo_mask, scan_mask: (H, W) uint8: 255 the lesion, 128 further evidence, 0 neither.
        mm_per_pixel: view -> mm.
        truth: the parameters.
    """

    photo: bytes
    scan: bytes
    doppler: bytes | None
    photo_mask: NDArray[np.uint8]
    scan_mask: NDArray[np.uint8]
    mm_per_pixel: Mapping[str, float]
    truth: Mapping[str, float | str | bool]


def draw_subjects(cases: int, seed: int, site: SiteName, *, balanced: bool = False) -> list[Subject]:
    """Patients with their lesions' classes, as many as give this number of cases.

    Args:
        cases: number of cases.
        seed: of every draw.
        site: "internal" (two hospitals) or "external".
        balanced: all classes alike often, in turn, whoever the patient is; otherwise by `PREVALENCE`.
    """
    labels, shares = list(PREVALENCE), np.array(list(PREVALENCE.values()))
    prefix = f"s{seed}-{'x' if site == 'external' else 'p'}"  # patients of two sets are not the same
    subjects: list[Subject] = []
    patient = 0
    while len(subjects) < cases:
        rng = stream(seed, site, "patient", patient)
        count = int(rng.choice(list(SEVERAL), p=list(SEVERAL.values())))
        hospital = "external" if site == "external" else str(rng.choice(["north", "south"]))
        first = str(rng.choice(labels, p=shares / shares.sum()))
        for lesion in range(min(count, cases - len(subjects))):
            label = first if lesion == 0 or rng.uniform() < ALIKE else str(rng.choice(labels, p=shares / shares.sum()))
            number = len(subjects)
            subjects.append(
                Subject(
                    case_id=f"{prefix}{patient:05d}-{lesion + 1}",
                    patient_id=f"{prefix}{patient:05d}",
                    number=number,
                    patient=patient,
                    label=labels[number % len(labels)] if balanced else label,
                    site=hospital,
                )
            )
        patient += 1
    return subjects


def draw_case(subject: Subject, seed: int) -> tuple[Lesion, Skin, Shot]:
    """The object, the skin it lies in, and how it is seen; nothing is rendered.

    The skin is the patient's, and so the same for all lesions of one.
    """
    skin = draw_skin(SITES[subject.site], stream(seed, subject.site, "skin", subject.patient))
    lesion = draw_lesion(subject.label, stream(seed, subject.site, "lesion", subject.number))
    shot = draw_shot(subject.site, stream(seed, subject.site, "shot", subject.number))
    return lesion, skin, shot


def render_case(
    subject: Subject, seed: int, *, size: int = 224, doppler: bool = False, marks: Marks = "some"
) -> Rendered:
    """Draw and render one case.

    Args:
        subject: which.
        seed: of the set.
        size: side of the photo and width of the scan, pixels.
        doppler: also make the third view.
        marks: rulers, pen, calipers and text on some images, on none or on all. The images under them are the same.
    """
    lesion, skin, shot = draw_case(subject, seed)
    photo_marks, scan_marks = _marks(shot, marks, stream(seed, subject.site, "marked", subject.number))
    photo = render_photo(lesion, skin, shot, size, stream(seed, subject.site, "photo", subject.number))
    scan = render_scan(lesion, skin, shot, size, stream(seed, subject.site, "scan", subject.number))
    pen = stream(seed, subject.site, "marks of the photo", subject.number)
    picture = draw_marks(Image.fromarray(photo.image), photo_marks, photo.mm_per_pixel, pen)
    pen = stream(seed, subject.site, "marks of the scan", subject.number)
    image = draw_marks(Image.fromarray(scan.image), scan_marks, scan.mm_per_pixel, pen)
    coloured = None
    if doppler:
        flow = colour_flow(scan.image, scan.flow, stream(seed, subject.site, "doppler", subject.number))
        coloured = image_file(Image.fromarray(flow), "PNG")
    scale = {"clinical": photo.mm_per_pixel, "ultrasound": scan.mm_per_pixel}
    if doppler:
        scale["doppler"] = scan.mm_per_pixel
    return Rendered(
        photo=image_file(picture, "JPEG", quality=shot.quality),
        scan=image_file(image, "PNG"),
        doppler=coloured,
        photo_mask=_mask(photo.lesion, photo.evidence),
        scan_mask=_mask(scan.lesion, scan.evidence),
        mm_per_pixel=scale,
        truth={
            **asdict(subject),
            "lesion_shape": lesion.shape,
            "lesion_spots": len(lesion.spots),
            "lesion_cavities": len(lesion.cavities),
            **{f"lesion_{name}": value for name, value in lesion.numbers.items()},
            **{f"lesion_has_{name}": value for name, value in lesion.signs.items()},
            **{f"skin_{name}": value for name, value in asdict(skin).items()},
            **{f"shot_{name}": value for name, value in asdict(shot).items()},
            "shot_marks_photo": photo_marks,
            "shot_marks_scan": scan_marks,
        },
    )


def _marks(shot: Shot, marks: Marks, rng: np.random.Generator) -> tuple[str, str]:
    photo, scan = str(rng.choice(["ruler", "pen"])), str(rng.choice(["calipers", "text"]))
    if marks == "none":
        return "none", "none"
    return (shot.marks_photo, shot.marks_scan) if marks == "some" else (photo, scan)


def _mask(lesion: NDArray[np.bool_], evidence: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(lesion, 255, np.where(evidence, 128, 0)).astype(np.uint8)


def image_file(image: Image.Image, kind: str, **options: int) -> bytes:
    """The bytes of an image's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
