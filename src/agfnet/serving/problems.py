"""What goes wrong for a caller, as status, code and a sentence; never with a detail of this machine."""

from __future__ import annotations

from agfnet.data.imagefile import CodedImageError

TOO_LARGE = {"oversized-image", "oversized-body"}
_NOT_AN_IMAGE = {"not-an-image", "unsupported-dicom"}


class Problem(Exception):  # noqa: N818 - the field's term, RFC 9457
    """An answer other than the one that was asked for.

    Attributes:
        status: of HTTP.
        code: for programs.
        message: for people.
        view: the image that it is about, if one.
        retry_after: seconds, for a caller who may come again.
    """

    def __init__(
        self, status: int, code: str, message: str, *, view: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.view = view
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, str | None]:
        """As JSON."""
        return {"code": self.code, "message": self.message, "view": self.view}

    @property
    def headers(self) -> dict[str, str]:
        """That belong to it."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def image_problem(error: CodedImageError, view: str) -> Problem:
    """A bad image as a problem."""
    status = 413 if error.cause in TOO_LARGE else 415 if error.cause in _NOT_AN_IMAGE else 422
    return Problem(status, error.cause, f"{view}: {error.problem}. {error.remedy}", view=view)


def unrecorded() -> Problem:
    """The audit log cannot be written: nothing is answered that is not in it."""
    return Problem(503, "audit", "The answer could not be recorded. Tell whoever runs the service.")


def busy() -> Problem:
    """The queue is full."""
    return Problem(503, "busy", "The service has all the work that it can take. Try again.", retry_after=1)
