from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from agfnet.serving.audit import START, AuditError, AuditLog, verify


@pytest.fixture
def filled(tmp_path):
    log = AuditLog(tmp_path / "deep" / "audit.sqlite")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: log.add("predict", f"r{i}", {"prediction": "cyst", "i": i}), range(40)))
    log.close()
    return log.path


def tampered(path, statement):
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER no_update")
        database.execute("DROP TRIGGER no_delete")
        database.execute(statement)
        database.commit()


def test_a_chain_goes_on_after_a_restart(filled):
    first = verify(filled)
    assert first.entries == 40
    log = AuditLog(filled)
    assert verify(filled) == first
    log.add("feedback", "r3", {"diagnosis": "cyst"})
    log.close()
    assert verify(filled).entries == 41


def test_one_service_writes_to_a_log(filled):
    log = AuditLog(filled)
    with pytest.raises(AuditError, match="another service"):
        AuditLog(filled)
    log.close()
    AuditLog(filled).close()


def test_a_log_is_the_same_by_each_of_its_names(filled, tmp_path):
    (tmp_path / "link.sqlite").symlink_to(filled)
    log = AuditLog(tmp_path / "link.sqlite")
    with pytest.raises(AuditError, match="another service"):
        AuditLog(filled)
    log.add("predict", "r40", {})
    log.close()
    assert verify(filled).entries == 41


def test_only_its_owner_may_read_a_log(tmp_path):
    before = os.umask(0o022)
    log = AuditLog(tmp_path / "audit.sqlite")
    os.umask(before)
    log.add("predict", "r1", {})
    modes = {file.name.removeprefix("audit.sqlite"): file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("", ".lock", "-wal", "-shm"), 0o600)
    log.close()


def test_an_answer_is_found_by_its_request(filled):
    log = AuditLog(filled)
    assert log.result_of("r7")["i"] == 7
    assert log.result_of("nowhere") is None
    log.close()


def test_a_log_that_could_not_be_written_works_once_it_can_be(filled):
    log = AuditLog(filled)
    assert log.works()
    log._database.execute("PRAGMA query_only = ON")
    with pytest.raises(AuditError, match="could not be written"):
        log.add("predict", "r40", {})
    assert log.failing
    assert not log.works()
    log._database.execute("PRAGMA query_only = OFF")
    assert log.works()
    assert not log.failing
    log.close()
    assert verify(filled).entries == 40


@pytest.mark.parametrize(
    ("statement", "entry"),
    [
        ("UPDATE entries SET content = replace(content, 'cyst', 'wart') WHERE number = 5", 5),
        ("UPDATE entries SET time = '2000' WHERE number = 9", 9),
        ("DELETE FROM entries WHERE number = 7", 7),
        ("UPDATE entries SET number = number + 100 WHERE number = 40", 40),
        ("DELETE FROM entries WHERE number = 1", 1),
    ],
)
def test_a_change_is_found_where_it_is(filled, statement, entry):
    tampered(filled, statement)
    with pytest.raises(AuditError, match=f"entry {entry} is not what was written"):
        verify(filled)


def test_a_log_that_is_written_anew_or_cut_off_shows_to_who_noted_a_hash(filled, agfnet_command):
    noted = verify(filled).last
    with closing(sqlite3.connect(filled)) as database:
        entries = database.execute("SELECT kind, request_id, content FROM entries ORDER BY number").fetchall()
    log = AuditLog(filled)
    log.add("feedback", "r3", {"diagnosis": "cyst"})
    log.close()
    assert verify(filled, noted=noted).entries == 41
    assert agfnet_command("audit", filled, "--noted", noted).exit_code == 0
    tampered(filled, "DELETE FROM entries WHERE number > 39")
    with pytest.raises(AuditError, match="hash that was noted is not in it"):
        verify(filled, noted=noted)
    anew = AuditLog(filled.with_name("anew.sqlite"))
    for kind, request_id, content in entries:
        anew.add(kind, request_id, json.loads(content.replace("cyst", "naevus")))
    anew.close()
    assert verify(anew.path).entries == 40
    failed = agfnet_command("audit", anew.path, "--noted", noted)
    assert failed.exit_code == 1
    assert "hash that was noted" in failed.stderr


@pytest.mark.parametrize("statement", ["UPDATE entries SET kind = 'x'", "DELETE FROM entries"])
def test_the_log_is_append_only(filled, statement):
    with closing(sqlite3.connect(filled)) as database, pytest.raises(sqlite3.IntegrityError, match="append only"):
        database.execute(statement)


def test_what_is_no_log(tmp_path, agfnet_command):
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    with pytest.raises(AuditError, match="Name another file"):
        AuditLog(path)
    with pytest.raises(AuditError, match="Restore it"):
        verify(path)
    with pytest.raises(AuditError, match="no such"):
        verify(tmp_path / "nowhere")
    assert agfnet_command("audit", path).exit_code == 1


@pytest.mark.parametrize("statement", ["CREATE TABLE patients (name)", "CREATE TABLE entries (number, title)"])
def test_a_database_of_something_else_stays_as_it_is(tmp_path, statement):
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
    before = path.read_bytes()
    with pytest.raises(AuditError, match="something else"):
        AuditLog(path)
    assert path.read_bytes() == before


def test_what_is_noted_is_a_hash(filled, agfnet_command):
    noted = verify(filled).last
    assert agfnet_command("audit", filled, "--noted", f" {noted.upper()}\n").exit_code == 0
    for mistyped in (noted[:-1], f"{noted}0", f"{noted[:-1]}o", ""):
        failed = agfnet_command("audit", filled, "--noted", mistyped)
        assert failed.exit_code == 1
        assert "is no hash" in failed.stderr


def test_an_empty_log_is_whole(tmp_path, agfnet_command):
    AuditLog(tmp_path / "audit.sqlite").close()
    assert verify(tmp_path / "audit.sqlite") == (0, START)
    assert "0 entries" in agfnet_command("audit", tmp_path / "audit.sqlite").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a reader without leave to write")
def test_an_auditor_may_read_what_he_may_not_write(filled):
    base = Path(tempfile.gettempdir())
    for folder in filled.parents:
        if base in folder.parents:  # which the fixture has made
            folder.chmod(folder.stat().st_mode | 0o055)
    filled.chmod(0o444)
    script = (
        "import os, sys, pathlib; from agfnet.serving.audit import verify; os.setuid(65534); "
        "print(verify(pathlib.Path(sys.argv[1])).entries)"
    )
    done = subprocess.run([sys.executable, "-c", script, filled], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "40", done.stderr


def test_a_log_in_use_is_read_whole_through_a_link(tmp_path):
    log = AuditLog(tmp_path / "real" / "audit.sqlite")
    log.add("predict", "r1", {"prediction": "cyst"})
    (tmp_path / "link.sqlite").symlink_to(log.path)
    assert verify(tmp_path / "link.sqlite").entries == 1
    log.close()
