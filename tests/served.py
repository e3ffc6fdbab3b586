"""A real service: `agfnet serve` as a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

READY_SECONDS = 60  # on a machine that also runs other tests


@dataclass(frozen=True)
class Service:
    """A running service.

    Attributes:
        url: where it answers.
        token: what opens it, or None.
        process: its process.
        audit: its audit log.
        ready_after: seconds from its start until it was ready.
    """

    url: str
    token: str | None
    process: subprocess.Popen[bytes]
    audit: Path
    ready_after: float

    def resident(self) -> int:
        """Resident memory, bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def serving(
    bundle: Path,
    folder: Path,
    *arguments: object,
    token: str | None = None,
    command: Path | None = None,
    user: int | None = None,
) -> Iterator[Service]:
    """Run a service; its log goes to `serve.log` in the folder. Killed at the end, if it still runs.

    With a `command` it is run by that; with a `user`, as that one, who must own the folder.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    audit, url = folder / "audit.sqlite", f"http://127.0.0.1:{port}"
    agfnet = command or Path(sys.executable).with_name("agfnet")
    started_as = [agfnet, "serve", bundle, "--port", port, "--audit", audit, *arguments]
    environment = {**os.environ, **({"AGFNET_TOKENS": f"tests {token}"} if token else {})}
    started = time.perf_counter()
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [str(part) for part in started_as], stdout=log, stderr=log, env=environment, user=user, cwd=folder
        )
    try:
        _wait(process, url, token, folder / "serve.log")
        yield Service(url, token, process, audit, time.perf_counter() - started)
    finally:
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, token: str | None, log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx2.get(f"{url}/readyz", headers=bearer(token), timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.02)
    raise RuntimeError(f"the service did not start:\n{log.read_text()}")


def bearer(token: str | None) -> dict[str, str]:
    """The header that opens a service."""
    return {"Authorization": f"Bearer {token}"} if token else {}
