"""The application: routes, and what they do with one request."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from agfnet.data.imagefile import MM_PER_PIXEL_RANGE, scale_of
from agfnet.prediction.explanation import explained, questions
from agfnet.prediction.predictor import Frames, Look, Predictor
from agfnet.serving.audit import AuditError, AuditLog
from agfnet.serving.batching import Batcher, Door
from agfnet.serving.forms import read_form
from agfnet.serving.guard import Guard, log_fault
from agfnet.serving.problems import Problem, unrecorded
from agfnet.serving.replies import (
    VERSION,
    Deadline,
    Upload,
    audited,
    explained_answer,
    model_facts,
    predicted,
    read_upload,
)
from agfnet.serving.schemas import (
    OTHER,
    Answer,
    Explained,
    Feedback,
    ModelFacts,
    Predicted,
    ProblemBody,
    Recorded,
    Status,
)
from agfnet.serving.settings import ServiceSettings
from agfnet.serving.telemetry import Telemetry
from agfnet.types import RESEARCH_USE, Prediction

T = TypeVar("T")
SCALE = "mm_per_pixel_"
_IMAGES = 8
"""Most images of one view in a request."""
_HTTP_CODES = {404: "not-found", 405: "method-not-allowed"}


class Service:
    """What the routes share, and the way of one question.

    Args:
        predictor: of the bundle.
        settings: of the service.
    """

    def __init__(self, predictor: Predictor, settings: ServiceSettings) -> None:
        self.predictor = predictor
        self.settings = settings
        self.audit = AuditLog(settings.audit)
        self.door = Door(settings.queue)
        self.audit_late = False
        self.telemetry = Telemetry(predictor.decision, self.door, lambda: self.audit.failing or self.audit_late)
        ask = partial(predictor.ask, batch_size=settings.batch)
        self.batcher = Batcher(ask, batch=settings.batch, wait=settings.wait, seen=self.telemetry.looks)
        self.pool = ThreadPoolExecutor(settings.decoders, thread_name_prefix="agfnet-decoder")
        # As many as fill a pass, and those that are decoded meanwhile: others wait as uploads, which take less.
        self.at_work = asyncio.Semaphore(settings.batch + settings.decoders)
        self.readers = ThreadPoolExecutor(settings.decoders, thread_name_prefix="agfnet-reader")
        self.scribe = ThreadPoolExecutor(1, thread_name_prefix="agfnet-scribe")

    def close(self) -> None:
        """Finish what was begun."""
        self.readers.shutdown()
        self.pool.shutdown()
        self.batcher.close()
        self.scribe.shutdown()
        self.audit.close()

    async def answer(self, request: Request, *, explain: bool) -> Answer:
        """Answer one request; when this returns, the answer is in the audit log.

        Raises:
            Problem: it cannot be.
        """
        request_id, caller = request.state.request_id, request.state.caller
        deadline = Deadline(time.monotonic() + self.settings.timeout)
        try:
            async with asyncio.timeout(self.settings.timeout):
                upload = await self._upload(request)
                async with self.at_work:
                    work = (self._explain if explain else self._predict)(upload, request_id, deadline)
                    answer, prediction = await _unless_gone(request, work, deadline)
        except TimeoutError:
            raise Problem(504, "timeout", "The answer took too long. Try again.", retry_after=5) from None
        content = {"caller": caller, **audited(answer, upload)}
        await self._by_scribe(self.audit.add, "explain" if explain else "predict", request_id, content)
        self.telemetry.answer(prediction, self.predictor.classes)
        return answer

    async def _predict(self, upload: Upload, request_id: str, deadline: Deadline) -> tuple[Answer, Prediction]:
        loop = asyncio.get_running_loop()
        frames, looks = await loop.run_in_executor(self.pool, self._looked, upload, deadline)
        own = await asyncio.wrap_future(self.batcher.submit(looks))
        prediction = self.predictor.conclude(tuple(frames), own, warnings=self.predictor.warned(frames))
        return predicted(prediction, self.predictor, request_id), prediction

    def _looked(self, upload: Upload, deadline: Deadline) -> tuple[Frames, list[Look]]:
        frames = read_upload(upload, self.predictor, self.settings.limits, deadline)
        return frames, self.predictor.looks(frames)

    async def _explain(self, upload: Upload, request_id: str, deadline: Deadline) -> tuple[Answer, Prediction]:
        loop = asyncio.get_running_loop()
        frames, looks = await loop.run_in_executor(self.pool, self._questioned, upload, deadline)
        told = [asyncio.wrap_future(self.batcher.submit(own)) for own in looks.values()]
        answers = dict(zip(looks, await asyncio.gather(*told), strict=True))
        made = explained(self.predictor, frames, answers)
        answer = await loop.run_in_executor(self.pool, explained_answer, made, self.predictor, request_id)
        return answer, made.prediction

    def _questioned(self, upload: Upload, deadline: Deadline) -> tuple[Frames, dict[frozenset[str], list[Look]]]:
        frames = read_upload(upload, self.predictor, self.settings.limits, deadline)
        return frames, questions(self.predictor, frames)

    async def confirm(self, feedback: Feedback, caller: str) -> Recorded:
        """Keep a diagnosis that was confirmed later; one that is sent again or corrected is kept too, but counts once.

        Raises:
            Problem: an unknown request or diagnosis.
        """
        if feedback.diagnosis not in {*self.predictor.classes, OTHER}:
            message = f"Send one of the model's classes, see /v1/model, or `{OTHER}` where it is none of them."
            raise Problem(422, "unknown-diagnosis", message)
        known = await self._by_scribe(self.audit.result_of, feedback.request_id)
        if known is None:
            raise Problem(404, "not-found", "There is no answer with this request_id.")
        content = {"caller": caller, "diagnosis": feedback.diagnosis, "predicted": known["prediction"]}

        def record() -> bool:
            again = self.audit.confirmed(feedback.request_id)
            self.audit.add("feedback", feedback.request_id, content)
            return again

        if not await self._by_scribe(record):
            self.telemetry.feedback(agrees=known["prediction"] == feedback.diagnosis)
        return Recorded(request_id=feedback.request_id, recorded=True)

    async def works(self) -> bool:
        """Whether the audit log can be written, as far as is known."""
        return await self._by_scribe(self.audit.works)

    async def _by_scribe(self, ask: Callable[..., T], *args: object) -> T:
        """Ask the audit log, one question after another.

        Raises:
            AuditError: it does not answer in time; an entry may have been written all the same.
        """
        asked = asyncio.get_running_loop().run_in_executor(self.scribe, ask, *args)
        try:
            told = await asyncio.wait_for(asked, self.settings.audit_timeout)
        except TimeoutError:
            self.audit_late = True
            raise AuditError(f"{self.audit.path}: does not answer. Is its disk busy, or a process at it?") from None
        self.audit_late = False
        return told

    async def _upload(self, request: Request) -> Upload:
        """The images and scales of a multipart request."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise Problem(415, "malformed-body", "Send multipart/form-data with one file for each view.")
        views = self.predictor.specs
        form = await read_form(request, self.readers, files=len(views) * _IMAGES, fields=len(views))
        uploaded: dict[str, list[bytes]] = {}
        scales: dict[str, float] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name in views:
                uploaded.setdefault(name, []).append(await value.read())
                await value.close()
            elif isinstance(value, str) and name.removeprefix(SCALE) in views and name.startswith(SCALE):
                view = name.removeprefix(SCALE)
                if view in scales:
                    raise Problem(422, "bad-scale", f"{view}: give one number of millimetres per pixel.", view=view)
                if value.strip():
                    scales[view] = _millimetres(value, view)
            else:
                raise _unusable(name, views)
        if not uploaded:
            raise Problem(422, "no-view", f"Give at least one image: {' or '.join(views)}.")
        if any(len(own) > _IMAGES for own in uploaded.values()):
            raise Problem(422, "too-many-images", f"Give at most {_IMAGES} images of a view.")
        for view in scales.keys() - uploaded.keys():
            raise Problem(422, "bad-scale", f"{view}: there is a scale, but no image.", view=view)
        return Upload(uploaded, scales)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """What the work gives, unless the caller goes away meanwhile: then nobody waits for it, and no image more is begun.

    Its place stays taken until nothing is done for it any more.

    Raises:
        Problem: the caller is gone.
    """
    asked, gone = asyncio.create_task(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            return asked.result()
        deadline.at = -math.inf
        await asyncio.wait((asked,))
        asked.exception()  # whatever it is, nobody is told
        raise Problem(400, "malformed-body", "The request broke off.")
    finally:
        asked.cancel()
        gone.cancel()


def _unusable(field: str, views: Collection[str]) -> Problem:
    """What is wrong with a field of a form, whose name may hold anything and is not repeated."""
    if field in views:
        return Problem(422, "no-view", f"{field}: send the image as a file, not as text.", view=field)
    known = ", ".join([*views, *(SCALE + view for view in views)])
    return Problem(422, "unknown-field", f"There is a field that is not known; known are {known}.")


def _millimetres(text: str, view: str) -> float:
    value = scale_of(text)
    if value is None:
        low, high = MM_PER_PIXEL_RANGE
        message = f"{view}: millimetres per pixel are a number from {low} to {high:g}, such as 0.05."
        raise Problem(422, "bad-scale", message, view=view)
    return value


def create_app(predictor: Predictor, settings: ServiceSettings) -> FastAPI:
    """The application of one bundle.

    Args:
        predictor: of the bundle.
        settings: of the service.

    Raises:
        AuditError: the audit log cannot be used.
    """
    service = Service(predictor, settings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemBody} for status in (400, 401, 403, 404, 405, 408, 413, 415, 422, 503, 504)
    }
    app = FastAPI(
        title="agfnet",
        version=VERSION,
        description=RESEARCH_USE,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        responses=problems,
    )
    _add_problems(app)
    _add_routes(app, service)
    app.add_middleware(Guard, settings=settings, door=service.door, seen=service.telemetry.request)
    return app


