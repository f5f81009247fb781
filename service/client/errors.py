"""What a client raises: the service's problem details as exceptions, and the lack of any answer.

Knows nothing of how requests are sent.
"""

from __future__ import annotations

from http import HTTPStatus

from pydantic import ValidationError

from service.errors import UnitokError
from service.problems import Problem

SHOWN_CHARACTERS = 200
"""How much of an answer that is no problem detail, of a proxy say, is repeated."""


class Unreachable(UnitokError):
    """No answer came, or none that could be read; whether a request that was sent has been carried out is unknown."""


class RequestFailed(UnitokError):
    """The answer was an error.

    Parameters
    ----------
    problem : what the service said; for an answer that is not the service's, its status and the head of its text
    retry_after : seconds that the answer asked to wait, None if it did not
    """

    def __init__(self, problem: Problem, retry_after: float | None = None) -> None:
        super().__init__(
            f"{problem.status} {problem.title}: {problem.detail} (request {problem.request_id or 'unknown'})"
        )
        self.problem = problem
        self.retry_after = retry_after


class NotFound(RequestFailed):
    """404: the item is not in the catalogue, or there is no such path."""


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
"""Every other status is a plain `RequestFailed`."""


def failure(status: int, reason: str, text: str, path: str, retry_after: float | None) -> RequestFailed:
    """The exception for an answer that is an error."""
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
