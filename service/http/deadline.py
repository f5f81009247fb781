"""Request deadline: the longest time that a request may take once its body has been read.

Knows nothing of what the request does: it is cancelled, and its entries still in a queue are withdrawn.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineExceeded
from service.http.problems import error_response
from service.metrics import Metrics


class Deadline:
    """Middleware that cancels a request that takes too long and answers with a problem, unless its answer has begun."""

    def __init__(self, app: ASGIApp, seconds: float, metrics: Metrics) -> None:
        self._app = app
        self._seconds = seconds
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._seconds) as timer:
                await self._app(scope, receive, send_and_note)
        except TimeoutError:
            if begun or not timer.expired():
                raise
            self._metrics.rejected("deadline")
            error = DeadlineExceeded(
                f"the request was not done within {self._seconds:g} s and was given up; a registration that had begun "
                "may have been stored, and repeating it is safe"
            )
            await error_response(scope, error)(scope, receive, send)
