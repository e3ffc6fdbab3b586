from __future__ import annotations

import re
from pathlib import Path

import pytest

from agfnet.serving.settings import ServiceSettings, read_tokens
from agfnet.types import ConfigError

LONG = "0123456789abcdef"


def test_the_unit_allows_the_memory_that_requests_may_take():
    """As docs/deploy.md reckons it for 384 px, with every request as large as may be."""
    settings, look = ServiceSettings(), 3 * 384 * 384 * 4
    uploads, decoding = settings.queue * 2 * settings.max_body, settings.decoders * 10**9
    looks = (settings.batch + settings.decoders) * 96 * look  # 80 looks at 8 and 8 images, of one view or of both
    unit = (Path(__file__).parents[3] / "deploy" / "agfnet.service").read_text(encoding="utf-8")
    allowed = re.search(r"^MemoryMax=(\d+)G$", unit, re.MULTILINE)
    assert uploads + decoding + looks + 0.9e9 <= int(allowed[1]) * 2**30


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_no_token(host):
    assert ServiceSettings(host=host).caller("") == "local"


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7", "::", "example.org"])
def test_other_machines_need_one(host):
    with pytest.raises(ConfigError, match="give tokens"):
        ServiceSettings(host=host)
    assert ServiceSettings(host=host, tokens={LONG: "ward"}).caller(f"Bearer {LONG}") == "ward"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", f"Basic {LONG}", f"Bearer {LONG}0", f"Bearer {LONG[1:]}", "Bearer \udcff", LONG],
)
def test_what_opens_nothing(header):
    assert ServiceSettings(tokens={LONG: "ward"}).caller(header) is None


def test_a_file_of_tokens_that_others_may_read_is_told(tmp_path, caplog):
    path = tmp_path / "tokens"
    path.write_text(f"ward {LONG}\n")
    for mode, told in ((0o600, False), (0o640, True), (0o604, True)):
        path.chmod(mode)
        read_tokens(path)
        assert ("others on this machine may read the tokens" in caplog.text) == told
        caplog.clear()


def test_a_file_that_systemd_hands_over_is_no_ones_elses(tmp_path, caplog, monkeypatch):
    """It is shown with leave for a group, which is that of an access list for the service alone."""
    path = tmp_path / "tokens"
    path.write_text(f"ward {LONG}\n")
    path.chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    read_tokens(path)
    assert caplog.text == ""


def test_tokens_from_a_file_and_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "tokens"
    path.write_text(f"# callers\nward  {LONG}\n\nlab {LONG}x\n")
    assert read_tokens(path) == {LONG: "ward", f"{LONG}x": "lab"}
    monkeypatch.setenv("AGFNET_TOKENS", f"ward {LONG}")
    assert read_tokens(None) == {LONG: "ward"}
    assert LONG not in repr(ServiceSettings(tokens={LONG: "ward"}))


def test_a_token_that_could_be_guessed(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("ward secret\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_tokens(path)


@pytest.mark.parametrize("token", ["pässwörter-sind-lang-genug", f"{LONG} {LONG}", f"{LONG}\x7f"])
def test_a_token_that_no_caller_could_send(token, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"ward {token}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1: a token is of ASCII"):
        read_tokens(path)


def test_a_byte_order_mark_makes_no_token_of_a_comment(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# tokens of the wards, see the wiki\nward {LONG}\n", encoding="utf-8-sig")
    assert read_tokens(path) == {LONG: "ward"}


def test_a_token_of_two_callers(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"ward {LONG}\nlab {LONG}\n")
    with pytest.raises(ConfigError, match="line 2: has the token of another line"):
        read_tokens(path)


@pytest.mark.parametrize("content", [b"", b"# later\n", b"\xff\xfe"])
def test_a_file_without_a_token_does_not_open_the_service(content, tmp_path, monkeypatch):
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="tokens: "):
        read_tokens(path)
    monkeypatch.setenv("AGFNET_TOKENS", "")
    with pytest.raises(ConfigError, match="holds no token"):
        read_tokens(None)
    monkeypatch.delenv("AGFNET_TOKENS")
    assert read_tokens(None) == {}
