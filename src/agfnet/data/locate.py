"""Where the images of a case table lie, and that none lies outside the data folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from agfnet.data.tablefile import Fault, RawTable


def locate_images(
    raw: RawTable, views: Sequence[str], folder: Path, data_root: str | Path | None
) -> tuple[pl.DataFrame, list[Fault]]:
    """Resolve every image path of the table.

    Args:
        raw: the table.
        views: its view columns; those that are not there are passed over.
        folder: the table's folder.
        data_root: see `read_cases`.

    Returns:
        A frame with a line per image (index: position of the case; row; view; path: absolute, symbolic links
        resolved) without the paths that leave the data folder; and a fault for each of those.
    """
    parts = [
        pl.DataFrame({"value": raw.frame[view]})
        .with_row_index("index")
        .with_columns(row=pl.Series(raw.rows), view=pl.lit(view), order=pl.lit(order))
        .drop_nulls("value")
        for order, view in enumerate(views)
        if view in raw.frame.columns
    ]
    if not parts:
        schema = {"index": pl.UInt32, "row": pl.Int64, "view": pl.String, "path": pl.String}
        return pl.DataFrame(schema=schema), []
    images = (
        pl.concat(parts)
        .with_columns(pl.col("value").str.split(";"))
        .explode("value")
        .with_columns(pl.col("value").str.strip_chars())
        .filter(pl.col("value") != "")
        .sort("index", "order", maintain_order=True)
    )
    resolve = _Resolver(folder, None if data_root is None else Path(data_root))
    found = [resolve(value) for value in images["value"]]
    images = images.with_columns(
        path=pl.Series([place.path for place in found], dtype=pl.String),
        inside=pl.Series([place.inside for place in found], dtype=pl.Boolean),
    )
    faults = [
        Fault(
            cause="path-outside",
            message=f"{value} leaves the data folder {resolve.root}",
            remedy="Move the image there, or name the folder that holds all images as the data root.",
            row=row,
            column=view,
        )
        for row, view, value in images.filter(~pl.col("inside")).select("row", "view", "value").rows()
    ]
    return images.filter("inside").select("index", "row", "view", "path"), faults


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    inside: bool


class _Resolver:
    """Paths as written -> real paths; folders are resolved once, so that an image costs one lstat."""

    def __init__(self, folder: Path, data_root: Path | None) -> None:
        self.root = os.path.realpath(folder if data_root is None else data_root)
        self._folder = os.path.realpath(folder)
        self._absolute_anywhere = data_root is None
        self._folders: dict[str, str] = {}

    def __call__(self, value: str) -> _Place:
        absolute = os.path.isabs(value)  # noqa: PTH117  Path objects cost too much here
        parent, name = os.path.split(value if absolute else f"{self._folder}/{value}")
        real = self._folders.get(parent)
        try:
            if real is None:
                real = self._folders[parent] = os.path.realpath(parent)
            path = f"{real.rstrip('/')}/{name}"
            if name in {"", ".", ".."} or stat.S_ISLNK(os.lstat(path).st_mode):
                path = os.path.realpath(path)
        except (OSError, ValueError):  # not there, or not a possible name: opening it says so with its cause
            path = f"{real or parent}/{name}"
        inside = (absolute and self._absolute_anywhere) or path == self.root
        return _Place(path, inside or path.startswith(f"{self.root.rstrip('/')}/"))
