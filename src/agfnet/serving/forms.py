"""Reading a multipart form, whole in memory and beside the loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import Executor

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from agfnet.serving.problems import Problem

_FIELD_BYTES = 64


class WholeForm(MultiPartParser):
    """No image is written to a disk, not even for a moment; `Guard` has bounded the body.

    Attributes:
        ended: whether the form's end has come; without it the last part is missing, and nothing else tells.
    """

    spool_max_size = sys.maxsize
    ended = False

    def on_end(self) -> None:
        """The closing boundary."""
        self.ended = True


async def read_form(request: Request, pool: Executor, *, files: int, fields: int) -> FormData:
    """Read in a thread: a form that is made for it takes the parser seconds, in which others want their answers.

    Args:
        request: a multipart form.
        pool: of threads.
        files: most files.
        fields: most other fields.

    Raises:
        Problem: it cannot be read, or breaks off.
    """
    body = _once(b"".join([chunk async for chunk in request.stream()]))
    parser = WholeForm(request.headers, body, max_files=files, max_fields=fields, max_part_size=_FIELD_BYTES)
    try:
        form = await asyncio.get_running_loop().run_in_executor(pool, lambda: asyncio.run(parser.parse()))
    except MultiPartException as error:
        raise Problem(400, "malformed-body", f"The form cannot be read: {error.message}") from error
    except UnicodeError as error:
        raise Problem(400, "malformed-body", "The form is in a character set that cannot be read.") from error
    if not parser.ended:
        raise Problem(400, "malformed-body", "The form breaks off before its end. Send it again.")
    return form


async def _once(body: bytes) -> AsyncGenerator[bytes]:
    yield body
