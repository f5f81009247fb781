"""What a batch of searches costs is bounded, excluded items included."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dummy_engine import DummyEngine

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey
from service.metrics import Metrics
from service.operations.searching import Searching, SearchJob

JOBS, BEAMS = 9, 10


@pytest.mark.parametrize(("excluded", "together"), [(0, JOBS), (10, JOBS), (1_000, 3), (10_000, 1)])
def test_searches_that_exclude_much_are_not_put_together(tmp_path: Path, excluded: int, together: int) -> None:
    engine, sizes, go_on = DummyEngine(), [], threading.Event()
    recommender = engine.recommenders[0]
    search = recommender.search

    def recorded(**arguments: Any) -> Any:
        sizes.append(len(arguments["history"]))
        assert go_on.wait(20)
        return search(**arguments)

    recommender.search = recorded  # type: ignore[method-assign]
    store = EmbeddedStore(tmp_path, "dummy", 3, engine.layout)
    store.finish_seed()
    job = SearchJob(
        recommender=recommender,
        history=engine.layout.unpack(np.zeros(1, dtype=np.uint64)),
        domains=(),
        leading_domain=None,
        excluded=tuple(ItemKey("films", str(number)) for number in range(excluded)),
        excluded_ids=None,
        allowed=None,
        k=3,
        beams=BEAMS,
    )

    async def ask() -> list[list[Any]]:
        searching = Searching(LiveCatalogue(store), batch_beams=200, metrics=Metrics())
        answers = [asyncio.create_task(searching.search([job])) for _ in range(JOBS)]
        await asyncio.sleep(0)
        go_on.set()
        return [answer for each in answers for answer in await each]

    assert asyncio.run(ask()) == [[]] * JOBS
    assert sum(sizes) == JOBS
    assert max(sizes) <= together
    store.close()
