"""Errors as RFC 9457 problem details, with one table from error class to HTTP status.

Every error in a request, expected or not, becomes a response here. Knows nothing of what failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import Any, cast

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from service.errors import (
    DeadlineExceeded,
    Forbidden,
    GenerationIncomplete,
    InvalidInput,
    ItemNotFound,
    LimitExceeded,
    NotReady,
    Overloaded,
    RateLimited,
    StoreUnavailable,
    SuffixExhausted,
    Unauthenticated,
    UnitokError,
    UnknownDomain,
    UnknownGeneration,
)
from service.http.requests import explained, field_path
from service.logs import get_logger

CONTENT_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:unitok:problem:"
MOST_FIELDS = 20
"""Wrong fields listed in one answer, so that thousands of wrong items do not give thousands of lines."""

FIELD_CHARACTERS = 200
"""Characters shown of a wrong field's path, because callers choose the names of unknown fields."""


class FieldProblem(BaseModel):
    """One wrong field."""

    field: str = Field(examples=["items[3].embedding"])
    message: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = Field(description="What kind of problem, stable.", examples=[TYPE_PREFIX + "invalid-input"])
    title: str = Field(description="The kind in words, stable.")
    status: int
    detail: str = Field(description="What was wrong here, and what would be right.")
    instance: str = Field(description="Path of the request.")
    request_id: str = Field(description="Also in X-Request-ID and in the server's log.")
    errors: list[FieldProblem] = Field(default=[], description="The wrong fields, or refused items, the first 20.")


@dataclass(frozen=True, slots=True)
class Kind:
    """HTTP form of a class of errors; a fixed `detail` replaces the error's message, which then is only logged."""

    status: HTTPStatus
    name: str
    title: str
    detail: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


TABLE: Mapping[type[UnitokError], Kind] = {
    InvalidInput: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-input", "The request cannot be used as it is"),
    UnknownDomain: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "unknown-domain", "The domain holds no item"),
    LimitExceeded: Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "limit-exceeded", "The request exceeds a limit"),
    ItemNotFound: Kind(HTTPStatus.NOT_FOUND, "item-not-found", "The item is not in the catalogue"),
    UnknownGeneration: Kind(HTTPStatus.NOT_FOUND, "unknown-generation", "The generation is not served here"),
    GenerationIncomplete: Kind(
        HTTPStatus.CONFLICT, "generation-incomplete", "The generation's catalogue is not complete"
    ),
    SuffixExhausted: Kind(HTTPStatus.CONFLICT, "suffix-exhausted", "No semantic ID is left for the item"),
    Unauthenticated: Kind(
        HTTPStatus.UNAUTHORIZED,
        "unauthenticated",
        "An API key is needed",
        headers={"WWW-Authenticate": 'Bearer realm="unitok"'},
    ),
    Forbidden: Kind(HTTPStatus.FORBIDDEN, "forbidden", "The API key does not allow this"),
    RateLimited: Kind(HTTPStatus.TOO_MANY_REQUESTS, "rate-limited", "The API key's rate is used up"),
    Overloaded: Kind(HTTPStatus.TOO_MANY_REQUESTS, "overloaded", "The service is at capacity"),
    NotReady: Kind(HTTPStatus.SERVICE_UNAVAILABLE, "not-ready", "The service is starting or stopping"),
    DeadlineExceeded: Kind(
        HTTPStatus.SERVICE_UNAVAILABLE, "deadline-exceeded", "The request took longer than the service allows"
    ),
    StoreUnavailable: Kind(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "store-unavailable",
        "The catalogue store does not answer",
        "The catalogue store does not answer; nothing was acknowledged. Repeating the request is safe.",
    ),
    UnitokError: Kind(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal-error",
        "The service failed",
        "The service failed; its log says why, under the request id.",
    ),
}
"""Looked up by class, then by its bases, nearest first; anything but a `UnitokError` is an internal error."""

