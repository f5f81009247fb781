"""The page that shows the OpenAPI document and tries it out: Swagger UI, with all that it needs from this service.

Its script and its style are files of an installed package, so the page works where no other host can be reached. Knows
nothing of what is documented.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

PACKAGE = "fastapi_swagger.resources"

PAGE_PATH = "/docs"
START_PATH = f"{PAGE_PATH}/start.js"

ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon-32x32.png": "image/png"}
"""Files of the package, and what they are."""

PATHS = frozenset({PAGE_PATH, START_PATH, *(f"{PAGE_PATH}/{name}" for name in ASSETS)})
"""All that is asked for to see the page, besides the OpenAPI document."""

# Addresses are relative, so that a proxy may serve all of it below a path of its own.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>UniTok</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true});\n'
"""In a file of its own, so that the page needs no script within it."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing of another host. Pictures in the style are `data:`."""


def add_documentation(app: FastAPI) -> None:
    """Serve the page and what it loads."""

    async def page(request: Request) -> Response:
        return Response(PAGE, media_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def start(request: Request) -> Response:
        return Response(START, media_type="text/javascript")

    app.router.routes += [Route(PAGE_PATH, page), Route(START_PATH, start)]
    app.router.routes += [Route(f"{PAGE_PATH}/{name}", _asset(name)) for name in ASSETS]


def _asset(name: str) -> Callable[[Request], Awaitable[Response]]:
    path = str(files(PACKAGE) / name)

    async def asset(request: Request) -> Response:
        return FileResponse(path, media_type=ASSETS[name])

    return asset
