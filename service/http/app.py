"""Builds the HTTP application: routes, error handlers, middleware and lifespan.

All dependencies are passed in, and building an application has no side effects. Knows nothing of how requests are
carried out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.routing import Route

from service.access.keys import ApiKeys
from service.access.rates import open_rates
from service.catalogue.live import LiveCatalogue
from service.engine.engine import Engine
from service.errors import UnitokError
from service.http.authentication import OPEN_PATHS, Authentication
from service.http.browser_headers import SecurityHeaders, allow_origins
from service.http.deadline import Deadline
from service.http.documentation import add_documentation
from service.http.generations import OwnGeneration
from service.http.middleware import QUIET_PATHS, BodyGuard, RequestContext
from service.http.problems import CONTENT_TYPE as PROBLEM_TYPE
from service.http.problems import handle_error, handle_http, handle_validation
from service.http.routes import about, explaining, generations, items, operations
from service.http.shedding import Shedder, SheddingMiddleware
from service.lifecycle import Service
from service.overload.body_memory import BodyMemory
from service.settings import Settings
from service.tracing import Tracing, open_tracing

DESCRIPTION = """
Semantic IDs for items of any domain, and recommendations that are generated as semantic IDs.

The examples work against the sample bundle. Where several ID generations are served, `X-Unitok-Generation: NUMBER` asks
for one of them in place of the current one. Errors are problem details (RFC 9457); every answer carries `X-Request-ID`.
"""


class Application(FastAPI):
    """FastAPI with a corrected OpenAPI document: the content type of problems, and whether a key is required."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, without the content type of results that FastAPI also lists for problems."""
        if self.openapi_schema is not None:
            return self.openapi_schema
        document = super().openapi()
        for path in document["paths"].values():
            for operation in path.values():
                if "security" in operation and not self.state.has_keys:
                    operation["security"].append({})  # An empty requirement: no key is needed.
                for response in operation["responses"].values():
                    content = response.get("content", {})
                    if PROBLEM_TYPE in content:
                        response["content"] = {PROBLEM_TYPE: content[PROBLEM_TYPE]}
        return document


def http_spans(tracing: Tracing) -> TelemetryConfig:
    """Settings for FastAPI's request spans: our provider or none, whatever the environment says; none for probes."""
    return {
        "tracer_provider": tracing.provider,
        "tracing": tracing.provider is not None,
        "operation_spans": False,
        "metrics": False,
        "logs": False,  # they would contain the input of invalid bodies
        "auto_configure": False,
        "exclude": lambda scope: scope["path"] in QUIET_PATHS,
    }


def create_app(settings: Settings, *, engine: Engine, catalogue: LiveCatalogue) -> FastAPI:
    """Build the application.

    Parameters
    ----------
    settings : the operator's settings
    engine : an opened bundle
    catalogue : its live catalogue, loaded; the caller still owns it and closes it

    Raises
    ------
    ConfigError : the API keys cannot be read
    """
    tracing, end_tracing = open_tracing(settings.trace_endpoint, settings.trace_share)
    service = Service(settings, engine, catalogue, tracing)
    inline = "" if settings.api_keys is None else settings.api_keys.get_secret_value()
    keys = ApiKeys.read(inline, settings.api_keys_file)
    rates = open_rates(settings.store.get_secret_value())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        # Not awaited: /livez and /readyz must answer during the warm-up.
        warming = asyncio.create_task(service.warm_up())
        try:
            with service.following():
                yield
        finally:
            warming.cancel()
            with suppress(asyncio.CancelledError):
                await warming
            await service.close()
            await rates.close()
            await asyncio.to_thread(end_tracing)

    app = Application(
        title="UniTok",
        description=DESCRIPTION,
        version=str(service.manifest.generation),
        lifespan=life,
        docs_url=None,  # FastAPI's page loads scripts from another host; ours is in `service/http/documentation.py`.
        redoc_url=None,
        # Otherwise a path without its last part would be redirected to one whose last part is empty.
        redirect_slashes=False,
        telemetry=http_spans(tracing),
    )
    app.state.service = service
    app.state.has_keys = bool(keys)
    for router in (operations.router, items.router, explaining.router, generations.router, about.router):
        # Not `include_router`: FastAPI would match every request twice, in the router and in its copy.
        app.router.routes += router.routes
    add_documentation(app)
    for route in app.router.routes:
        if isinstance(route, Route):
            # `$` also matches before a final line break, and `.` matches none. So an item could be found, or deleted,
            # under a wrong id.
            route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z", re.DOTALL)
    app.add_exception_handler(UnitokError, handle_error)
    app.add_exception_handler(RequestValidationError, handle_validation)
    app.add_exception_handler(HTTPException, handle_http)
    # The middleware added last is the outermost.
    metrics = service.metrics
    app.add_middleware(OwnGeneration, generation=service.manifest.generation)
    app.add_middleware(Deadline, seconds=settings.max_request_seconds, metrics=metrics)
    app.add_middleware(
        BodyGuard,
        open_paths=OPEN_PATHS,
        max_bytes=settings.max_body_bytes,
        memory=BodyMemory(settings.max_concurrent_body_bytes),
        seconds=settings.max_body_seconds,
        metrics=metrics,
    )
    app.add_middleware(
        Authentication,
        keys=keys,
        rates=rates,
        rate=settings.rate_items_per_second,
        burst_seconds=settings.rate_burst_seconds,
        metrics=metrics,
    )
    app.add_middleware(RequestContext, metrics=metrics)
    app.add_middleware(SecurityHeaders)
    early = {
        ("POST", "tokenize"): service.early_tokenize,
        ("PUT", "items"): service.early_tokenize,
        ("POST", "recommend"): service.early_recommend,
    }
    shedder = Shedder(early, metrics)
    app.state.turn_away = shedder.turn_away
    app.add_middleware(SheddingMiddleware, shedder=shedder)
    allow_origins(app, settings.cors_origins)
    return app
