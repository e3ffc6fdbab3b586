"""Broken case tables and images, each with the cause that a check must name. Other tests import `BROKEN`."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from agfnet.data.imagefile import ImageLimits

HEADER = "case_id,patient_id,label,clinical,ultrasound"


def picture(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth random picture; different seeds differ in their perceptual hashes."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def good_lines(folder: Path, cases: int = 8) -> list[str]:
    """Header and rows of a faultless table with its images: two classes, one patient per case."""
    lines = [HEADER]
    for number in range(cases):
        for view, suffix in (("c", "jpg"), ("u", "png")):
            picture(2 * number + (view == "u")).save(folder / f"{view}{number}.{suffix}")
        lines.append(f"L{number},P{number},{'AB'[number % 2]},c{number}.jpg,u{number}.png")
    return lines


def write(folder: Path, lines: list[str], name: str = "cases.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Broken:
    """A broken table: `build(folder)` writes it and gives its path; `check` goes to `check_table`."""

    name: str
    cause: str
    build: Callable[[Path], Path]
    row: int | None = None
    check: dict[str, Any] = field(default_factory=dict)


def lines(edit: Callable[[list[str]], Any]) -> Callable[[Path], Path]:
    """A good table whose lines are edited in place."""

    def build(folder: Path) -> Path:
        text = good_lines(folder)
        edit(text)
        return write(folder, text)

    return build


def cell(row: int, old: str, new: str) -> Callable[[Path], Path]:
    """A good table with `old` replaced by `new` in one row of the spreadsheet."""

    def edit(text: list[str]) -> None:
        assert old in text[row - 1]
        text[row - 1] = text[row - 1].replace(old, new, 1)

    return lines(edit)


def column(name: str, values: dict[int, str]) -> Callable[[Path], Path]:
    """A good table with a further column; row -> value, the others are empty."""

    def edit(text: list[str]) -> None:
        for index in range(len(text)):
            text[index] += "," + (name if index == 0 else values.get(index + 1, ""))

    return lines(edit)


def image(content: bytes | Callable[[Path], Any], name: str = "c1.jpg") -> Callable[[Path], Path]:
    """A good table one of whose images is replaced."""

    def build(folder: Path) -> Path:
        path = write(folder, good_lines(folder))
        target = folder / name
        target.unlink()
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            content(target)
        return path

    return build


def raw(content: bytes, name: str = "cases.csv") -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def encoded(picture_: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture_.save(buffer, kind, **options)
    return buffer.getvalue()


def huge_bmp() -> bytes:
    """A header that claims 30,000 x 30,000 pixels, and no pixels."""
    content = bytearray(encoded(picture(0), "BMP"))
    content[18:26] = (30_000).to_bytes(4, "little") * 2
    return bytes(content)


def _latin1_and_a_broken_quote(folder: Path) -> Path:
    path = _latin1(folder)
    path.write_bytes(path.read_bytes().replace(b"L0", b'"L"0'))
    return path


def _latin1(folder: Path) -> Path:
    text = good_lines(folder)
    text[2] = text[2].replace(",B,", ",Nävus,")
    path = folder / "cases.csv"
    path.write_bytes("\n".join(text).encode("latin-1"))
    return path


def _escape_by_link(folder: Path) -> Path:
    inside = folder / "inside"
    inside.mkdir()
    text = good_lines(inside)
    (inside / "c1.jpg").replace(folder / "outside.jpg")
    (inside / "c1.jpg").symlink_to(folder / "outside.jpg")
    return write(inside, text)


def _absolute_outside(folder: Path) -> Path:
    inside = folder / "inside"
    inside.mkdir()
    text = good_lines(inside)
    (inside / "c1.jpg").replace(folder / "outside.jpg")
    text[2] = text[2].replace("c1.jpg", str(folder / "outside.jpg"))
    return write(inside, text)


def _copy(source: str, target: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path = write(folder, good_lines(folder))
        (folder / target).write_bytes((folder / source).read_bytes())
        return path

    return build


def _copy_within_a_patient(folder: Path) -> Path:
    path = _copy("c0.jpg", "c7.jpg")(folder)
    path.write_text(path.read_text().replace("L7,P7", "L7,P0"))
    return path


def _resaved(folder: Path) -> Path:
    text = good_lines(folder)
    text = [line + "," + part for line, part in zip(text, ["split"] + ["train"] * 6 + ["test"] * 2, strict=True)]
    picture(0, (480, 400)).save(folder / "c0.jpg")
    picture(0, (480, 400)).resize((300, 250)).save(folder / "c7.jpg", quality=60)
    return write(folder, text)


def _folder_as_table(folder: Path) -> Path:
    path = folder / "cases.csv"
    path.mkdir()
    return path


def _nested_parquet(folder: Path) -> Path:
    path = folder / "cases.parquet"
    pl.DataFrame({"case_id": ["1"], "patient_id": ["1"], "clinical": [["a.jpg", "b.jpg"]]}).write_parquet(path)
    return path


_JPEG = encoded(picture(77, (200, 160)), "JPEG")
_PNG = encoded(picture(78, (200, 160)), "PNG")
_TIFF = encoded(picture(79, (200, 160)), "TIFF")
_WEBP = encoded(picture(80, (200, 160)), "WEBP")
_FLOAT = encoded(Image.fromarray(np.ones((20, 20), dtype=np.float32)), "TIFF")

BROKEN = [
    # The file.
    Broken("no table", "missing-table", lambda folder: folder / "absent.csv"),
    Broken("folder for a table", "missing-table", _folder_as_table),
    Broken("spreadsheet", "unknown-format", raw(b"PK\x03\x04", "cases.xlsx")),
    Broken("no bytes", "empty-table", raw(b"")),
    Broken("header only", "empty-table", raw(HEADER.encode() + b"\n")),
    Broken("blank header", "missing-header", raw(b"\n" + HEADER.encode() + b"\n1,1,A,a.jpg,\n"), row=1),
    Broken("latin-1", "wrong-encoding", _latin1, row=3),
    Broken("latin-1 after a broken quote", "wrong-encoding", _latin1_and_a_broken_quote, row=3),
    Broken("semicolons and a broken quote", "malformed-csv", raw(b'case_id;patient_id;label\n1;"P"1;A\n'), row=2),
    Broken("utf-16", "wrong-encoding", raw(HEADER.encode("utf-16"))),
    Broken("open quote", "malformed-csv", cell(9, "L7", '"L7')),
    Broken("text after quote", "malformed-csv", cell(4, "L2", '"L"2'), row=4),
    Broken("cell too many", "ragged-row", cell(4, ",A,", ",A,x,"), row=4),
    Broken("cell too few", "ragged-row", cell(5, ",B,", ","), row=5),
    Broken("no parquet", "malformed-parquet", raw(b"PAR1 nothing PAR1", "cases.parquet")),
    Broken("lists in parquet", "nested-column", _nested_parquet),
    # The columns.
    Broken("column twice", "duplicate-column", cell(1, "ultrasound", "clinical"), row=1),
    Broken("column without name", "unnamed-column", cell(1, "label", ""), row=1),
    Broken("no case_id", "missing-column", cell(1, "case_id", "case"), row=1),
    Broken("no patient_id", "missing-column", cell(1, "patient_id", "who"), row=1),
    Broken("paths without quotes between semicolons", "ragged-row",
           raw(HEADER.replace(",", ";").encode() + b"\n1;1;A;a.jpg;b.jpg;c.png\n"), row=2),
    Broken("named view missing", "missing-column", lines(lambda _: None), row=1,
           check={"views": ["dermoscopy"]}),
    Broken("extra label missing", "missing-column", lines(lambda _: None), row=1,
           check={"extra_labels": ["sign"]}),
    Broken("label under another name", "missing-column", cell(1, "label", "Diagnosis"), row=1),
    Broken("label misspelt", "missing-column", cell(1, "label", "Lable"), row=1),
    Broken("scale misspelt", "missing-column", column("ultrasound_mm_per_px", {2: "0.1"}), row=1),
    Broken("label needed", "missing-column", cell(1, "label", "kind"), row=1, check={"need_labels": True}),
    Broken("scale of no view", "missing-column", column("photo_mm_per_pixel", {2: "0.1"}), row=1),
    Broken("no view", "no-view-column", raw(b"case_id,patient_id,age\n1,1,40\n2,2,50\n"), row=1),
    # The rows.
    Broken("empty case_id", "missing-id", cell(3, "L1", ""), row=3),
    Broken("blank patient_id", "missing-id", cell(3, "P1", "  "), row=3),
    Broken("case twice", "duplicate-case", cell(5, "L3", "L0"), row=5),
    Broken("no image in a row", "all-views-absent", cell(6, "c4.jpg,u4.png", ","), row=6),
    Broken("patient in two parts", "patient-in-two-splits",
           lines(lambda text: text.__setitem__(slice(None), [
               line.replace("P7", "P0") + "," + part
               for line, part in zip(text, ["split"] + ["train"] * 7 + ["test"], strict=True)])), row=9),
    Broken("unknown part", "unknown-split", column("split", {3: "training"}), row=3),
    Broken("unknown label", "unknown-label", cell(4, ",A,", ",a,"), row=4, check={"classes": ["A", "B"]}),
    Broken("labels that differ in capitals", "alike-labels", cell(4, ",A,", ",a,"), row=4),
    Broken("labels of composed and decomposed letters", "alike-labels",
           lines(lambda text: text.__setitem__(slice(None), [
               *(line.replace(",A,", ",\u00e4,") for line in text[:-2]), text[-2].replace(",A,", ",a\u0308,"),
               text[-1]])), row=8),
    Broken("label empty", "missing-label", cell(4, ",A,", ",,"), row=4, check={"need_labels": True}),
    Broken("rare class", "few-patients", cell(4, ",A,", ",C,")),
    Broken("one class", "one-class",
           lines(lambda text: text.__setitem__(slice(None), [line.replace(",B,", ",A,") for line in text]))),
    Broken("scale in words", "bad-mm-per-pixel", column("clinical_mm_per_pixel", {3: "fine"}), row=3),
    Broken("scale zero", "bad-mm-per-pixel", column("clinical_mm_per_pixel", {3: "0"}), row=3),
    Broken("scale in pixels per mm", "bad-mm-per-pixel", column("clinical_mm_per_pixel", {3: "25"}), row=3),
    Broken("scale not a number", "bad-mm-per-pixel", column("clinical_mm_per_pixel", {3: "nan"}), row=3),
    Broken("one scale in another unit", "odd-scale",
           column("clinical_mm_per_pixel", {2: "0.05", 3: "0.6", 4: "0.04", 5: "0.05"}), row=3),
    Broken("image twice in a case", "duplicate-image", cell(4, "c2.jpg", "c2.jpg;c2.jpg"), row=4),
    Broken("one image as two views", "duplicate-image", cell(3, "u1.png", "c1.jpg"), row=3),
    Broken("image of two patients", "image-of-two-patients", cell(4, "c2.jpg", "c1.jpg"), row=4),
    Broken("image of two diagnoses of a patient", "image-of-two-diagnoses",
           cell(3, "P1,B,c1.jpg", "P0,B,c0.jpg"), row=3),
    # The paths.
    Broken("missing file", "missing-file", cell(4, "c2.jpg", "gone.jpg"), row=4),
    Broken("second of two missing", "missing-file", cell(4, "c2.jpg", "c2.jpg; gone.jpg"), row=4),
    Broken("path climbs out", "path-outside", cell(4, "c2.jpg", "../c2.jpg"), row=4),
    Broken("link leads out", "path-outside", _escape_by_link, row=3),
    Broken("absolute outside the root", "path-outside", _absolute_outside, row=3, check={"data_root": "."}),
    Broken("folder", "not-a-file", image(Path.mkdir), row=3),
    # The images.
    Broken("empty image", "empty-file", image(b""), row=3),
    Broken("text as jpg", "not-an-image", image(b"this is a note, not a picture\n"), row=3),
    Broken("pdf as jpg", "not-an-image", image(b"%PDF-1.7 " + bytes(range(128, 228))), row=3),
    Broken("heic as jpg", "not-an-image", image(b"\x00\x00\x00\x18ftypheic" + bytes(40)), row=3),
    Broken("truncated jpeg", "truncated-image", image(_JPEG[: len(_JPEG) // 2]), row=3),
    Broken("truncated png", "truncated-image", image(_PNG[: len(_PNG) // 2]), row=3),
    Broken("truncated tiff", "unreadable-image", image(_TIFF[:20]), row=3),
    Broken("truncated webp", "unreadable-image", image(_WEBP[: len(_WEBP) // 2]), row=3),
    Broken("jpeg head only", "unreadable-image", image(b"\xff\xd8\xff" + bytes(100)), row=3),
    Broken("float tiff", "unreadable-image", image(_FLOAT), row=3),
    Broken("decompression bomb", "oversized-image", image(huge_bmp()), row=3),
    Broken("too many bytes", "oversized-image", image(_PNG + bytes(20_000)), row=3,
           check={"limits": ImageLimits(max_bytes=20_000)}),
    Broken("thumbnail", "too-small-image", image(encoded(picture(1, (30, 7)), "PNG")), row=3),
    Broken("black image", "blank-image", image(encoded(Image.new("RGB", (48, 40)), "JPEG")), row=3),
    Broken("white image", "blank-image", image(encoded(Image.new("L", (48, 40), 255), "PNG")), row=3),
    Broken("TIFF of two pages", "several-pages",
           image(encoded(picture(1), "TIFF", save_all=True, append_images=[picture(2)])), row=3),
    Broken("ribbon", "extreme-aspect", image(encoded(picture(1, (900, 10)), "PNG")), row=3),
    # The pictures, which only the deep check compares.
    Broken("same content of two patients", "same-image-of-two-patients", _copy("c1.jpg", "c6.jpg"), row=8,
           check={"level": "deep"}),
    Broken("same content of two diagnoses of a patient", "image-of-two-diagnoses", _copy_within_a_patient, row=9,
           check={"level": "deep"}),
    Broken("same content in a case", "duplicate-image", _copy("c1.jpg", "u1.png"), row=3,
           check={"level": "deep"}),
    Broken("near-duplicate across splits", "near-duplicate-across-splits", _resaved, row=9,
           check={"level": "deep"}),
]  # fmt: skip