def _add_problems(app: FastAPI) -> None:
    """Every fault has the same form."""

    def said(problem: Problem) -> JSONResponse:
        return JSONResponse(problem.body, problem.status, headers=problem.headers)

    async def on_problem(_request: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)  # noqa: S101 - it is registered for these
        return said(error)

    async def on_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        answer = said(Problem(error.status_code, _HTTP_CODES.get(error.status_code, "malformed-body"), error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def on_unwritten(request: Request, error: Exception) -> Response:
        log_fault(request.state.request_id, str(error))
        return said(unrecorded())

    async def on_invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        where = ".".join(str(part) for part in error.errors()[0]["loc"][1:])
        return said(Problem(422, "malformed-body", f"The JSON does not fit at {where or 'its top'}."))

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(AuditError, on_unwritten)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def _add_routes(app: FastAPI, service: Service) -> None:
    page = Path(str(files("agfnet.serving").joinpath("page")))
    form = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form(service)}}}}

    @app.post("/v1/predict", response_model=Predicted, openapi_extra=form)
    async def predict(request: Request) -> Answer:
        """Diagnose one lesion from one or more views."""
        return await service.answer(request, explain=False)

    @app.post("/v1/explain", response_model=Explained, openapi_extra=form)
    async def explain(request: Request) -> Answer:
        """Diagnose, and say where the evidence lies and what each view's share is: a question for each set of views."""
        return await service.answer(request, explain=True)

    @app.post("/v1/feedback")
    async def feedback(request: Request, body: Feedback) -> Recorded:
        """Say which diagnosis was confirmed later."""
        return await service.confirm(body, request.state.caller)

    @app.get("/v1/model")
    async def model() -> ModelFacts:
        """The bundle that answers."""
        return model_facts(service.predictor, service.settings.limits)

    @app.get("/healthz")
    async def healthz() -> Status:
        """The process lives."""
        return Status(status="ok")

    @app.get("/readyz")
    async def readyz() -> Status:
        """Questions are answered: the network has been asked once, the audit log is written, the queue has a place."""
        if not service.batcher.alive:
            raise Problem(503, "internal", "The network is no longer asked. Start the service again.")
        if not await service.works():
            raise unrecorded()
        if service.door.full:
            raise Problem(503, "busy", "The queue is full.", retry_after=1)
        return Status(status="ok")

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.telemetry.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(page / "index.html")

    app.mount("/page", StaticFiles(directory=page), name="page")


def _form(service: Service) -> dict[str, Any]:
    """JSON schema of the upload."""
    fields: dict[str, Any] = {}
    low, high = MM_PER_PIXEL_RANGE
    for view, spec in service.predictor.specs.items():
        fields[view] = {"type": "string", "format": "binary", "description": f"An image: {spec.kind}."}
        fields[SCALE + view] = {"type": "number", "minimum": low, "maximum": high, "description": "Its scale."}
    return {"type": "object", "properties": fields, "additionalProperties": False, "minProperties": 1}
