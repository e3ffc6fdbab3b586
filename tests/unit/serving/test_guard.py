from __future__ import annotations

import asyncio
import json

import pytest

from agfnet.serving.batching import Door
from agfnet.serving.guard import Guard
from agfnet.serving.settings import ServiceSettings


def ask(messages, *, path="/v1/predict", headers=(), **settings):
    """What comes of one request whose body is these messages; None: nothing more comes."""
    door, sent, seen = Door(1), [], []

    async def app(_scope, receive, send):
        assert door.inside == (path == "/v1/predict")
        body = (await receive())["body"]
        if body == b"break":
            raise RuntimeError("a detail of this machine")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    waiting = list(messages)

    async def receive():
        message = waiting.pop(0)
        if message is None:
            await asyncio.sleep(60)
        return message

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"host", b"localhost"), *headers]}
    guard = Guard(app, ServiceSettings(**settings), door, lambda *told: seen.append(told))
    asyncio.run(guard(scope, receive, send))
    assert door.inside == 0
    assert seen[0][1] == sent[0]["status"]
    return sent[0]["status"], sent[1]["body"]


def part(content, *, more):
    return {"type": "http.request", "body": content, "more_body": more}


def test_a_body_in_pieces_arrives_whole():
    assert ask([part(b"one ", more=True), part(b"two", more=False)]) == (200, b"one two")


def test_a_body_that_does_not_come_is_given_up():
    status, body = ask([part(b"one", more=True), None], body_timeout=0.05)
    assert (status, json.loads(body)["code"]) == (408, "timeout")


def test_a_body_that_says_nothing_of_its_length_is_cut_off():
    status, body = ask([part(bytes(600), more=True), part(bytes(600), more=True), None], max_body=1000)
    assert (status, json.loads(body)["code"]) == (413, "oversized-body")


@pytest.mark.parametrize("length", [b"1001", b"9" * 400])
def test_a_stated_length_is_refused_before_anything_is_read(length):
    status, _ = ask([], headers=[(b"content-length", length)], max_body=1000)
    assert status == 413


def test_a_request_that_breaks_off_is_dropped():
    status, body = ask([part(b"one", more=True), {"type": "http.disconnect"}])
    assert (status, json.loads(body)["code"]) == (400, "malformed-body")


def test_a_fault_tells_nothing_and_leaves_its_place(caplog):
    status, body = ask([part(b"break", more=False)])
    assert (status, json.loads(body)["code"]) == (500, "internal")
    assert b"detail" not in body
    fault = json.loads(caplog.records[0].message)
    assert "a detail of this machine" in fault["fault"]
    assert fault["fault"].startswith("Traceback")
    assert caplog.records[0].exc_info is None  # or it would be several lines


@pytest.mark.parametrize("path", ["/", "/healthz", "/page/app.js", "/v1/feedback"])
def test_a_path_that_takes_no_images_takes_no_large_body(path):
    """Also where no token is asked for: nobody may fill the memory."""
    assert ask([part(bytes(2**15), more=False)], path=path)[0] == 200
    assert ask([part(bytes(2**15), more=True)] * 3, path=path)[0] == 413