MALFORMED = Kind(HTTPStatus.BAD_REQUEST, "malformed-json", "The body is not JSON")
TOO_LARGE = Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", "The body is too large")
TOO_SLOW = Kind(HTTPStatus.REQUEST_TIMEOUT, "body-too-slow", "The body took too long to arrive")
MALFORMED_HEAD = Kind(HTTPStatus.BAD_REQUEST, "malformed-request", "The request is not HTTP")
TARGET_TOO_LONG = Kind(HTTPStatus.REQUEST_URI_TOO_LONG, "target-too-long", "Path and query are too long")
HEAD_TOO_LARGE = Kind(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head-too-large", "The request's head is too large")
HEAD_TOO_SLOW = Kind(HTTPStatus.REQUEST_TIMEOUT, "head-too-slow", "The request's head took too long to arrive")
WRONG_TYPE = Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", "The body must be JSON")

RETRY_SECONDS = 1
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def kind_of(error: BaseException) -> Kind:
    """HTTP form of an error."""
    for ancestor in type(error).__mro__:
        if ancestor in TABLE:
            return TABLE[ancestor]
    return TABLE[UnitokError]


def problem_response(
    scope: Scope,
    kind: Kind,
    detail: str,
    fields: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the answer to a request that failed; its kind is kept in the state for the log."""
    scope["state"]["problem"] = kind.name
    body = problem_body(scope, kind, detail, fields)
    return Response(body, int(kind.status), headers, media_type=CONTENT_TYPE)


def problem_body(scope: Scope, kind: Kind, detail: str, fields: Sequence[FieldProblem] = ()) -> bytes:
    """The problem details of a request that failed, as JSON."""
    problem = {
        "type": TYPE_PREFIX + kind.name,
        "title": kind.title,
        "status": int(kind.status),
        "detail": detail,
        "instance": scope["path"],
        "request_id": scope["state"]["request_id"],
    }
    if fields:
        problem["errors"] = [{"field": field.field, "message": field.message} for field in fields[:MOST_FIELDS]]
    return orjson.dumps(problem)


def error_response(scope: Scope, error: BaseException) -> Response:
    """Make the answer to a request that raised an error."""
    kind = kind_of(error)
    headers = dict(kind.headers)
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(int(error.retry_after))
    elif kind.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_SECONDS)
    fields = []
    if isinstance(error, InvalidInput) and error.field is not None:
        fields = [FieldProblem(field=error.field, message=error.reason)]
    elif isinstance(error, SuffixExhausted):
        refused = islice(error.refused.items(), MOST_FIELDS)
        fields = [FieldProblem(field=name, message=message) for name, message in refused]
    return problem_response(scope, kind, kind.detail or str(error), fields, headers)


async def handle_error(request: Request, error: Exception) -> Response:
    """Handle the errors that the service raises on purpose; details that the answer hides are logged."""
    if kind_of(error).detail is not None:
        get_logger("unitok.http").error("request failed", path=request.url.path, exc_info=error)
    return error_response(request.scope, error)


async def handle_validation(request: Request, error: Exception) -> Response:
    """Handle bodies and paths that violate the schema; the answer never repeats the input."""
    found: Sequence[dict[str, Any]] = cast(RequestValidationError, error).errors()
    if found[0]["type"] == "json_invalid":
        position, reason = found[0]["loc"][-1], found[0]["ctx"]["error"]
        return problem_response(request.scope, MALFORMED, f"not valid JSON: {reason}, at character {position}")
    fields = [
        FieldProblem(field=field_path(problem["loc"][1:])[:FIELD_CHARACTERS] or "body", message=explained(problem))
        for problem in found[:MOST_FIELDS]
    ]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    detail = f"{fields[0].field}: {fields[0].message}{more}"
    return problem_response(request.scope, TABLE[InvalidInput], detail, fields)


async def handle_http(request: Request, error: Exception) -> Response:
    """Handle errors of the framework itself: unknown path, wrong method."""
    refusal = cast(HTTPException, error)
    status = HTTPStatus(refusal.status_code)
    kind = Kind(status, status.phrase.lower().replace(" ", "-"), status.phrase)
    detail = f"{request.method} {request.url.path}: {status.phrase.lower()}; /docs lists what there is"
    headers = dict(refusal.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
        detail = f"{request.method} {request.url.path}: must be {headers['Allow'].replace(', ', ' or ')}"
    return problem_response(request.scope, kind, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """All methods that a path allows; the framework lists only those of its first route."""
    return [
        method
        for method in METHODS
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
