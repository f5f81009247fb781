"""Defines every call of the service: method, path, body, and how its response is parsed.

Bodies are the server's own models, so nothing is defined twice. Independent of sockets and retries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, Literal, TypeVar, cast
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError

from service.client.errors import Unreachable, failure
from service.client.retrying import read_retry_after
from service.http.answers import (
    BundleResponse,
    DomainsResponse,
    ExplainResponse,
    ItemAnswer,
    Liveness,
    Readiness,
    RecommendResponse,
    SwitchResponse,
    TokenizeResponse,
)
from service.http.requests import Body, Content, RecommendRequest, SwitchRequest, TokenizeRequest

Method = Literal["GET", "PUT", "POST", "DELETE"]
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
NOT_YET = frozenset({HTTPStatus.SERVICE_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request.

    Attributes
    ----------
    template : path template as in the OpenAPI document
    answer : class of the response: a model, `str` for text, `NoneType` for an ignored body
    parameters : values for the template
    query : query parameters
    body : sent as JSON, without unset fields
    also_answers : error statuses whose body is an `answer` too
    repeatable : whether the call may be sent again after a broken connection, because two calls have the effect of one
    """

    method: Method
    template: str
    answer: type[T]
    parameters: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    body: Body | None = None
    also_answers: frozenset[HTTPStatus] = frozenset()
    repeatable: bool = True

    @property
    def path(self) -> str:
        """Path and query string; a slash in an item's name is percent-encoded as part of the name."""
        path = self.template.format(**{name: _quoted(value) for name, value in self.parameters})
        return f"{path}?{urlencode(self.query)}" if self.query else path

    @property
    def content(self) -> bytes | None:
        """The serialised body; None if there is none."""
        if self.body is None:
            return None
        return self.body.model_dump_json(by_alias=True, exclude_unset=True).encode()

    def read(self, status: int, reason: str, headers: Mapping[str, str], text: str) -> T:
        """Parse a response.

        Raises
        ------
        RequestFailed : the response is an error
        Unreachable : the body is not one that this service sends
        """
        if not 200 <= status < 300 and status not in self.also_answers:
            raise failure(status, reason, text, self.path, read_retry_after(headers.get("Retry-After")))
        if issubclass(self.answer, BaseModel):
            return cast(T, _read_model(self.answer, text, f"{self.method} {self.path}"))
        return cast(T, text if self.answer is str else None)


def _quoted(name: str) -> str:
    """A name as one path segment; `.` and `..` would otherwise be removed as dot segments (RFC 3986, 5.2.4)."""
    return name.replace(".", "%2E") if name in {".", ".."} else quote(name, safe="")


def _read_model(model: type[M], text: str, what: str) -> M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "answer"
        raise Unreachable(f"{what}: the answer is not a {model.__name__}: {where}: {problem['msg']}") from None


ITEM = "/items/{domain}/{item_id}"


def tokenize(request: TokenizeRequest) -> Call[TokenizeResponse]:
    """POST /tokenize."""
    return Call("POST", "/tokenize", TokenizeResponse, body=request)


def recommend(request: RecommendRequest) -> Call[RecommendResponse]:
    """POST /recommend."""
    return Call("POST", "/recommend", RecommendResponse, body=request)


def get_item(domain: str, item_id: str) -> Call[ItemAnswer]:
    """GET an item."""
    return Call("GET", ITEM, ItemAnswer, _item(domain, item_id))


def put_item(domain: str, item_id: str, content: Content) -> Call[ItemAnswer]:
    """PUT an item."""
    return Call("PUT", ITEM, ItemAnswer, _item(domain, item_id), body=content)


def delete_item(domain: str, item_id: str) -> Call[None]:
    """DELETE an item; not repeatable, since a second call would report that the item does not exist."""
    return Call("DELETE", ITEM, type(None), _item(domain, item_id), repeatable=False)


def explain(domain: str, item_id: str, count: int = 10) -> Call[ExplainResponse]:
    """GET the explanation of an item's semantic ID."""
    query = (("count", str(count)),)
    return Call("GET", "/explain/{domain}/{item_id}", ExplainResponse, _item(domain, item_id), query)


def domains() -> Call[DomainsResponse]:
    """GET /domains."""
    return Call("GET", "/domains", DomainsResponse)


def bundle() -> Call[BundleResponse]:
    """GET /bundle."""
    return Call("GET", "/bundle", BundleResponse)


def switch_generation(generation: int) -> Call[SwitchResponse]:
    """PUT the current ID generation."""
    body = SwitchRequest(generation=generation)
    return Call("PUT", "/generations/current", SwitchResponse, body=body)


def livez() -> Call[Liveness]:
    """GET /livez."""
    return Call("GET", "/livez", Liveness, also_answers=NOT_YET)


def readyz() -> Call[Readiness]:
    """GET /readyz."""
    return Call("GET", "/readyz", Readiness, also_answers=NOT_YET)


def metrics() -> Call[str]:
    """GET /metrics."""
    return Call("GET", "/metrics", str)


def _item(domain: str, item_id: str) -> tuple[tuple[str, str], ...]:
    return (("domain", domain), ("item_id", item_id))
