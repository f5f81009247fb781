"""What `unitok tokenize` and `unitok recommend` share: ask a running server, or do the work in this process.

Both ways send the same body and print the same JSON. Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import SecretStr

from service.access import key_to_send
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
    InvalidInput : the URL is not one of HTTP
    ConfigError : the key can be in no header
    UnitokError : the server does not answer, or says what is wrong
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidInput(f"server URL {url!r} must start with http:// or https://")
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key_to_send(key.get_secret_value(), 'UNITOK_API_KEY')}"
    request = urllib.request.Request(  # noqa: S310 - the scheme has been checked
        url.rstrip("/") + path, json.dumps(body).encode(), headers, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        try:
            detail = json.load(error)["detail"]
        except (ValueError, KeyError):
            detail = error.reason
        raise UnitokError(f"{url} answers {error.code}: {detail}") from None
    except OSError as error:
        raise UnitokError(f"{url} does not answer: {error}") from None


def ask_here(settings: Settings, ask: Callable[[Service], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    """Open the bundle and the store in this process and put the question to them."""

    configure_logs("warning", "console")

    async def run() -> dict[str, Any]:
        with opened(settings) as parts:
            service = Service(settings, parts.engine, parts.catalogue)
            try:
                return await ask(service)
            finally:
                await service.close()

    return asyncio.run(run())
