from __future__ import annotations

import errno

import polars as pl
import pytest

from agfnet.files import PRIVATE, claim, hold_folder, write_atomically, write_text
from agfnet.types import ConfigError


def test_what_was_kept_from_others_still_is_when_it_is_written_again(tmp_path):
    path = tmp_path / "predictions.csv"
    write_text(path, "one")
    path.chmod(0o600)
    write_text(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o600)


def test_it_is_kept_from_others_while_it_is_written(tmp_path):
    path, seen = tmp_path / "predictions.csv", []
    write_text(path, "one", mode=PRIVATE)

    def write(temporary):
        temporary.write_text("two")
        seen.append(temporary.stat().st_mode & 0o777)

    write_atomically(path, write)
    assert seen == [0o600]


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with claim(tmp_path / "lock"), pytest.raises(BlockingIOError):
        claim(tmp_path / "lock")
    claim(tmp_path / "lock").close()


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    lock = tmp_path / "new" / "lock"
    with hold_folder(lock), pytest.raises(ConfigError, match="another run works in it"):
        hold_folder(lock)
    with hold_folder(lock):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="it is a file"):
        hold_folder(tmp_path / "file" / "lock")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    """numpy's and others' errors of a full disk name none."""

    def full(temporary):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="cannot be written") as caught:
        write_atomically(tmp_path / "frame.npy", full)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "frame.npy"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "write", [lambda path: path.write_text("x"), pl.DataFrame({"patient_id": ["P1"]}).write_parquet]
)
def test_what_says_who_a_patient_is_is_made_for_its_owner_alone(tmp_path, write):
    write_atomically(tmp_path / "file", write, mode=PRIVATE)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
