"""The guard of bodies alone: who may end a request that is under way."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from service.http.middleware import BodyGuard
from service.metrics import Metrics
from service.overload.body_memory import BodyMemory

SCOPE: Scope = {
    "type": "http",
    "path": "/",
    "headers": [(b"content-length", b"2"), (b"content-type", b"application/json")],
}


class Asked:
    """A request of a client that sends `{}` and leaves when it is told to, and an app that works until it is ended."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()
        self.working = asyncio.Event()
        self.ended = False
        self._unread = True
        guard = BodyGuard(
            self._work, open_paths=(), max_bytes=100, memory=BodyMemory(100), seconds=10, metrics=Metrics()
        )
        self.task = asyncio.create_task(guard(SCOPE, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._unread:
            self._unread = False
            return {"type": "http.request", "body": b"{}"}
        await self.leave.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        raise AssertionError("nobody waits for an answer")

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["body"] == b"{}"
        self.working.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


def test_work_ends_when_the_client_leaves_and_the_task_goes_on() -> None:
    async def main() -> None:
        asked = Asked()
        await asked.working.wait()
        asked.leave.set()
        await asyncio.wait_for(asked.task, 10)
        assert asked.ended
        assert asked.task.cancelling() == 0

    asyncio.run(main())


@pytest.mark.parametrize("leaves_too", [False, True])
def test_whoever_ends_the_task_is_obeyed(leaves_too: bool) -> None:
    async def main() -> None:
        asked = Asked()
        await asked.working.wait()
        if leaves_too:
            asked.leave.set()
        asked.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asked.task, 10)
        assert asked.ended

    asyncio.run(main())
