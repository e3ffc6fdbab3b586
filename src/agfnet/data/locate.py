"""Where the images of a case table lie, and that none lies outside the data folder."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from agfnet.data.tablefile import Fault, RawTable
from agfnet.places import Url, joined, place, shown
from agfnet.types import ConfigError, Place


def locate_images(
    raw: RawTable, views: Sequence[str], folder: Place, data_root: str | Place | None
) -> tuple[pl.DataFrame, list[Fault]]:
    """Resolve every image path of the table.

    Args:
        raw: the table.
        views: its view columns; those that are not there are passed over.
        folder: the table's folder.
        data_root: see `read_cases`.

    Returns:
        A frame with a line per image (index: position of the case; row; view; path: absolute, symbolic links
        resolved, or a URL) without the paths that leave the data folder and the URLs that are not read; and a fault for
        each of those, and for each file that a case lists again, under the same view or another.
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
    resolve = _Resolver(folder, None if data_root is None else place(data_root))
    found = [resolve(value) for value in images["value"]]
    images = images.with_columns(
        path=pl.Series([one.path for one in found], dtype=pl.String),
        linked=pl.Series([one.linked for one in found], dtype=pl.Boolean),
        inside=pl.Series([one.inside for one in found], dtype=pl.Boolean),
        refusal=pl.Series([one.refusal for one in found], dtype=pl.String),
    )
    usable = pl.col("inside") & pl.col("refusal").is_null()
    faults = [
        _fault(value, _Found(path, inside, refusal, linked), resolve.root, row, view)
        for row, view, value, path, inside, refusal, linked in images.filter(~usable)
        .select("row", "view", "value", "path", "inside", "refusal", "linked")
        .rows()
    ]
    images = images.filter(usable).select("index", "row", "view", "path")
    again = images.filter(~pl.struct("index", "path").is_first_distinct())
    for row, view, path in again.select("row", "view", "path").rows():
        message, remedy = f"{path} is listed twice in this case", "List each image once, under its own view."
        faults.append(Fault(cause="duplicate-image", message=message, remedy=remedy, row=row, column=view))
    return images, faults


def inside(value: str, data_root: Place) -> Place:
    """The place of an image that is named by hand, which must lie in a folder.

    Raises:
        ConfigError: it does not, or is a URL that is not read.
    """
    resolve = _Resolver(Path(), data_root)
    found = resolve(value)
    if found.refusal is not None or not found.inside:
        fault = _fault(value, found, resolve.root, row=1, view="")
        raise ConfigError(f"{fault.message}. {fault.remedy}")
    return place(found.path)


def nearly_named(paths: Iterable[str]) -> dict[str, str]:
    """Names that are there in place of missing ones: alike but for capitals, or for how letters are encoded.

    Args:
        paths: absolute paths and URLs of files that are not there; URLs are passed over.

    Returns:
        path -> name of the file in the same folder, where there is one.
    """
    folders: dict[str, dict[str, str]] = {}
    found: dict[str, str] = {}
    for path in paths:
        if isinstance(place(path), Url):
            continue
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                folders[folder] = {_folded(own): own for own in os.listdir(folder)}  # noqa: PTH208  names alone
            except (OSError, ValueError):
                folders[folder] = {}
        if _folded(name) in folders[folder]:
            found[path] = folders[folder][_folded(name)]
    return found


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


class _Found(NamedTuple):
    path: str
    inside: bool
    refusal: str | None = None
    linked: bool = False
    """Whether it lies outside for a link alone."""


_NOT_UTF8 = "its path is not UTF-8, as tables are"


def _fault(value: str, found: _Found, root: str, row: int, view: str) -> Fault:
    if found.refusal is not None:  # of such a URL only what is safe to show, not the value itself
        message = f"{found.path}: {found.refusal}"
        if found.refusal == _NOT_UTF8:
            return Fault(
                cause="path-not-utf-8", message=message, remedy="Rename file and folder.", row=row, column=view
            )
        return Fault(cause="refused-url", message=message, remedy="Correct the URL.", row=row, column=view)
    remedy = "Move the image there, or name the folder that holds all images as the data root."
    message = f"{value} leaves the data folder {root}"
    if found.linked:
        message += f": a link leads to {found.path}"
    return Fault(cause="path-outside", message=message, remedy=remedy, row=row, column=view)


def _real(folder: Place) -> str:
    return os.path.realpath(folder) if isinstance(folder, Path) else str(folder)


class _Resolver:
    """Paths as written -> real paths; folders are resolved once, so that an image costs one lstat."""

    def __init__(self, folder: Place, data_root: Place | None) -> None:
        self._start, self._end = folder, folder if data_root is None else data_root
        self._folder, self.root = _real(self._start), _real(self._end)
        self._remote = isinstance(folder, Url)
        self._absolute_anywhere = data_root is None
        self._folders: dict[str, str] = {}

    def __call__(self, value: str) -> _Found:
        if self._remote or "://" in value:
            found = joined(self._start, value)
            if isinstance(found, Url):
                inside = (self._absolute_anywhere and found == place(value)) or found.lies_in(self._end)
                return _Found(str(found), inside, found.refusal)
            if value.lower().startswith("file:"):
                value = str(found)
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
        if shown(path) != path:
            return _Found(shown(path), inside=True, refusal=_NOT_UTF8)
        if (absolute and self._absolute_anywhere) or self._holds(path):
            return _Found(path, inside=True)
        return _Found(path, inside=False, linked=self._holds(os.path.normpath(f"{parent}/{name}")))

    def _holds(self, path: str) -> bool:
        return path == self.root or path.startswith(f"{self.root.rstrip('/')}/")
