"""Start the service and stop it without losing what it accepted."""

from __future__ import annotations

import asyncio
import logging
import socket
import warnings
from contextlib import suppress

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from agfnet.data.preprocess import Framed
from agfnet.prediction.predictor import Predictor
from agfnet.serving.app import create_app
from agfnet.serving.settings import ServiceSettings
from agfnet.types import AgfnetError, BundleError, ConfigError

log = logging.getLogger("agfnet.serving")


class Impatient(H11Protocol):
    """Closes a connection over which no request has come in time: those that say nothing would fill all places.

    The time runs from the connection's start and from each answer; uvicorn's own ends with the next byte. Who is
    answered before the body has come may send the rest of it within this time, too: a connection that is closed at once
    may take the answer with it.
    """

    patience = 20.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        self._wait(None)

    def on_response_complete(self) -> None:
        """See uvicorn; a request that is waiting already is begun here."""
        answered = self.cycle
        super().on_response_complete()
        self._wait(answered)

    def _wait(self, answered: RequestResponseCycle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.patience, self._part, answered)

    def _part(self, answered: RequestResponseCycle | None) -> None:
        if self.cycle is answered:
            self.transport.close()


def serve(predictor: Predictor, settings: ServiceSettings) -> None:
    """Answer until SIGTERM or SIGINT; then accept nothing more, finish what was accepted, and return.

    Raises:
        AuditError: the audit log cannot be used.
        BundleError: the network does not answer.
        ConfigError: something else listens there.
    """
    try:
        with socket.create_server(
            (settings.host, settings.port), family=socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        ):
            pass
    except OSError as error:
        option = "--host" if isinstance(error, socket.gaierror) else "--port"
        raise ConfigError(
            f"{settings.host}:{settings.port} cannot be listened on ({error.strerror}). Choose another {option}."
        ) from error
    _warm_up(predictor)
    warnings.filterwarnings("ignore", module="PIL")  # of odd uploads: thousands of lines that name no request
    config = uvicorn.Config(
        create_app(predictor, settings),
        host=settings.host,
        port=settings.port,
        http=Impatient,
        access_log=False,  # it holds addresses and paths; see `Guard`
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=round(settings.timeout + settings.body_timeout + settings.audit_timeout) + 1,
        limit_concurrency=max(256, 8 * settings.queue),  # connections; a browser opens six
        backlog=4 * settings.queue,
        timeout_keep_alive=10,
        h11_max_incomplete_event_size=32 * 1024,
    )
    bundle = predictor.bundle
    log.info(
        "http://%s:%d with bundle %s (signature: %s)", settings.host, settings.port, bundle.sha256[:12], bundle.signed
    )
    with suppress(KeyboardInterrupt):  # the signal that it was stopped by, once all is answered
        uvicorn.Server(config).run()
    log.info("stopped; what was accepted is answered")


def _warm_up(predictor: Predictor) -> None:
    """The first pass through the network takes longer: let no caller wait for it, nor be the first to find a fault."""
    blank = {view: [Framed(np.zeros((*spec.size, 3), np.uint8))] for view, spec in predictor.specs.items()}
    try:
        predictor.ask(predictor.looks(blank))
    except AgfnetError:
        raise
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise BundleError(
            f"the network does not answer ({error}). Try --provider cpu; else export the run again."
        ) from error
