"""Contact sheets: what the cases of each class look like, photo over scan."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from agfnet.files import write_atomically

TILE, GAP, HEAD, COLUMNS = 150, 6, 40, 9
_TITLE = ImageFont.load_default(size=17)
_SMALL = ImageFont.load_default(size=11)


def contact_sheet(rows: pl.DataFrame, folder: Path, title: str) -> Image.Image:
    """The first cases of some rows, photo over scan.

    Args:
        rows: of the truth; at most `COLUMNS` are shown.
        folder: that the paths start from.
        title: said at the top, with the notice that it is synthetic.
    """
    pairs = [
        [Image.open(folder / row[view]).convert("RGB") for view in ("clinical", "ultrasound")]
        for row in rows.head(COLUMNS).iter_rows(named=True)
    ]
    tiles = [[image.resize((TILE, round(TILE * image.height / image.width))) for image in pair] for pair in pairs]
    tall = max(sum(image.height for image in pair) for pair in tiles)
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, HEAD + tall + 2 * GAP), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 4), title, fill=(20, 20, 20), font=_TITLE)
    pen.text((GAP, 25), "synthetic, agfnet phantom; no clinical image", fill=(110, 110, 110), font=_SMALL)
    for column, (photo, scan) in enumerate(tiles):
        left = GAP + column * (TILE + GAP)
        sheet.paste(photo, (left, HEAD))
        sheet.paste(scan, (left, HEAD + photo.height + GAP))
    return sheet


def write_sheets(truth: pl.DataFrame, folder: Path) -> None:
    """One sheet a class as `sheets/<class>.png`, and `sheets/overview.png` with one case of each class."""
    for label in truth["label"].unique(maintain_order=True):
        own = truth.filter(pl.col("label") == label)
        _save(contact_sheet(own, folder, f"{label} ({own.height} cases)"), folder / f"sheets/{label.replace(' ', '-')}")
    first = truth.unique("label", keep="first", maintain_order=True).sort("label")
    _save(contact_sheet(first, folder, ", ".join(first["label"].head(COLUMNS))), folder / "sheets/overview")


def _save(sheet: Image.Image, path: Path) -> None:
    write_atomically(path.with_suffix(".png"), lambda temporary: sheet.save(temporary, "PNG"))
