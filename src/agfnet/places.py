"""Where tables and images lie: local files, or URLs that are read through fsspec.

A `Url` reads like a `pathlib.Path`, so that whoever reads a table or an image need not tell the two apart. A `file:`
URL is a local path. Every fault of a store is an `OSError` that has its reason in `strerror`, as that of a local file.

What a URL may be is a short list of protocols that only read: none that unpacks, caches, runs or chains. It holds no
user, password or query; credentials come from the environment alone, and what looks like one is neither kept nor shown.
fsspec is loaded when a URL is first read, so that local work neither needs nor loads it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import posixpath
import re
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal
from urllib.parse import unquote

from agfnet.types import AgfnetError, ConfigError, Place

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "http": "aiohttp", "https": "aiohttp", "memory": ""}
"""Protocol that is read through fsspec -> the package that it needs beside fsspec."""
WHOLE = 16 * 2**20
"""Files up to this size, in bytes, are fetched by one request; of larger ones the parts that are read."""
_BLOCK = 4 * 2**20
_LISTED = ("s3", "gs", "az", "memory")
_WORTH_LISTING = 16
_WEB = ("http", "https")
_WEB_HOST = re.compile(r"([\w.-]+|\[[\da-fA-F:.]+\])(:\d+)?")
_BUCKET = re.compile(r"[\w.-]*")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://(.*)", re.DOTALL)
# What tells one version of a file from another, in the words of the stores; the surest first.
_VERSION = (
    "ETag", "etag", "md5Hash", "Content-MD5", "Digest", "Last-Modified", "LastModified", "last_modified", "mtime",
    "created",
)  # fmt: skip
_ENVIRONMENT = "credentials and endpoint come from the environment"


def shown(path: str | Path) -> str:
    """A local path as it can be written anywhere: bytes of it that are no UTF-8 are spelt out."""
    return str(path).encode(errors="backslashreplace").decode()


class Url:
    """A file that is read by URL. It has those methods of `pathlib.Path` that reading needs.

    Args:
        text: the URL; see the module for what it may be. Any other can be named, but not read.

    Attributes:
        protocol: what comes before `://`, in small letters.
        rest: what comes after it, without what looks like a secret.
        refusal: why it is not read, or None.
        known: what `stat` says, once that is known.
    """

    __slots__ = ("known", "protocol", "refusal", "rest")

    def __init__(self, text: str) -> None:
        protocol, _, rest = text.partition("://")
        self.protocol = protocol.lower()
        self.refusal = _refusal(self.protocol, rest)
        self.rest = rest if self.refusal is None else _without_secrets(rest)
        self.known: os.stat_result | None = None

    def __str__(self) -> str:
        return f"{self.protocol}://{self.rest}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """What comes after the last slash."""
        return self.rest.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's ending with its dot, or nothing."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        """What comes before the last slash."""
        return Url(f"{self.protocol}://{self.rest.rpartition('/')[0]}")

    def __truediv__(self, relative: str) -> Url:
        folder = self.rest.rstrip("/")
        return Url(f"{self.protocol}://{folder}{'/' if folder else ''}{posixpath.normpath(relative)}")

    def resolve(self) -> Url:
        """Itself: a URL depends on no working directory."""
        return self

    def lies_in(self, folder: Place) -> bool:
        """Whether it is below a folder or the folder itself, however a server may read dots and `%` in it."""
        if not isinstance(folder, Url) or folder.protocol != self.protocol:
            return False
        plain, coded = unquote(self.rest), self.rest
        while plain != coded:
            plain, coded = unquote(plain), plain
        root = folder.rest.rstrip("/")
        below = not root or f"{self.rest}/".startswith(f"{root}/")
        return below and ".." not in plain.replace("\\", "/").split("/")

    def stat(self) -> os.stat_result:
        """Kind and size, asked for once.

        Returns:
            Of its fields `st_mode`, `st_size` and `st_mtime_ns` are set. The last is no time, but a number made of
            what the store says of this version of the file: its ETag, checksum or time of change.

        Raises:
            OSError: there is no such file, or it cannot be reached.
        """
        if self.known is None:
            with _store(self) as store:
                self.known = _status(store.info(str(self)))
        return self.known

    def open(self, mode: Literal["rb"] = "rb") -> IO[bytes]:
        """Open it for reading; it can be sought in.

        Raises:
            OSError: there is no such file, or it cannot be reached.
        """
        status = self.stat()
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self))
        with _store(self) as store:
            if status.st_size > WHOLE:
                return io.BufferedReader(_Remote(self, store.open(str(self), mode, block_size=_BLOCK)), _BLOCK)
            return io.BytesIO(store.cat_file(str(self), start=0, end=status.st_size) if status.st_size else b"")

    def read_bytes(self) -> bytes:
        """The whole content.

        Raises:
            OSError: there is no such file, or it cannot be reached.
        """
        with _store(self) as store:
            content: bytes = store.cat_file(str(self))
            return content


class _Remote(io.RawIOBase):
    """A file of a store, whose faults while it is read are `OSError`s that name the URL too."""

    def __init__(self, url: Url, file: IO[bytes]) -> None:
        self.url, self.file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _store(self.url):
            return self.file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        with _store(self.url):
            content = self.file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self.file.close()
        super().close()


def place(where: str | Place) -> Place:
    """The place that a text names: a `Url`, or a local path, which `file:` URLs become too."""
    if not isinstance(where, str):
        return where
    found = _URL.fullmatch(where) if "://" in where else None
    if found is None:
        return Path(where)
    if found[1].lower() == "file":
        host, slash, path = found[2].partition("/")
        if slash and host in {"", "localhost"}:
            return Path(unquote(f"/{path}"))
    return Url(where)


def joined(folder: Place, value: str) -> Place:
    """The place that a table in a folder names: a URL or an absolute path as it is, any other below the folder."""
    found = place(value)
    return folder / value if isinstance(found, Path) and not found.is_absolute() else found


def look_up(urls: Iterable[Url]) -> None:
    """Learn kind and size of many files by listing their folders, so that `stat` need not ask for each.

    A folder of few of them, one of a web server, or one that may not be listed is passed over.
    """
    folders: defaultdict[Url, list[Url]] = defaultdict(list)
    for url in urls:
        if url.protocol in _LISTED:
            folders[url.parent].append(url)
    for folder, own in folders.items():
        if len(own) < _WORTH_LISTING:
            continue
        try:
            with _store(folder) as store:
                listed = {entry["name"].strip("/"): entry for entry in store.ls(str(folder), detail=True)}
        except OSError:
            continue
        for url in own:
            if url.rest in listed:
                url.known = _status(listed[url.rest])


def local(where: str | Path) -> Path:
    """A local path, for what is written or cannot be read by URL.

    Raises:
        ValueError: it is a URL, which as a path would be a folder of that name.
    """
    found = place(str(where))
    if not isinstance(found, Path):
        raise ValueError(f"{found} is a URL: only tables and images are read by URL; give a local path")  # noqa: TRY004
    return found


def _refusal(protocol: str, rest: str) -> str | None:
    if protocol == "file":
        return "a file URL names a file of this machine: write file:///folder/name"
    if protocol not in PACKAGES:
        return f"{protocol}:// is not read; use one of file, {', '.join(p for p, name in PACKAGES.items() if name)}"
    host = rest.partition("/")[0]
    if not (_WEB_HOST if protocol in _WEB else _BUCKET).fullmatch(host):
        return f"it holds a user or password, or no plain bucket or host; {_ENVIRONMENT}"
    if any(sign in rest for sign in ("?#" if protocol in _WEB else "?")):
        return f"it has a query or fragment, where signatures and keys stand; {_ENVIRONMENT}"
    return None


def _without_secrets(rest: str) -> str:
    """What can be shown of a refused URL: nothing before an `@`, no host that is none, and nothing of a query."""
    shown, *query = re.split("[?#]", rest, maxsplit=1)
    _, at, after = shown.rpartition("@")
    if at:
        shown = f"***@{after}"
    elif not _WEB_HOST.fullmatch(shown.partition("/")[0]):
        shown = "***"
    return f"{shown}?***" if query else shown


@contextmanager
def _store(url: Url) -> Iterator[Any]:
    """The file system of its protocol; whatever it raises becomes an `OSError` that names the URL."""
    if url.refusal is not None:
        raise OSError(errno.EINVAL, url.refusal, str(url))
    try:
        yield _file_system(url.protocol)
    except AgfnetError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # a web server's other answers, and its absence, come as this error too
        away = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if cause is not None and (away or getattr(cause, "status", None) not in _NOT_THERE):
            raise OSError(errno.EIO, f"{_reason(cause)}; {_ENVIRONMENT}", str(url)) from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(url)) from error
    except Exception as error:
        code = getattr(error, "errno", None) or errno.EIO
        raise OSError(code, f"{_reason(error)}; {_ENVIRONMENT}", str(url)) from error


_NOT_THERE = (None, 404, 410)
"""What a web server answers, None being no answer of one."""


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0].rstrip(".") or type(error).__name__


def _file_system(protocol: str) -> Any:  # noqa: ANN401 - fsspec has no types
    try:
        import fsspec  # noqa: PLC0415 - local work does without

        # Its listings would hide what changes while a long-lived process runs.
        return fsspec.filesystem(protocol, use_listings_cache=False)
    except ImportError as error:
        remedy = f"pip install 'agfnet[scale]' {PACKAGES[protocol]}".rstrip()
        raise ConfigError(f"reading {protocol}:// needs packages that are not installed. Install: {remedy}") from error


def _status(info: Mapping[str, Any]) -> os.stat_result:
    folder = info.get("type") == "directory"
    if info.get("size") is None and not folder:
        raise OSError(errno.EIO, "its server does not say how large it is")
    version = next((info[key] for key in _VERSION if info.get(key)), "")
    # A listing may say in seconds what a single answer says as a date.
    text = str(version.timestamp() if hasattr(version, "timestamp") else version)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
    mode = stat.S_IFDIR if folder else stat.S_IFREG
    return os.stat_result((mode, 0, 0, 0, 0, 0, info.get("size") or 0, 0, 0, 0), {"st_mtime_ns": number})
