from __future__ import annotations

import pickle
import stat
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from agfnet import places
from agfnet.places import Url, joined, local, look_up, place
from agfnet.types import ConfigError

SECRET = "aB3/x+9Z"


@pytest.mark.parametrize(
    ("text", "is_what"),
    [
        ("cases.csv", Path("cases.csv")),
        ("/data/cases.csv", Path("/data/cases.csv")),
        ("odd::name.csv", Path("odd::name.csv")),
        ("folder/s3://x.csv", Path("folder/s3:/x.csv")),
        ("file:///data/my%20cases.csv", Path("/data/my cases.csv")),
        ("FILE://localhost/data/cases.csv", Path("/data/cases.csv")),
        ("s3://bucket/cases.csv", Url("s3://bucket/cases.csv")),
        ("S3://bucket/cases.csv", Url("s3://bucket/cases.csv")),
    ],
)
def test_a_text_names_a_place(text, is_what):
    assert place(text) == is_what
    assert type(place(text)) is type(is_what)
    assert place(place(text)) == is_what


def test_a_url_reads_like_a_path():
    url = place("s3://bucket/set/cases.CSV.gz")
    assert (str(url), url.name, url.suffix) == ("s3://bucket/set/cases.CSV.gz", "cases.CSV.gz", ".gz")
    assert str(url.parent) == "s3://bucket/set"
    assert str(url.parent / "photos/./a.jpg") == "s3://bucket/set/photos/a.jpg"
    assert str(url.parent.parent / "a.jpg") == "s3://bucket/a.jpg"
    assert str(place("memory://a.csv").parent / "b.csv") == "memory://b.csv"
    assert url.resolve() == url
    assert pickle.loads(pickle.dumps(url)) == url
    assert len({url, place(str(url))}) == 1
    assert url != str(url)


@pytest.mark.parametrize(
    "text",
    [
        f"s3://AKIA1:{SECRET}@bucket/a.csv",
        f"s3://AKIA1:{SECRET}/a.csv",
        f"https://user:{SECRET}@host/a.csv",
        f"https://host/a.csv?X-Amz-Signature={SECRET}",
        f"https://host/a.csv#{SECRET}",
        f"az://container/a.csv?sig={SECRET}@x",
        f"simplecache::s3://AKIA1:{SECRET}@bucket/a.csv",
        f"zip://a.csv::s3://AKIA1:{SECRET}@bucket/a.zip",
        f"ftp://user:{SECRET}@host/a.csv",
        f"foo://user:{SECRET}/a.csv",
    ],
)
def test_a_url_with_a_secret_is_refused_and_the_secret_not_kept(text):
    url = place(text)
    assert url.refusal
    said = f"{url} {url!r} {url.parent} {url / 'b'} {url.refusal} {pickle.dumps(url)!r}"
    for read in (url.stat, url.read_bytes, lambda: url.open("rb")):
        with pytest.raises(OSError) as caught:
            read()
        said += f"{caught.value!r}"
    assert not any(part in said for part in SECRET.split("/")), said
    assert place(str(url)).refusal


@pytest.mark.parametrize(
    "text",
    [
        "simplecache::s3://bucket/a.csv", "filecache::https://host/a.csv", "zip://a.csv", "zip://a::s3://b/c.zip",
        "ssh://host/a.csv", "sftp://host/a.csv", "ftp://host/a.csv", "github://org:repo@main/a.csv", "local:///a.csv",
        "reference://a", "dir://a", "file://other/share/a.csv", "file://a.csv", "hf://datasets/a", "data://text,a",
    ],
)  # fmt: skip
def test_other_protocols_and_chains_are_not_read(text, monkeypatch):
    monkeypatch.setattr(places, "_file_system", lambda _: pytest.fail("opened"))
    url = place(text)
    assert url.refusal
    with pytest.raises(OSError, match=r"not read|of this machine"):
        url.stat()


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@2x.png",
        "gs://b_1/a b#2.png",
        "az://box/a.png",
        "https://host:9000/a.png",
        "http://[::1]:80/a.png",
    ],
)
def test_plain_urls_are_not_refused(text):
    assert place(text).refusal is None
    assert str(place(text)) == text


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (True, "s3://bucket/set"),
        (True, "s3://bucket/set/a/b.jpg"),
        (True, "s3://bucket/set/100%.jpg"),
        (True, "s3://bucket/set/a..b.jpg"),
        (False, "s3://bucket/settle/a.jpg"),
        (False, "s3://bucket/a.jpg"),
        (False, "s3://other/set/a.jpg"),
        (False, "gs://bucket/set/a.jpg"),
        (False, "https://bucket/set/a.jpg"),
        (False, "s3://bucket/set/../a.jpg"),
        (False, "s3://bucket/set/%2e%2e/a.jpg"),
        (False, "s3://bucket/set/.%2E/a.jpg"),
        (False, "s3://bucket/set/x%2f..%2fa.jpg"),
        (False, "s3://bucket/set/%252e%252e/a.jpg"),
        (False, "s3://bucket/set/..\\a.jpg"),
        (False, "s3://bucket/set/..%5ca.jpg"),
    ],
)
def test_what_lies_in_a_folder(inside, text):
    assert place(text).lies_in(place("s3://bucket/set")) is inside
    assert place(text).lies_in(place("s3://bucket/set/")) is inside
    assert not place(text).lies_in(Path("/"))


def test_an_absolute_value_does_not_start_from_the_folder():
    for folder in (Path("/data"), place("s3://bucket/set")):
        assert joined(folder, "s3://other/a.jpg") == Url("s3://other/a.jpg")
        assert joined(folder, "/photos/a.jpg") == Path("/photos/a.jpg")
        assert joined(folder, "file:///photos/a.jpg") == Path("/photos/a.jpg")
        assert str(joined(folder, "photos/a.jpg")) == f"{folder}/photos/a.jpg"


