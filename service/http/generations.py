"""Serves several ID generations of one bundle side by side; the current one can be switched in one step, and back.

Each generation is a complete application with its own engine, catalogue and queues. A request goes to the current
generation, or to the one that its header `X-Unitok-Generation` names. A request is finished by the generation that
started it, so a switch fails no request.

The store holds which generation is current (see `service/catalogue/current.py`), so that all replicas follow. Knows
nothing of what the applications do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.catalogue.current import TURN, current_of, turn
from service.errors import ConfigError, NotReady, StoreUnavailable, UnknownGeneration
from service.http.problems import error_response
from service.http.protocol_shedding import Refusal, TurnAway
from service.lifecycle import Service, State
from service.logs import get_logger

PIN = "X-Unitok-Generation"


class Generations(Starlette):
    """The applications of several generations as one application.

    Parameters
    ----------
    apps : made by `create_app`, all of one bundle name; the first is current until another one was made current
    seconds : interval at which the store is asked which generation is current

    Raises
    ------
    ConfigError : the bundles differ in name, or two have the same generation
    """

    def __init__(self, apps: Sequence[FastAPI], seconds: float) -> None:
        services: list[Service] = [app.state.service for app in apps]
        names = [f"{service.manifest.name}:{service.manifest.generation}" for service in services]
        if len({service.manifest.name for service in services}) > 1 or len(set(names)) < len(names):
            raise ConfigError(f"bundles {', '.join(names)}: must be generations of one bundle, each another")
        super().__init__(lifespan=_life)
        self._apps = {service.manifest.generation: app for service, app in zip(services, apps, strict=True)}
        self._services = {service.manifest.generation: service for service in services}
        self._seconds = seconds
        self._log = get_logger("unitok.generations")
        self._current = services[0].manifest.generation
        # The current generation according to the store's last answer, and its turn number there.
        self._told: tuple[int, int] | None = None
        self.state.service = self
        self.state.turn_away = self.turn_away
        for service in services:
            service.metrics.watch("unitok_current_generation", "ID generation that is current.", lambda: self._current)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Route a request to its generation."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        await self._meant(scope)(scope, receive, send)

    def turn_away(self, scope: Scope) -> Refusal | None:
        """Ask the shedder of the request's generation; see `service/http/shedding.py`."""
        turn_away: TurnAway = self._meant(scope).state.turn_away
        return turn_away(scope)

    def _meant(self, scope: Scope) -> FastAPI:
        pin = Headers(scope=scope).get(PIN)
        current = self._apps[self._current]
        # An unknown generation goes to the current one too, which checks the key, counts the request and refuses it.
        return current if pin is None else self._apps.get(_number(pin), current)

    async def drain(self) -> None:
        """Drain every generation; see `Service.drain`."""
        await asyncio.gather(*(service.drain() for service in self._services.values()))

    async def running(self, stack: AsyncExitStack) -> None:
        """Start every application, and follow the store; both end with the stack."""
        # Before any request is answered: an item registered in another generation is missing in the current one.
        wanted = await self._wanted()
        if wanted is not None:
            self._current = wanted
        for app in self._apps.values():
            await stack.enter_async_context(app.router.lifespan_context(app))
        following = asyncio.create_task(self._follow())

        async def end() -> None:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following

        stack.push_async_callback(end)

    async def _follow(self) -> None:
        while True:
            try:
                await self.follow()
            except Exception:
                # If the task ended here, this replica would follow no more switches, and its shutdown would fail.
                self._log.exception("which generation is current could not be found out")
            await asyncio.sleep(self._seconds)

    async def follow(self) -> None:
        """Check once which generation is current; switch to it only when it is ready here."""
        wanted = await self._wanted()
        if wanted is not None and wanted != self._current and self._services[wanted].state is State.READY:
            self._log.info("switched", before=self._current, now=wanted)
            self._current = wanted

    async def _wanted(self) -> int | None:
        """The store's current generation; None if none was ever made current, or if the store does not answer."""
        try:
            turns = {
                generation: await asyncio.to_thread(turn, service.catalogue.store)
                for generation, service in self._services.items()
            }
        except StoreUnavailable:
            # The followers of the catalogues log the failure; the current generation stays.
            return None
        wanted = current_of(turns)
        if wanted is not None:
            self._told = wanted, turns[wanted]
        elif self._told is not None:
            await self._tell_again(*self._told)
        return wanted

    async def _tell_again(self, generation: int, number: int) -> None:
        """Write the current generation to a store that was emptied; else a new replica would start with the first."""
        try:
            await asyncio.to_thread(self._services[generation].catalogue.store.save_checkpoint, TURN, str(number))
        except (StoreUnavailable, NotReady):
            return  # Fails until the catalogue's follower has noticed too; the next check tries again.
        self._log.warning("the store no longer knew which generation is current, and was told again", now=generation)


class OwnGeneration:
    """Middleware that refuses requests that name another generation.

    It is the innermost layer of an application, so that these refusals are like all others: only callers with a key
    get them, and they are logged and counted.
    """

    def __init__(self, app: ASGIApp, generation: int) -> None:
        self._app = app
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pin = Headers(scope=scope).get(PIN) if scope["type"] == "http" else None
        if pin is None or _number(pin) == self._generation:
            await self._app(scope, receive, send)
            return
        error = UnknownGeneration(f"{PIN} is {pin!r}, but must be a generation that /bundle names")
        await error_response(scope, error)(scope, receive, send)


@asynccontextmanager
async def _life(app: Generations) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        await app.running(stack)
        yield


def _number(pin: str) -> int:
    """The generation in a header; 0, which is never a generation, if it is not a number."""
    return int(pin) if pin.isascii() and pin.isdecimal() and len(pin) < 10 else 0
