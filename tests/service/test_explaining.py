"""Explanations that wait for a store take no thread that others need."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from dummy_engine import DummyEngine, DummyTextEncoder

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey, NewItem
from service.errors import ItemNotFound
from service.metrics import Metrics
from service.operations.encoding import Encoding
from service.operations.explaining import READERS, Explaining
from service.operations.token_space import TokenSpace
from service.overload.admission import Admission

WAITING = 60


def test_a_store_that_hangs_holds_up_explanations_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, metrics = DummyEngine(), Metrics()
    store = EmbeddedStore(tmp_path, "dummy", 3, engine.layout)
    store.finish_seed()
    live = LiveCatalogue(store)
    live.register([NewItem("films", "a", (1, 2, 3), (0,))])
    space = TokenSpace(metrics.registry, ("films",), live.census, {})
    encoding = Encoding(DummyTextEncoder(), engine.item_tokenizer, 64, metrics=metrics, token_space=space)
    admission = Admission(1000, 10.0, 1.0)
    explaining = Explaining(encoding=encoding, catalogue=live, expert_names=("films",), admission=admission)
    answers, asked, get = threading.Event(), threading.Semaphore(0), live.get

    def hanging(keys: Any) -> Any:
        asked.release()
        assert answers.wait(20)
        return get(keys)

    monkeypatch.setattr(live, "get", hanging)

    async def main() -> None:
        waiting = [asyncio.create_task(explaining.explain(ItemKey("films", "b"), 1)) for _ in range(WAITING)]
        for _ in range(READERS):
            await asyncio.wait_for(asyncio.to_thread(asked.acquire), 10)
        answers.set()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, ItemNotFound) for each in found)

    asyncio.run(main())
    explaining.close()