def test_only_local_paths_are_written_to():
    assert local("runs/first") == Path("runs/first")
    with pytest.raises(ValueError, match="s3://bucket/out is a URL"):
        local("s3://bucket/out")


def test_a_file_is_read(memory):
    memory.pipe_file("/set/a.bin", b"0123456789")
    url = place("memory://set/a.bin")
    assert url.read_bytes() == b"0123456789"
    with url.open("rb") as file:
        assert file.read(3) == b"012"
        file.seek(8)
        assert file.read() == b"89"
    assert stat.S_ISREG(url.stat().st_mode)
    assert url.stat().st_size == 10
    assert stat.S_ISDIR(url.parent.stat().st_mode)
    with pytest.raises(IsADirectoryError):
        url.parent.open("rb")
    memory.pipe_file("/set/empty", b"")
    assert place("memory://set/empty").open("rb").read() == b""


def test_a_large_file_is_read_in_parts(memory, monkeypatch):
    monkeypatch.setattr(places, "WHOLE", 5)
    memory.pipe_file("/a.bin", b"0123456789")
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: pytest.fail("fetched whole"))
    with place("memory://a.bin").open("rb") as file:
        file.seek(8)
        assert file.read() == b"89"


def test_the_status_is_asked_for_once_and_changes_with_the_content(memory, monkeypatch):
    memory.pipe_file("/a.bin", b"1")
    url = place("memory://a.bin")
    first = url.stat().st_mtime_ns
    assert place("memory://a.bin").stat().st_mtime_ns == first
    memory.pipe_file("/a.bin", b"2")
    assert place("memory://a.bin").stat().st_mtime_ns != first
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: pytest.fail("asked again"))
    assert url.stat().st_mtime_ns == first
    assert pickle.loads(pickle.dumps(url)).stat().st_mtime_ns == first


def test_what_is_not_there_or_not_reached_is_an_os_error(memory, monkeypatch):
    url = place("memory://none.bin")
    with pytest.raises(FileNotFoundError) as caught:
        url.stat()
    assert caught.value.filename == "memory://none.bin"

    def fail(*_, **__):
        raise RuntimeError("no credentials found.\nat all")

    monkeypatch.setattr(type(memory), "info", fail)
    with pytest.raises(OSError, match="no credentials found; credentials and endpoint come from the environment"):
        url.stat()
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: {"type": "file", "size": None})
    with pytest.raises(OSError, match="does not say how large it is"):
        url.stat()


def test_folders_are_listed_where_it_pays(memory, monkeypatch):
    for i in range(places._WORTH_LISTING):
        memory.pipe_file(f"/many/{i}.png", b"x" * (i + 1))
    memory.pipe_file("/few/1.png", b"x")
    urls = [place(f"memory://many/{i}.png") for i in range(places._WORTH_LISTING)]
    other = [place("memory://few/1.png"), place("https://localhost/a.png")]
    single = [place(str(url)).stat() for url in urls]
    look_up([*urls, *other])
    assert [url.known for url in other] == [None, None]
    monkeypatch.setattr(type(memory), "info", lambda *_, **__: pytest.fail("asked one by one"))
    assert [url.stat() for url in urls] == single
    assert [url.stat().st_mtime_ns for url in urls] == [one.st_mtime_ns for one in single]
    monkeypatch.setattr(type(memory), "ls", lambda *_, **__: 1 / 0)
    again = [place(str(url)) for url in urls]
    look_up(again)
    assert again[0].known is None


def test_listing_and_single_answer_give_one_version():
    when = datetime(2026, 1, 31, tzinfo=UTC)
    assert places._status({"size": 1, "created": when}) == places._status({"size": 1, "created": when.timestamp()})
    versions = [{"ETag": "1"}, {"ETag": "2"}, {"Last-Modified": "x"}, {}]
    assert len({places._status({"size": 1, **one}).st_mtime_ns for one in versions}) == 4


@pytest.mark.parametrize(("protocol", "remedy"), [("s3", "s3fs"), ("gs", "gcsfs"), ("memory", "")])
def test_a_missing_package_is_named_with_its_remedy(protocol, remedy, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(ConfigError, match=f"pip install 'agfnet\\[scale\\]'.?{remedy}$"):
        place(f"{protocol}://b/a.csv").stat()


def test_a_web_server_is_read(tmp_path):
    (tmp_path / "a b.bin").write_bytes(b"0123456789")
    serve = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = place(f"http://127.0.0.1:{server.server_port}/a b.bin")
            assert url.stat().st_size == 10
            assert url.open("rb").read() == b"0123456789"
            assert url.read_bytes() == b"0123456789"
            with pytest.raises(FileNotFoundError):
                (url.parent / "none.bin").stat()
        finally:
            server.shutdown()


@pytest.mark.parametrize("status", [403, 503, None])
def test_a_web_server_that_refuses_or_is_away_does_not_say_that_a_file_is_not_there(status):
    """Who believed it would leave the cell of the view empty."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def do_HEAD(self):
            self.send_error(status)

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        url = place(f"http://127.0.0.1:{server.server_port}/a.jpg")
        if status is not None:
            Thread(target=server.serve_forever, daemon=True).start()
        else:
            server.server_close()
        for ask in (url.stat, url.read_bytes):
            with pytest.raises(OSError, match=str(status or "onnect")) as said:
                ask()
            assert not isinstance(said.value, FileNotFoundError)
        if status is not None:
            server.shutdown()
