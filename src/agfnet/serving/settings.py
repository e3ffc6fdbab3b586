"""What a service is told when it starts."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agfnet.data.imagefile import ImageLimits
from agfnet.types import ConfigError

log = logging.getLogger("agfnet")

TOKENS = "AGFNET_TOKENS"
MIN_TOKEN = 16
UPLOAD_LIMITS = ImageLimits(max_bytes=32 * 2**20, max_pixels=40_000_000)
LOCAL_CALLER = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """How the service runs.

    Attributes:
        host, port: where it listens.
        tokens: token -> the name of its caller; none is allowed on a loopback address only.
        audit: the audit log's file.
        queue: requests with images that are accepted and not yet answered; more get 503. With `max_body` it bounds
            the memory that requests take.
        batch: looks that go through the network at once at most; memory grows with it, about 20 MiB each at 224 px.
            With `decoders` it also bounds how many requests hold decoded images: more could not share a pass.
        wait: how long a question waits for others to share a batch, seconds.
        timeout: from an accepted request to its answer, seconds.
        body_timeout: for a request's body to arrive, seconds.
        audit_timeout: for an entry to be in the audit log, seconds.
        max_body: bytes of a request's body.
        limits: of each image.
        decoders: images decoded at the same time.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    audit: Path = Path("audit.sqlite")
    queue: int = 32
    batch: int = 8
    wait: float = 0.005
    timeout: float = 30.0
    body_timeout: float = 20.0
    audit_timeout: float = 5.0
    max_body: int = 48 * 2**20
    limits: ImageLimits = UPLOAD_LIMITS
    decoders: int = 2

    def __post_init__(self) -> None:
        if not self.tokens and not self.local:
            raise ConfigError(
                f"{self.host} can be reached from other machines: give tokens ({TOKENS}, or --tokens FILE with lines "
                "`name token`), or listen on 127.0.0.1."
            )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def caller(self, authorization: str) -> str | None:
        """Who sends this Authorization header, or None where it opens nothing. Takes as long whichever token fits."""
        if not self.tokens:
            return LOCAL_CALLER
        scheme, _, given = authorization.partition(" ")
        found = None
        for token, name in self.tokens.items():
            if hmac.compare_digest(token.encode(), given.strip().encode("utf-8", "surrogateescape")):
                found = name
        return found if scheme.lower() == "bearer" else None


def _by_systemd(path: Path) -> bool:
    """Whether systemd hands the file to this service alone; its access list looks like leave for a group."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.resolve().is_relative_to(Path(folder).resolve())


def read_tokens(path: Path | None) -> dict[str, str]:
    """Token -> name, from a file or the environment (`AGFNET_TOKENS`): a line `name token` for each caller.

    Of a file that others may read there is a warning.

    Raises:
        ConfigError: a line of another form, a token that could be guessed, is another caller's or does not fit into a
            header, or no token where there should be some: that would open the service to all.
    """
    where = str(path or TOKENS)
    try:
        text = path.read_text(encoding="utf-8-sig") if path else os.environ.get(TOKENS)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read ({error}). Give a text file with lines `name token`.") from error
    if text is None:
        return {}
    if path and not _by_systemd(path) and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        log.warning("%s: others on this machine may read the tokens. chmod 600 it.", path)
    tokens: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, *rest = line.split()
        token = " ".join(rest)
        if len(token) < MIN_TOKEN:
            raise ConfigError(
                f"{where}, line {number}: needs a name, a space and a token of {MIN_TOKEN} characters or more, such as "
                "`openssl rand -hex 32` gives."
            )
        if not re.fullmatch("[!-~]+", token):
            raise ConfigError(
                f"{where}, line {number}: a token is of ASCII letters, digits and signs, without blanks, or no caller "
                "could send it: `openssl rand -hex 32` gives one."
            )
        if token in tokens:
            raise ConfigError(f"{where}, line {number}: has the token of another line. Give each caller its own.")
        tokens[token] = name
    if not tokens:
        raise ConfigError(f"{where}: holds no token. Add a line `name token`, or start the service without it.")
    return tokens
