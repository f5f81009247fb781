"""The interactive documentation page at `/docs`: Swagger UI, with all its files served from here.

Script and style are files of an installed package, so the page works without internet access. Knows nothing of what is
documented.
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
"""Files of the package and their media types."""

PATHS = frozenset({PAGE_PATH, START_PATH, *(f"{PAGE_PATH}/{name}" for name in ASSETS)})
"""All paths that the page needs, besides the OpenAPI document."""

# URLs are relative, so that a proxy may serve the page under a path prefix.
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
"""Start-up script, in its own file, so that the page needs no inline script."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content security policy of the page: nothing from other hosts. Images in the style sheet are `data:` URLs."""


def add_documentation(app: FastAPI) -> None:
    """Add routes for the page and the files it loads."""

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
