"""What stands between the network and the routes: headers, who may ask, and how much, before anything is read."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
import uuid
from collections.abc import Callable
from contextlib import nullcontext

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agfnet.serving.batching import Door
from agfnet.serving.problems import Problem
from agfnet.serving.settings import ServiceSettings

log = logging.getLogger("agfnet.serving")
OPEN = ("/", "/healthz")
"""Paths that tell nothing of the model: they need no token, and a link of another site may lead to them."""
PAGE = "/page/"
_ASKING = ("/v1/predict", "/v1/explain")
SMALL_BODY = 2**16
"""Bytes that any other path takes."""
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """One layer around the application.

    Every answer gets the security headers and a request id. A request without a fitting token, from another site, or
    with a body that is too large or too slow is answered here, and so is a fault of the application. Each request is
    one line of the log: no address, no file name, no query.

    Args:
        app: the application.
        settings: of the service.
        door: asked before a body is read.
        seen: called with path, status and seconds of each request.
    """

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, door: Door, seen: Callable[[str, int, float], None]
    ) -> None:
        self.app = app
        self.settings = settings
        self.door = door
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, request_id, status = time.perf_counter(), str(uuid.uuid4()), 0
        scope.setdefault("state", {})["request_id"] = request_id
        # HEAD is GET without the body, which the server leaves out: routes need not know of it.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers["X-Request-ID"] = request_id
            await send(message)

        try:
            self._admit(scope)
            asking = scope["path"] in _ASKING
            with self.door.entered() if asking else nullcontext():
                most = self.settings.max_body if asking else SMALL_BODY
                again = _replay(await self._body(Headers(scope=scope), receive, most), receive)
                await self.app(asked, again, guarded)
        except Problem as problem:
            await _answer(problem, guarded)
        except Exception:  # noqa: BLE001 - whatever it is, it is answered and in the log
            log_fault(request_id, traceback.format_exc())
            if not status:
                await _answer(Problem(500, "internal", "The service has a fault; its log says more."), guarded)
        seconds = time.perf_counter() - started
        self.seen(scope["path"], status, seconds)
        log.info(
            json.dumps(
                {
                    "request_id": request_id,
                    "caller": scope["state"].get("caller"),
                    "method": scope["method"],
                    "path": getattr(asked.get("route"), "path", None),
                    "status": status,
                    "ms": round(1e3 * seconds, 1),
                }
            )
        )

    def _admit(self, scope: Scope) -> None:
        """Pass if this caller may ask for this path; before anything of the body is read."""
        headers, path = Headers(scope=scope), scope["path"]
        if not self.settings.tokens and _name(headers.get("host", "")) not in _LOOPBACK:
            raise Problem(403, "forbidden", "Without tokens this service is asked for as localhost only.")
        if path in OPEN or path.startswith(PAGE):
            return
        if _from_elsewhere(headers):
            raise Problem(403, "forbidden", "A page of another origin may not ask this service.")
        caller = self.settings.caller(headers.get("authorization", ""))
        if caller is None:
            raise Problem(401, "unauthorized", "This needs a token: Authorization: Bearer TOKEN.")
        scope["state"]["caller"] = caller

    async def _body(self, headers: Headers, receive: Receive, most: int) -> bytes:
        """The whole body, if it has no more than `most` bytes and comes in time."""
        stated = headers.get("content-length", "")
        if stated.isascii() and stated.isdigit() and int(stated[:20]) > most:
            raise _too_large(most)
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "malformed-body", "The request broke off.")
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise Problem(408, "timeout", "The request took too long to arrive.") from None


def log_fault(request_id: str, what: str) -> None:
    """A fault as one line of the log, however many it has itself: what collects logs goes by lines."""
    log.error(json.dumps({"request_id": request_id, "fault": what}))


def _too_large(most: int) -> Problem:
    size = f"{most >> 20} MiB" if most >= 2**20 else f"{most >> 10} KiB"
    return Problem(413, "oversized-body", f"The request is over {size}. Send less, such as smaller images.")


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another origin, such as another port of this machine, uses a browser that may ask here."""
    origin = headers.get("origin")
    other = origin is not None and origin.partition("://")[2] != headers.get("host", "")
    return other or headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, and keeps no hold of it; then what comes after it."""
    waiting = [body]

    async def again() -> Message:
        return {"type": "http.request", "body": waiting.pop(), "more_body": False} if waiting else await receive()

    return again


async def _answer(problem: Problem, send: Send) -> None:
    body = json.dumps(problem.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **problem.headers}
    if problem.status in {408, 413}:
        headers["Connection"] = "close"  # what is left of the body is not read
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
