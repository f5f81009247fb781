"""Deletions while searches run that may still find the item: they wait together, and keep nothing else waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from http_server import PATIENCE_SECONDS
from http_server import until as stand_still_until
from live_catalogues import key, new, opened

from service.catalogue.live import LiveCatalogue
from service.errors import Overloaded
from service.metrics import Metrics
from service.operations.writing import Writing
from service.overload.admission import Admission

PLACES = 10
NAMES = [f"i{number}" for number in range(PLACES)]


@contextmanager
def stocked(folder: Path) -> Iterator[tuple[LiveCatalogue, Writing, Admission]]:
    """A catalogue of `NAMES`, and what changes it, with a place for each."""
    store = opened(f"embedded:{folder}", "b")
    live, admission = LiveCatalogue(store), Admission(PLACES)
    live.register([new(name, (row % 4, row // 4)) for row, name in enumerate(NAMES)])
    writing = Writing(live, admission, Metrics())
    yield live, writing, admission
    writing.close()
    store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the writer's thread to get somewhere; fails instead of hanging."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0)


def test_deletions_wait_for_a_search_together_and_keep_no_registration_waiting(tmp_path: Path) -> None:
    """Each waited on the writer's only thread, with every other change behind it."""

    async def main(live: LiveCatalogue, writing: Writing, admission: Admission) -> None:
        with live.searching():
            deleting = [asyncio.create_task(writing.delete(key(name))) for name in NAMES]
            await until(lambda: live.domains() == {})
            assert not any(task.done() for task in deleting)
            assert admission.items == PLACES
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert (await writing.register([new("other")])).created.all()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await asyncio.gather(*deleting) == [True] * PLACES
        assert admission.items == 0

    with stocked(tmp_path) as made:
        asyncio.run(main(*made))


def test_a_deletion_without_a_place_is_refused_and_removes_nothing(tmp_path: Path) -> None:
    async def main(live: LiveCatalogue, writing: Writing, admission: Admission) -> None:
        with admission.enter(PLACES), pytest.raises(Overloaded):
            await writing.delete(key("i0"))
        assert live.domains() == {"films": PLACES}
        assert await writing.delete(key("i0"))
        assert not await writing.delete(key("i0"))

    with stocked(tmp_path) as made:
        asyncio.run(main(*made))


def test_a_search_may_end_after_the_event_loop_of_who_waited_for_it(tmp_path: Path) -> None:
    async def main(live: LiveCatalogue, writing: Writing) -> None:
        deleting = asyncio.create_task(writing.delete(key("i0")))
        await until(lambda: live.lookup([key("i0")]) == [None])
        deleting.cancel()

    with stocked(tmp_path) as (live, writing, admission):
        with live.searching():
            asyncio.run(main(live, writing))
        assert admission.items == 0
        assert live.delete(key("i1")), "nothing is left to wait for"


def test_a_change_is_counted_although_its_caller_left_meanwhile(tmp_path: Path) -> None:
    """What the store has done was not counted if a deadline ended the request in the same moment."""

    async def main(live: LiveCatalogue, writing: Writing) -> None:
        for changing, changed in (
            (writing.register([new("other")]), lambda: live.lookup([key("other")]) != [None]),
            (writing.delete(key("i0")), lambda: live.lookup([key("i0")]) == [None]),
        ):
            task = asyncio.ensure_future(changing)
            await asyncio.sleep(0)
            # The loop stands still, so that the caller leaves before it can learn that the change is made.
            stand_still_until(changed)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with stocked(tmp_path) as (live, writing, admission):
        asyncio.run(main(live, writing))
        writing.close()
        registry = writing._metrics.registry
        for what in ("registered", "deleted"):
            assert registry.get_sample_value("unitok_items_total", {"what": what}) == 1
        assert admission.items == 0
