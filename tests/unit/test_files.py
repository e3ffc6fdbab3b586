from __future__ import annotations

import pytest

from agfnet.files import claim, write_text


def test_what_was_kept_from_others_still_is_when_it_is_written_again(tmp_path):
    path = tmp_path / "predictions.csv"
    write_text(path, "one")
    path.chmod(0o600)
    write_text(path, "two")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("two", 0o600)


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    with claim(tmp_path / "lock"), pytest.raises(BlockingIOError):
        claim(tmp_path / "lock")
    claim(tmp_path / "lock").close()
