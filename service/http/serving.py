"""Runs the application on a socket until a signal stops it.

SIGTERM and SIGINT first drain (see `service/lifecycle.py`). Then the socket closes and the process exits with status 0.
A second signal ends it at once. Knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import uvicorn
from starlette.applications import Starlette

from service.errors import ConfigError
from service.http.protocol_shedding import SheddingProtocol
from service.settings import Settings

SIGNALS = (signal.SIGTERM, signal.SIGINT)

ACCEPTED_A_ROUND = 32
"""Most new connections accepted in one iteration of the event loop. libuv accepts one from each listening descriptor,
however many wait; under load an iteration takes many milliseconds, and thousands of clients would wait unseen."""


class Drains(Protocol):
    """An application that can finish its work before the socket closes."""

    async def drain(self) -> None: ...


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains on a signal and then exits normally.

    uvicorn by itself closes the socket at once, so that no load balancer sees `/readyz` change, and raises the signal
    again at the end, so that a planned stop looks like a crash.

    Parameters
    ----------
    app : made by `create_app`, or several as `Generations`
    settings : address, drain times, and keep-alive time
    started : called with the address once requests are accepted
    """

    def __init__(self, app: Starlette, settings: Settings, started: Callable[[str], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                loop="uvloop",
                # Typed as a class, but only ever called.
                http=partial(SheddingProtocol, turn_away=app.state.turn_away),  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=settings.keep_alive_seconds,
                timeout_graceful_shutdown=max(1, int(settings.drain_seconds)),
            )
        )
        self._service: Drains = app.state.service
        self._announce = started
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Bind the socket, and announce its address.

        Raises
        ------
        ConfigError : the address cannot be bound
        """
        try:
            listeners = sockets or await _listeners(self.config)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.config.host}:{self.config.port} ({error.strerror or error}): end what listens "
                "there, or choose another --host and --port (UNITOK_HOST, UNITOK_PORT)"
            ) from None
        await super().startup(listeners)
        if self.started:
            # The objects that exist now stay alive, and are most of all there will ever be. Freezing them exempts them
            # from garbage collection, which under load would repeatedly stop every request for a tenth of a second.
            gc.collect()
            gc.freeze()
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Drain on a signal while the block runs."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            # A second signal kills the process; the catalogue store survives that.
            signal.signal(number, signal.SIG_DFL)
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._service.drain()
        finally:
            self.should_exit = True


async def _listeners(config: uvicorn.Config) -> list[socket.socket]:
    """Sockets bound to the address, each under `ACCEPTED_A_ROUND` descriptors.

    Raises
    ------
    OSError : the address cannot be bound
    """
    loop = asyncio.get_running_loop()
    bound = await loop.create_server(asyncio.Protocol, config.host, config.port, start_serving=False)
    try:
        return [each.dup() for each in bound.sockets for _ in range(ACCEPTED_A_ROUND)]
    finally:
        bound.close()
