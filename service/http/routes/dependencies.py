"""What routes have in common: the service behind them, strict JSON, the problems they document.

Knows nothing of any one endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

import orjson
from fastapi import Depends, Path, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer, SecurityScopes

from service import limits
from service.access.keys import KeyScope
from service.http.answers import Generation
from service.http.authentication import Caller
from service.http.problems import CONTENT_TYPE, Problem
from service.lifecycle import Service


class StrictJsonRequest(Request):
    """A request whose body is parsed as the JSON standard has it: UTF-8, no NaN, no bottomless nesting."""

    async def json(self) -> Any:
        """Parse the body."""
        return orjson.loads(await self.body())


class StrictJsonRoute(APIRoute):
    """A route that reads its body with `StrictJsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        """Wrap FastAPI's handler."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(StrictJsonRequest(request.scope, request.receive))

        return handle


# Dependencies are coroutines although none of them waits: FastAPI sends a plain function to another thread and back.


async def get_service(request: Request) -> Service:
    """The service that the app was made for."""
    service: Service = request.app.state.service
    return service


async def get_open_service(request: Request) -> Service:
    """The service, for routes that start work: refused once it is stopping."""
    service = await get_service(request)
    service.require_open()
    return service


class CallerKey(HTTPBearer):
    """Who asks, allowed to do what the route needs; as a security scheme, so that OpenAPI says which key that takes."""

    async def __call__(self, request: Request, needed: SecurityScopes) -> Caller:  # type: ignore[override]
        """The caller as authenticated before any route was chosen."""
        caller: Caller = request.state.caller
        for scope in needed.scopes:
            caller.require(KeyScope(scope))
        return caller


get_caller = CallerKey(
    scheme_name="API key",
    description="As made by `unitok keys new`; needed where the service has keys, else ignored.",
)

AnyCaller = Annotated[Caller, Security(get_caller)]
"""For a route that looks at the body before it knows which scope is needed."""
Reader = Annotated[Caller, Security(get_caller, scopes=[KeyScope.READ])]
Administrator = Annotated[Caller, Security(get_caller, scopes=[KeyScope.ADMIN])]
Registrar = Annotated[Caller, Security(get_caller, scopes=[KeyScope.REGISTER])]

AnyService = Annotated[Service, Depends(get_service)]
OpenService = Annotated[Service, Depends(get_open_service)]
DomainPath = Annotated[
    str, Path(pattern=limits.DOMAIN_PATTERN, description="Catalogue the item belongs to.", examples=["movies"])
]
ItemIdPath = Annotated[
    str,
    Path(
        pattern=limits.ITEM_ID_PATTERN,
        description="Name of the item; may hold slashes, percent-encoded.",
        examples=["toy-story-1995"],
    ),
]


def generation_of(service: Service) -> dict[str, Any]:
    """The fields of `Generation`."""
    return Generation(bundle=service.manifest.name, generation=service.manifest.generation).model_dump()


KEY_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""What may be answered before any endpoint is asked: to a key, its rate, a generation that is not served, or when the
time of a request is over, which a slow Redis may take to say what is left of a rate."""


def problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Documentation of the ways in which a route can fail."""
    return {
        int(status): {
            "description": status.phrase,
            "model": Problem,
            "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in dict.fromkeys(statuses)
    }


BODY_PROBLEMS = (
    *KEY_PROBLEMS,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
