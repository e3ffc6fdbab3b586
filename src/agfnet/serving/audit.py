"""The audit log: an append-only chain of entries in SQLite. It holds hashes and results, no image and no identifier.

Each entry's hash covers the entry before it, so that a change, a gap or a new order shows. Cutting off the end, or
writing all of it anew with hashes that fit, shows only to someone who noted the last hash: note it elsewhere, for
instance with each backup.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from agfnet.files import claim
from agfnet.types import AgfnetError

START = "0" * 64
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    request_id TEXT NOT NULL,
    content TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS by_request ON entries (request_id);
CREATE TRIGGER IF NOT EXISTS no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
_COLUMNS = ("number", "time", "kind", "request_id", "content", "previous", "hash")


class AuditError(AgfnetError):
    """The audit log cannot be used, or its chain is broken."""


class ChainState(NamedTuple):
    """What a check of the chain found.

    Attributes:
        entries: how many there are.
        last: hash of the last one.
    """

    entries: int
    last: str


def _hash(number: int, time: str, kind: str, request_id: str, content: str, previous: str) -> str:
    whole = json.dumps([number, time, kind, request_id, content, previous], ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()


class AuditLog:
    """An audit log that is written to, by one process.

    Args:
        path: the file; made where it is not there, for its owner alone.

    Attributes:
        failing: the last thing that was to be written could not be.

    Raises:
        AuditError: the file is no audit log, or another service writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = path.resolve()  # a log is the same by each of its names
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # SQLite gives the journal's files the mode of the log
        try:
            self._claim = claim(path.with_name(f"{path.name}.lock"), mode=0o600)
        except BlockingIOError:
            raise AuditError(f"{path}: another service writes to this audit log. Name another file.") from None
        try:
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=2.0)
            self._check_own()
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            row = self._database.execute("SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise AuditError(f"{path}: cannot be used as an audit log ({error}). Name another file.") from error
        self._number: int = row[0] if row else 0
        self._last: str = row[1] if row else START
        self.failing = False

    def _check_own(self) -> None:
        """Nothing is written to a database of something else."""
        query = (
            "SELECT own.name, held.name FROM sqlite_master AS own JOIN pragma_table_info(own.name) AS held "
            "WHERE own.type IN ('table', 'view') AND own.name NOT GLOB 'sqlite_*' ORDER BY own.name, held.cid"
        )
        if self._database.execute(query).fetchall() not in ([], [("entries", name) for name in _COLUMNS]):
            raise AuditError(f"{self.path}: is a database of something else and no audit log. Name another file.")

    def add(self, kind: str, request_id: str, content: Mapping[str, Any]) -> None:
        """Write one entry; it is on disk when this returns.

        Args:
            kind: predict, explain or feedback.
            request_id: of the request.
            content: JSON.

        Raises:
            AuditError: it could not be written.
        """
        text = json.dumps(content, ensure_ascii=False, sort_keys=True, allow_nan=False)
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            number = self._number + 1
            entry = (number, time, kind, request_id, text, self._last)
            hashed = _hash(*entry)
            try:
                self._database.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", (*entry, hashed))
            except sqlite3.Error as error:
                self.failing = True
                raise AuditError(
                    f"{self.path}: the entry could not be written ({error}). Is the disk full, or does another process "
                    "write to the file?"
                ) from error
            self._number, self._last, self.failing = number, hashed, False

    def works(self) -> bool:
        """Whether an entry can be written, as far as is known; after one that could not, something else is tried."""
        with self._lock:
            if self.failing:
                with suppress(sqlite3.Error):
                    self._database.execute("PRAGMA user_version = 0")  # a write to the disk that is no entry
                    self.failing = False
            return not self.failing

    def result_of(self, request_id: str) -> dict[str, Any] | None:
        """What was answered to a request, or None where there is no such one."""
        row = self._first(
            "SELECT content FROM entries WHERE request_id = ? AND kind IN ('predict', 'explain')", request_id
        )
        return None if row is None else json.loads(row[0])

    def confirmed(self, request_id: str) -> bool:
        """Whether a diagnosis was confirmed for a request."""
        return self._first("SELECT 1 FROM entries WHERE request_id = ? AND kind = 'feedback'", request_id) is not None

    def _first(self, query: str, request_id: str) -> tuple[str, ...] | None:
        """The first row that a query finds.

        Raises:
            AuditError: the log cannot be read.
        """
        try:
            with self._lock:
                row: tuple[str, ...] | None = self._database.execute(query, (request_id,)).fetchone()
        except sqlite3.Error as error:
            raise AuditError(f"{self.path}: cannot be read ({error}).") from error
        return row

    def close(self) -> None:
        """Fold the journal into the file."""
        with self._lock:
            self._database.close()
            self._claim.close()


def verify(path: Path, *, noted: str = START) -> ChainState:
    """Check every entry of a log, which may be in use.

    Args:
        path: the file.
        noted: a last hash of before, 64 hexadecimal digits; the chain must go on from it.

    Raises:
        AuditError: no log, an entry that is not what was written (the message names the first), what was noted is no
            hash, or none of its.
    """
    noted = noted.strip().lower()
    if not re.fullmatch("[0-9a-f]{64}", noted):
        raise AuditError(f"{noted!r} is no hash: give all 64 hexadecimal digits of the last hash as it was printed.")
    if not path.is_file():
        raise AuditError(f"{path}: no such audit log.")
    path = path.resolve()  # the journal lies beside the file itself, not beside a link to it
    previous, count, met = START, 0, noted == START
    # Without a journal nobody writes to it, and a reader without leave to write beside it can read it too.
    how = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as database:
            query = "SELECT number, time, kind, request_id, content, previous, hash FROM entries ORDER BY number"
            for *entry, hashed in database.execute(query):
                count += 1
                if entry[0] != count or entry[5] != previous or _hash(*entry) != hashed:
                    raise AuditError(f"{path}: entry {count} is not what was written: the chain is broken there.")
                previous = hashed
                met = met or hashed == noted
    except sqlite3.Error as error:
        raise AuditError(f"{path}: is no audit log, or a damaged one ({error}). Restore it from a backup.") from error
    if not met:
        raise AuditError(
            f"{path}: the hash that was noted is not in it: it was cut off before that entry, or written anew, or is "
            "another log. Compare it with a backup."
        )
    return ChainState(count, previous)
