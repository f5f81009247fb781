"""Exceptions of the clients: the service's problem details, and missing or unreadable responses.

Independent of how requests are sent.
"""

from __future__ import annotations

from http import HTTPStatus

from pydantic import ValidationError

from service.errors import UnitokError
from service.http.problems import Problem

SHOWN_CHARACTERS = 200
"""Length of the excerpt of a response that is not a problem detail, such as one from a proxy."""


class Unreachable(UnitokError):
    """No readable response arrived; it is unknown whether the service carried the request out."""


class RequestFailed(UnitokError):
    """The response was an error.

    Parameters
    ----------
    problem : the service's problem details; for a response from elsewhere, its status and the start of its text
    retry_after : seconds to wait according to the response, None if it names none
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(
            f"{problem.status} {problem.title}: {problem.detail} (request {problem.request_id or 'unknown'})"
        )
        self.problem = problem
        self.retry_after = retry_after


class NotFound(RequestFailed):
    """404: the item is not in the catalogue, or the path does not exist."""


class Denied(RequestFailed):
    """401 or 403: the API key is missing, wrong, or may not do this."""


class Busy(RequestFailed):
    """429 or 503 even after the retries: at capacity, starting or stopping, or without its store."""


CLASSES: dict[int, type[RequestFailed]] = {
    HTTPStatus.UNAUTHORIZED: Denied,
    HTTPStatus.FORBIDDEN: Denied,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.TOO_MANY_REQUESTS: Busy,
    HTTPStatus.SERVICE_UNAVAILABLE: Busy,
}
"""Exception class by status; every other status is a plain `RequestFailed`."""


def failure(status: int, reason: str, text: str, path: str, retry_after: float | None) -> RequestFailed:
    """The exception for an error response."""
    try:
        problem = Problem.model_validate_json(text)
    except ValidationError:
        problem = Problem(
            type="about:blank",
            title=reason or "No problem details",
            status=status,
            detail=text[:SHOWN_CHARACTERS] or "the answer has no text",
            instance=path,
            request_id="",
        )
    return CLASSES.get(status, RequestFailed)(problem, retry_after)
