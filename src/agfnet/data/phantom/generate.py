"""A phantom data set on disk: images, masks, parameters, the case table and contact sheets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import polars as pl
from PIL import Image

from agfnet.cores import cores
from agfnet.data.phantom.appearance import MALIGNANT, PREVALENCE
from agfnet.data.phantom.case import Marks, Rendered, SiteName, Subject, draw_subjects, image_file, render_case
from agfnet.data.phantom.sheets import write_sheets
from agfnet.data.tablewrite import write_table
from agfnet.files import read_json, write_atomically, write_json
from agfnet.types import RESEARCH_USE, SYNTHETIC, SYNTHETIC_STANDARD, ConfigError

VERSION = "1"
"""Of the generator: a set is named by it, its seed and its settings. A change of any image is a new version."""
TABLE, TRUTH, ABOUT = "cases.csv", "truth.csv", "phantom.json"
CASES_A_PROCESS = 16  # below this, starting a process takes longer than drawing its cases


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What makes a set; see `phantom`."""

    cases: int
    seed: int
    site: SiteName
    size: int
    doppler: bool
    balanced: bool
    marks: Marks


def phantom(
    out: str | Path,
    *,
    cases: int = 1000,
    seed: int = 0,
    site: SiteName = "internal",
    size: int = 224,
    doppler: bool = False,
    balanced: bool = False,
    marks: Marks = "some",
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """Make a set of paired phantoms: one drawn lesion a case, photographed and scanned. Everything is synthetic.

    Written are `cases.csv` (the case table), `truth.csv` (the parameters and the masks' paths), `clinical/*.jpg`,
    `ultrasound/*.png`, with Doppler `doppler/*.png`, `masks/*.png` (255 the lesion, 128 further evidence such as its
    shadow, 0 neither), `sheets/*.png` and `phantom.json`. One seed gives the same bytes on one machine and lock. A
    call that was stopped goes on where it was; a finished set is left as it is.

    Args:
        out: the folder.
        cases: how many lesions, 1 or more; some patients have several.
        seed: of every draw, 0 or more.
        site: "internal" (two hospitals) or "external" (other devices, cameras and mix of skin types).
        size: side of the photos and width of the scans in pixels, 64 to 1024.
        doppler: also make colour Doppler as a third view.
        balanced: all classes alike often; otherwise uneven, as in a clinic.
        marks: rulers, pen, calipers and text on "some" images, on "none" or on "all".
        workers: processes at most; None takes one for each processor. They are spawned: a script that asks for
            more than a few cases calls this under `if __name__ == "__main__":`.
        progress: called with the number of finished cases and of all.

    Returns:
        The case table.

    Raises:
        ConfigError: a setting is out of range, or the folder holds a set with other settings.
    """
    if cases < 1 or seed < 0 or not 64 <= size <= 1024:
        raise ConfigError(
            f"a phantom set needs 1 case or more, a seed of 0 or more and a size of 64 to 1024, not {cases=}, {seed=}, "
            f"{size=}."
        )
    for name, value, known in (("site", site, get_args(SiteName)), ("marks", marks, get_args(Marks))):
        if value not in known:
            raise ConfigError(f"{name} {value!r} is not known; there are {', '.join(known)}.")
    settings = Settings(
        cases=cases, seed=seed, site=site, size=size, doppler=doppler, balanced=balanced, marks=marks
    )  # fmt: skip
    out = Path(out)
    about = _about(settings)
    if (out / ABOUT).exists():
        if read_json(out / ABOUT) != about:
            raise ConfigError(f"{out}: holds a phantom set with other settings ({ABOUT}); choose another folder.")
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out}: is not empty and holds no phantom set; choose another folder.")
    write_json(out / ABOUT, about)
    if (out / TABLE).exists():
        return out / TABLE
    subjects = draw_subjects(cases, seed, site, balanced=balanced)
    useful = math.ceil(cases / CASES_A_PROCESS)
    rows = _rendered(subjects, out, settings, min(workers or cores(), useful), progress)
    _write_tables(rows, out, doppler=doppler)
    return out / TABLE


def _about(settings: Settings) -> dict[str, Any]:
    return {
        "notice": f"{SYNTHETIC} {RESEARCH_USE}",
        "version": VERSION,
        **asdict(settings),
        "classes": list(PREVALENCE),
        "malignant": list(MALIGNANT),
    }


def _rendered(
    subjects: Sequence[Subject], out: Path, settings: Settings, workers: int, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """Render what is not there yet; the rows of all cases, in order."""
    render = partial(_write_case, out=out, settings=settings)
    rows: list[dict[str, Any]] = []
    if workers == 1:
        for row in map(render, subjects):
            rows.append(row)
            progress(len(rows), len(subjects))
        return rows
    # Spawned: a fork of a process with threads of its own (PyTorch, ONNX Runtime) may wait for ever on a lock.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for row in pool.map(render, subjects, chunksize=4):
                rows.append(row)
                progress(len(rows), len(subjects))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return rows


def _write_case(subject: Subject, out: Path, settings: Settings) -> dict[str, Any]:
    """Render and write one case unless it is there; its parameters are written last and say that it is whole."""
    record = out / "parameters" / f"{subject.case_id}.json"
    if record.exists():
        row: dict[str, Any] = read_json(record)
        return row
    made = render_case(
        subject, settings.seed, size=settings.size, doppler=settings.doppler, marks=settings.marks
    )  # fmt: skip
    row = dict(made.truth) | {f"{view}_mm_per_pixel": mm for view, mm in made.mm_per_pixel.items()}
    for column, (name, content) in _files(made, subject.case_id).items():
        write_atomically(out / name, partial(Path.write_bytes, data=content))
        row[column] = name
    write_json(record, row)
    return row


def _files(made: Rendered, case_id: str) -> Mapping[str, tuple[str, bytes]]:
    files = {
        "clinical": (f"clinical/{case_id}.jpg", made.photo),
        "ultrasound": (f"ultrasound/{case_id}.png", made.scan),
        "clinical_mask": (f"masks/{case_id}-clinical.png", image_file(Image.fromarray(made.photo_mask), "PNG")),
        "ultrasound_mask": (f"masks/{case_id}-ultrasound.png", image_file(Image.fromarray(made.scan_mask), "PNG")),
    }
    if made.doppler is not None:
        files["doppler"] = (f"doppler/{case_id}.png", made.doppler)
    return files


def _write_tables(rows: Sequence[Mapping[str, Any]], out: Path, *, doppler: bool) -> None:
    """The truth, the contact sheets, and last the case table, which says that the set is whole."""
    truth = pl.DataFrame(rows)
    write_atomically(out / TRUTH, truth.write_csv)
    views = ["clinical", "ultrasound", *(["doppler"] if doppler else [])]
    write_sheets(truth, out)
    table = truth.select(
        "case_id",
        "patient_id",
        "label",
        *views,
        "site",
        pl.lit(SYNTHETIC_STANDARD).alias("reference_standard"),
        pl.col("skin_skin_type").alias("skin_type"),
        pl.col("shot_scanner").alias("device"),
        pl.col("shot_camera").alias("camera"),
        *[f"{view}_mm_per_pixel" for view in views],
    )
    write_table(table, out / TABLE)
