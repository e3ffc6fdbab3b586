"""Files that are there whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import stat
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import yaml

from agfnet.types import ConfigError

log = logging.getLogger("agfnet")

PRIVATE = 0o600
"""Mode of files that say who a patient is: of their owner alone."""


def write_atomically(path: Path, write: Callable[[Path], object], *, mode: int | None = None) -> None:
    """Let `write` make a file under a temporary name in the same folder, then give it its name.

    Args:
        path: the final name; its folder is made.
        write: called with the temporary path; an exception leaves nothing under the final name.
        mode: it is made with, where it is not there yet; None: as the process makes files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder; name a file", str(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # processes of several machines may write
    known = stat.S_IMODE(path.stat().st_mode) if path.exists() else None  # whom it was kept from, it still is
    first = mode if known is None else known
    try:
        if first is not None:
            temporary.touch(mode=first | 0o600)
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        if known is not None:
            temporary.chmod(known)
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno or errno.EIO, f"cannot be written ({error.strerror or error})", str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(*folders: Path) -> None:
    """Remove what `write_atomically` left in these folders where its process was killed; nobody may write there now."""
    for leftover in (file for folder in folders for file in folder.glob(f".*.{'[0-9a-f]' * 8}.tmp")):
        leftover.unlink(missing_ok=True)


def ready_folder(path: Path) -> Path:
    """The folder, made where it is not there: to be asked before long work whose results it will hold.

    Raises:
        ConfigError: it cannot be made, or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        problem = None if os.access(path, os.W_OK) else "it may not be written to"
    except OSError as error:
        problem = "it is a file" if path.is_file() else error.strerror
    if problem:
        raise ConfigError(f"{path}: cannot be the folder of the results ({problem}). Name another.")
    return path


def claim(path: Path, *, mode: int = 0o666) -> TextIO:
    """An open lock file that this process holds until it is closed, and no longer than it lives.

    Args:
        path: made where it is not there.
        mode: it is made with, less the umask.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be made, or the file system has no locks.
    """
    import fcntl  # noqa: PLC0415 - not every system has it, and most of this package does without

    path.touch(mode=mode)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def hold_folder(lock: Path) -> AbstractContextManager[object]:
    """The folder of a lock file, made where it is not there, for this process alone until the context is left.

    Raises:
        ConfigError: another process works in it, or it cannot be the folder of results.
    """
    folder = ready_folder(lock.parent)
    try:
        return claim(lock)
    except BlockingIOError:
        raise ConfigError(f"{folder}: another run works in it. Wait for its end, or name another folder.") from None
    except OSError as error:
        log.warning("%s: cannot be locked (%s): see that no other run works in it", lock, error.strerror)
        return nullcontext()


def write_text(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write a UTF-8 text file; `mode` as of `write_atomically`."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), mode=mode)


def write_json(path: Path, value: Any, *, mode: int | None = None) -> None:  # noqa: ANN401 - any JSON value
    """Write strict JSON (no NaN), indented; `mode` as of `write_atomically`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode=mode)


def read_json(path: Path, *keys: str) -> Any:  # noqa: ANN401 - any JSON value
    """What `write_json` wrote.

    Args:
        path: the file.
        keys: that its object must have.

    Raises:
        ConfigError: it is no JSON, or lacks a key: it is another program's, or another version's.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON of agfnet ({error}). Choose another folder, or move it away.") from error
    if keys and not (isinstance(value, dict) and value.keys() >= set(keys)):
        raise ConfigError(
            f"{path}: was not written by this version of agfnet (no {', '.join(keys)}). Choose another folder, or move "
            "it away."
        )
    return value


class _OnceEach(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML's own loader keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """See PyYAML."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """What a YAML file holds.

    Raises:
        ConfigError: no such file, or no YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _OnceEach)  # noqa: S506 - a safe loader
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Give an existing file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
