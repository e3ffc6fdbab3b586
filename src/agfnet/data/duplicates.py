"""The same or nearly the same picture under two patients: content and perceptual hashes, kept between runs.

A picture is hashed by SHA-256 of its bytes, and by the DCT hash of `imagehash.phash` of its upright pixels,
once coarse (64 bits) and once fine (256). Near-duplicates differ in at most `COARSE_THRESHOLD` bits of the
coarse hash, by which candidates are found fast, and in at most `FINE_THRESHOLD` of the fine one, which
decides.

Why these values: to the coarse hash one lesion amid plain skin looks like another. Of the 758,000 pairs of
images in the development parts of derm7pt, 17 differ in 6 coarse bits or fewer, 12 of them false alarms of
two cases that have nothing to do with each other; one of these is at 4 bits. Fine hashes of two cases
differ in 52 bits or more, while 99 of 100 copies differ in at most 8 when saved again, resized or squashed,
in 16 with 20 % more contrast, in 28 with 15 % more light. Of copies that lost 1 % on every side more than
half are found; a copy that is cropped by 5 %, turned or mirrored is not.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from agfnet.data.imagefile import CodedImageError, ImageLimits, file_sha256
from agfnet.data.images import check_shown, read_scaled_image
from agfnet.data.tablefile import Fault
from agfnet.places import place
from agfnet.types import ConfigError, TableError

COARSE_THRESHOLD = 6
FINE_THRESHOLD = 28
BATCH = 128
DECODE_SIDE = 256
_BITS = 64
_FINE_BITS = 256
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS hashes_v3 (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT,"
    " coarse BLOB, fine BLOB, mm_per_pixel REAL, names_patient INTEGER)"
)
ONE_LESION = "Correct the path or the label; where one image shows two lesions, cut one out of it for each."
_SHARED = "Keep all images of a patient under one patient_id, and each image with one patient only."


@dataclass(frozen=True, slots=True)
class Hashes:
    """Hashes of one image file, and what may be kept of what it says of itself.

    Attributes:
        sha256: of the bytes, 64 hexadecimal digits.
        coarse: of the picture, 64 bits.
        fine: of the picture, 256 bits.
        mm_per_pixel: where the file is calibrated.
        names_patient: whether it says whose it is.
    """

    sha256: str
    coarse: int
    fine: int
    mm_per_pixel: float | None = None
    names_patient: bool = False


@dataclass(frozen=True, slots=True)
class Use:
    """Where the table uses an image file; `split` and `label` are None where they are not given."""

    row: int
    view: str
    case: str | None
    patient: str | None
    split: str | None
    label: str | None


def hash_images(
    paths: Sequence[str],
    store: Path,
    *,
    limits: ImageLimits,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, Hashes], dict[str, CodedImageError]]:
    """Hash image files, taking up where an earlier run stopped.

    Args:
        paths: the files, local or by URL.
        store: SQLite file of results; a file whose size and time of change are as before is not read again.
        limits: see `read_image`.
        workers: threads.
        progress: called with (files done, files in all) after every batch.

    Returns:
        Hashes by path, and an error for each file that cannot be read.

    Raises:
        ConfigError: the imagehash package is not installed.
        TableError: `store` is there but is no such file, or cannot be written.
    """
    try:
        import imagehash  # noqa: F401, PLC0415  only this check needs it; the bare install does without
    except ImportError as error:
        message = "the deep check needs the imagehash package. Install it with: pip install 'agfnet[train]'"
        raise ConfigError(message) from error
    try:
        with closing(sqlite3.connect(store)) as database:
            return _hash_missing(database, paths, limits, workers, progress)
    except sqlite3.Error as error:
        message = (
            f"{store}: the results of the deep check cannot be kept there ({error}). "
            "Delete the file if it is damaged; else copy the table to a folder that may be written to."
        )
        raise TableError(message) from error


def near_pairs(hashes: NDArray[np.uint64], threshold: int = COARSE_THRESHOLD) -> NDArray[np.int64]:
    """Find all pairs of hashes that differ in few bits, without comparing every pair.

    The bits are cut into `threshold` + 1 bands; two hashes that differ in at most `threshold` bits agree in
    at least one band (pigeonhole principle), so only hashes that share a band are compared.

    Args:
        hashes: (N,) distinct 64-bit hashes.
        threshold: largest number of differing bits, 0..63.

    Returns:
        (P, 2) indices i < j of each pair, sorted.
    """
    edges = np.linspace(0, _BITS, threshold + 2).round().astype(int)
    found = [np.empty((0, 2), dtype=np.int64)]
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        key = (hashes << np.uint64(_BITS - high)) >> np.uint64(_BITS - high + low)
        order = np.argsort(key, kind="stable")
        key, ordered = key[order], hashes[order]
        # Equal keys lie side by side: compare each with its next, next but one, ... until no keys agree.
        start = np.arange(len(hashes))
        step = 0
        while start.size:
            step += 1
            start = start[: np.searchsorted(start, len(hashes) - step)]
            start = start[key[start] == key[start + step]]
            near = start[np.bitwise_count(ordered[start] ^ ordered[start + step]) <= threshold]
            if near.size:
                found.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def duplicate_faults(hashes: Mapping[str, Hashes], uses: Mapping[str, Use]) -> list[Fault]:
    """Faults for pictures that two patients or two diagnoses share, or that one case lists twice under two names.

    Args:
        hashes: path -> hashes.
        uses: path -> its first use in the table.

    Returns:
        One fault per picture and its nearest earlier counterpart, not one per pair.
    """
    contents: dict[str, list[Use]] = defaultdict(list)
    # One picture per fine hash: what is the same to the fine hash is compared within its group.
    pictures: dict[tuple[int, int], list[Use]] = defaultdict(list)
    for path, use in sorted(uses.items(), key=lambda item: item[1].row):
        if path in hashes:
            same = contents[hashes[path].sha256]
            if not same:
                pictures[hashes[path].coarse, hashes[path].fine].append(use)
            same.append(use)
    faults = [fault for same in contents.values() for fault in _same_faults(same)]
    for group in pictures.values():
        faults += _near_faults(group, group, 0)
    by_coarse: dict[int, list[tuple[int, list[Use]]]] = defaultdict(list)
    for (coarse, fine), group in pictures.items():
        by_coarse[coarse].append((fine, group))
    candidates = list(by_coarse.values())
    for same_coarse in candidates:
        for nth, (fine, group) in enumerate(same_coarse):
            for earlier_fine, earlier in same_coarse[:nth]:
                faults += _near_faults(group, earlier, (fine ^ earlier_fine).bit_count())
    for i, j in near_pairs(np.array(list(by_coarse), dtype=np.uint64)).tolist():
        for earlier_fine, earlier in candidates[i]:
            for fine, group in candidates[j]:
                faults += _near_faults(group, earlier, (fine ^ earlier_fine).bit_count())
    return faults


def _hash_missing(
    database: sqlite3.Connection,
    paths: Sequence[str],
    limits: ImageLimits,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Hashes], dict[str, CodedImageError]]:
    database.execute(_SCHEMA)
    known = {
        (path, size, mtime): Hashes(
            sha256, int.from_bytes(coarse, "big"), int.from_bytes(fine, "big"), mm_per_pixel, bool(names)
        )
        for path, size, mtime, sha256, coarse, fine, mm_per_pixel, names in database.execute(
            "SELECT path, size, mtime_ns, sha256, coarse, fine, mm_per_pixel, names_patient FROM hashes_v3"
        )
    }
    hashes: dict[str, Hashes] = {}
    errors: dict[str, CodedImageError] = {}
    stamps = {path: _stamp(path) for path in paths}
    todo = []
    for path, (size, mtime) in stamps.items():
        if (path, size, mtime) in known:
            hashes[path] = known[path, size, mtime]
        else:
            todo.append(path)
    done = len(hashes)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            for path, result in zip(batch, pool.map(lambda one: _hash(one, limits), batch), strict=True):
                if isinstance(result, CodedImageError):
                    errors[path] = result
                    continue
                hashes[path] = result
                blobs = (
                    result.coarse.to_bytes(_BITS // 8, "big"),
                    result.fine.to_bytes(_FINE_BITS // 8, "big"),
                )
                row = (path, *stamps[path], result.sha256, *blobs, result.mm_per_pixel, result.names_patient)
                database.execute("INSERT OR REPLACE INTO hashes_v3 VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            database.commit()
            if progress is not None:
                progress(done + start + len(batch), len(paths))
    return hashes, errors


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = place(path).stat()
    except (OSError, ValueError):
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _hash(path: str, limits: ImageLimits) -> Hashes | CodedImageError:
    import imagehash  # noqa: PLC0415

    try:
        pixels, said = read_scaled_image(path, limits=limits, at_least=DECODE_SIDE)
        check_shown(path, pixels)
        sha256 = file_sha256(place(path), limits)
    except CodedImageError as error:
        return error
    picture = Image.fromarray(pixels)
    coarse, fine = (
        int.from_bytes(np.packbits(imagehash.phash(picture, hash_size=side).hash).tobytes(), "big") for side in (8, 16)
    )
    return Hashes(sha256, coarse, fine, said.mm_per_pixel, said.patient is not None)


def _of_other_patient(use: Use, candidates: Sequence[Use]) -> Use | None:
    return next((other for other in candidates if other.patient != use.patient), None)


def _same_faults(same: Sequence[Use]) -> list[Fault]:
    faults = []
    first = same[0]
    for use in same[1:]:
        other = _of_other_patient(use, same)
        if other is not None:
            faults.append(_shared(use, other, "the same file content"))
        elif use.case == first.case:
            message = f"the {use.view} image has the same content as the {first.view} image of this case"
            faults.append(_fault("duplicate-image", message, "List each image once.", use))
        elif unlike := [one for one in same if one.row < use.row and len({one.label, use.label} - {None}) > 1]:
            message = (
                f"the {use.view} image of a case of {use.label!r} has the same content as the {unlike[0].view} image "
                f"of row {unlike[0].row}, a case of {unlike[0].label!r}"
            )
            faults.append(_fault("image-of-two-diagnoses", message, ONE_LESION, use))
    return faults


def _near_faults(group: Sequence[Use], earlier: Sequence[Use], bits: int) -> list[Fault]:
    faults: list[Fault] = []
    if bits > FINE_THRESHOLD:
        return faults
    first = earlier[0]
    second = _of_other_patient(first, earlier)
    for use in group:
        other = first if first.patient != use.patient else second
        # Within one group the first is only what the others are compared with.
        if other is not None and not (group is earlier and use is first):
            what = f"a near-duplicate ({bits} of {_FINE_BITS} bits differ)"
            faults.append(_shared(use, other, what))
    return faults


def _shared(use: Use, other: Use, what: str) -> Fault:
    use, other = (use, other) if use.row >= other.row else (other, use)
    across = use.split is not None and other.split is not None and use.split != other.split
    exact = what.startswith("the same")
    kind = "same-image" if exact else "near-duplicate"
    place = f"{other.view} of row {other.row}, patient {other.patient!r}"
    if across:
        message = f"the {use.view} image is {what} of {place}, across splits ({use.split}, {other.split})"
        return _fault(f"{kind}-across-splits", message, _SHARED, use)
    message = f"the {use.view} image of patient {use.patient!r} is {what} of {place}"
    return _fault(f"{kind}-of-two-patients", message, _SHARED, use)


def _fault(cause: str, message: str, remedy: str, use: Use) -> Fault:
    return Fault(cause=cause, message=message, remedy=remedy, row=use.row, column=use.view)
