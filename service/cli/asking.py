"""Shared by `unitok tokenize` and `unitok recommend`: ask a running server, or compute in this process.

Both ways take the same body and print the same JSON. Independent of the contents of the body.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from service.access.keys import key_to_send
from service.errors import InvalidInput, UnitokError
from service.lifecycle import Service
from service.logs import configure_logs
from service.opening import opened
from service.settings import Settings

TIMEOUT_SECONDS = 60.0


def ask_server(url: str, path: str, body: dict[str, Any], key: SecretStr | None = None) -> dict[str, Any]:
    """POST a body to a running server, with an API key if there is one.

    Raises
    ------
    InvalidInput : the URL is not an HTTP URL
    ConfigError : the key is not a valid header value
    UnitokError : the server does not answer, answers with an error, or its answer is not a JSON object
    """
    if not _is_address(url):
        raise InvalidInput(f"server URL {url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key_to_send(key.get_secret_value(), 'UNITOK_API_KEY')}"
    request = urllib.request.Request(  # noqa: S310 - the scheme has been checked
        url.rstrip("/") + path, json.dumps(body).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            text = response.read()
    except urllib.error.HTTPError as error:
        hint = "; a key is read from UNITOK_API_KEY" if error.code == HTTPStatus.UNAUTHORIZED else ""
        raise UnitokError(f"{url} answers {error.code}: {_detail(error)}{hint}") from None
    except HTTPException as error:
        raise UnitokError(f"{url} gives no whole answer of HTTP: {error!r}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnitokError(f"{url} does not answer ({reason}); does `unitok serve` run there?") from None
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise UnitokError(f"{url} answers, but not with JSON ({error}); is it the service?") from None
    if not isinstance(answer, dict):
        raise UnitokError(f"{url} answers with a JSON {type(answer).__name__}, not an object; is it the service?")
    return answer


def _is_address(url: str) -> bool:
    """Whether urllib accepts the URL; checked here because urllib's own errors do not name the faulty part."""
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return named and url.isprintable() and " " not in url and parts.path.isascii()


def _detail(error: urllib.error.HTTPError) -> str:
    """The `detail` of a response's problem details, or its HTTP reason phrase if it has none."""
    try:
        answer = json.load(error)
    except (ValueError, HTTPException, OSError):
        answer = None
    return str(answer["detail"] if isinstance(answer, dict) and "detail" in answer else error.reason)


def ask_here(settings: Settings, ask: Callable[[Service], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Open the bundle and the store in this process and run `ask` on a service over them."""

    configure_logs("warning", "console")

    async def run() -> dict[str, Any]:
        with opened(settings) as parts:
            service = Service(settings, parts.engine, parts.catalogue)
            try:
                return await ask(service)
            finally:
                await service.close()

    return asyncio.run(run())
