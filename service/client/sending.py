"""Shared by both clients: converts a call into an HTTP request and decides whether it is sent again.

Independent of waiting: the blocking client sleeps, the asynchronous one awaits.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Generic, TypeVar

import httpx

from service.access.keys import key_to_send
from service.client.calls import Call
from service.client.errors import Unreachable
from service.client.retrying import Patience, RetryPolicy, read_retry_after

T = TypeVar("T")

NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
BROKEN = (httpx.NetworkError, httpx.RemoteProtocolError)
"""The connection ended before the response did. A time-out is not included: the caller's time limit has passed."""

TIMEOUT_SECONDS = 30.0


def connection(base_url: str, api_key: str | None, generation: int | None, timeout_seconds: float) -> dict[str, Any]:
    """Arguments for the constructors of httpx's clients.

    Raises
    ------
    ValueError : the address is not an HTTP URL
    ConfigError : the key is not a valid header value
    """
    try:
        right = base_url.startswith(("http://", "https://")) and bool(httpx.URL(base_url).host)
    except httpx.InvalidURL:
        right = False
    if not right:
        raise ValueError(f"address {base_url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
    headers = {"Accept": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {key_to_send(api_key, 'api_key')}"
    if generation is not None:
        headers["X-Unitok-Generation"] = str(generation)
    return {"base_url": base_url, "headers": headers, "timeout": timeout_seconds}


class Sending(Generic[T]):
    """One call with all its attempts."""

    def __init__(self, call: Call[T], policy: RetryPolicy) -> None:
        self._call = call
        self._patience = Patience(policy)
        # 429 is sent before any work starts; 503 may be sent after a deadline passed during the work.
        self._retried = {HTTPStatus.TOO_MANY_REQUESTS} - call.also_answers
        if call.repeatable:
            self._retried |= {HTTPStatus.SERVICE_UNAVAILABLE} - call.also_answers

    @property
    def request(self) -> dict[str, Any]:
        """Arguments for httpx's `request`."""
        headers = {} if self._call.body is None else {"Content-Type": "application/json"}
        return {
            "method": self._call.method,
            "url": self._call.path,
            "content": self._call.content,
            "headers": headers,
        }

    def pause_after_answer(self, response: httpx.Response) -> float | None:
        """Seconds until the call is sent again; None if the response is final."""
        status = response.status_code
        if status not in self._retried:
            return None
        return self._patience.next_pause(read_retry_after(response.headers.get("Retry-After")))

    def pause_after_break(self, error: httpx.RequestError) -> float:
        """Seconds until the call is sent again after a failed connection.

        Raises
        ------
        Unreachable : it is not sent again, because it might be carried out twice, or the retry policy allows no more
        """
        again = isinstance(error, NEVER_SENT) or (isinstance(error, BROKEN) and self._call.repeatable)
        pause = self._patience.next_pause(None) if again else None
        if pause is None:
            what = f"{self._call.method} {self._call.path}"
            raise Unreachable(f"{what}: no answer: {type(error).__name__} {error}".rstrip()) from error
        return pause

    def read(self, response: httpx.Response) -> T:
        """Parse the final response."""
        return self._call.read(response.status_code, response.reason_phrase, response.headers, response.text)
