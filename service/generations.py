"""Several ID generations of one bundle served beside each other, one of them current; switched in one step, and back.

Each generation is a whole application of its own, with its engine, its catalogue and its queues. A request goes to the
current one, or to the one that it names in the header `X-Unitok-Generation`. A request that has begun is finished by
the generation it began with, so a switch fails nobody.

Which one is current is kept in the store (see `service/catalogue/current.py`), so that all replicas follow. Knows
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
from service.lifecycle import Service, State
from service.logs import get_logger
from service.problems import error_response
from service.shedding import Refusal, TurnAway

PIN = "X-Unitok-Generation"


class Generations(Starlette):
    """Applications of several generations as one.

    Parameters
    ----------
    apps : made by `create_app`, all of one bundle name; the first is current where none was ever made so
    seconds : how often the store is asked which is current

    Raises
    ------
    ConfigError : the bundles differ in name, or two have one generation
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
        # The generation that the store last said is current, and its number there.
        self._told: tuple[int, int] | None = None
        self.state.service = self
        self.state.turn_away = self.turn_away
        for service in services:
            service.metrics.watch("unitok_current_generation", "ID generation that is current.", lambda: self._current)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lead a request to its generation."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        await self._meant(scope)(scope, receive, send)

    def turn_away(self, scope: Scope) -> Refusal | None:
        """Ask the doorkeeper of a request's generation; see `service/door.py`."""
        turn_away: TurnAway = self._meant(scope).state.turn_away
        return turn_away(scope)

    def _meant(self, scope: Scope) -> FastAPI:
        pin = Headers(scope=scope).get(PIN)
        current = self._apps[self._current]
        # A pin that none serves goes to the current one too, which asks for the key, counts and refuses it.
        return current if pin is None else self._apps.get(_number(pin), current)

    async def drain(self) -> None:
        """Drain every generation; see `Service.drain`."""
        await asyncio.gather(*(service.drain() for service in self._services.values()))

    async def running(self, stack: AsyncExitStack) -> None:
        """Start every application, and follow the store; all of it ends with the stack."""
        # Before anything is answered, ready or not: what is registered in another one is lost to the current one.
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
            await self.follow()
            await asyncio.sleep(self._seconds)

    async def follow(self) -> None:
        """Look once which generation is current; one that is not ready here yet is waited for."""
        wanted = await self._wanted()
        if wanted is not None and wanted != self._current and self._services[wanted].state is State.READY:
            self._log.info("switched", before=self._current, now=wanted)
            self._current = wanted

    async def _wanted(self) -> int | None:
        """Which generation the store says is current; None where none ever was, or the store does not answer."""
        try:
            turns = {
                generation: await asyncio.to_thread(turn, service.catalogue.store)
                for generation, service in self._services.items()
            }
        except StoreUnavailable:
            # The catalogues' own followers say so; what was current stays so.
            return None
        wanted = current_of(turns)
        if wanted is not None:
            self._told = wanted, turns[wanted]
        elif self._told is not None:
            await self._tell_again(*self._told)
        return wanted

    async def _tell_again(self, generation: int, number: int) -> None:
        """Tell a store that was emptied which generation is current, or a replica that starts would take the first."""
        try:
            await asyncio.to_thread(self._services[generation].catalogue.store.save_checkpoint, TURN, str(number))
        except (StoreUnavailable, NotReady):
            return  # Not before the catalogue's own follower has found out, too; the next look tries again.
        self._log.warning("the store no longer knew which generation is current, and was told again", now=generation)


class OwnGeneration:
    """Lets through what is meant for one generation, and refuses requests that name another.

    The innermost layer of an application, so that a refusal is one like every other: for callers with a key, logged and
    counted.
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
    """What a header names; 0, which no generation is, where it is no number."""
    return int(pin) if pin.isascii() and pin.isdecimal() and len(pin) < 10 else 0
