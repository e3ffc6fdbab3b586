"""What images and patients are known by again, in a table that was renamed, moved or split anew.

Nothing in a fingerprint can be read. That of an image tells who has the image that it was used. That of a patient could
be found by trying ids, of which there are few: it stays in the run folder, beside the table, and goes into no bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from agfnet.data.imagefile import DEFAULT_LIMITS, file_sha256
from agfnet.types import Case, ImageError, Place

_DIGITS = 16
_THREADS = 8


def image_fingerprints(cases: Iterable[Case]) -> dict[str, set[str]]:
    """Of the bytes of each case's image files, by case_id: whatever the files, the case and the patient are called.

    An image that was saved anew, in another format or cropped, is another.

    An image that cannot be read has none: what reads it for its pixels says what is wrong with it.

    Returns:
        case_id -> 16 hexadecimal digits of each of its images.
    """
    cases = list(cases)
    images = [image for case in cases for image in case.images]
    with ThreadPoolExecutor(_THREADS) as pool:
        prints = iter(list(pool.map(_of_content, images)))
    return {case.case_id: {found for _ in case.images if (found := next(prints))} for case in cases}


def patient_fingerprint(patient_id: str) -> str:
    """16 hexadecimal digits of a patient's id."""
    return hashlib.sha256(patient_id.encode()).hexdigest()[:_DIGITS]


def _of_content(image: Place) -> str:
    try:
        return file_sha256(image, DEFAULT_LIMITS)[:_DIGITS]
    except ImageError:
        return ""
