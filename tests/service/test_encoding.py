"""Contents to codes: where the tokens of texts are counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest
from dummy_engine import DummyEngine, DummyTextEncoder

from service.catalogue.census import Census
from service.items import ItemContent
from service.metrics import Metrics
from service.operations.encoding import AT_ONCE_CHARACTERS, Encoding
from service.operations.queries import ItemInput
from service.operations.token_space import TokenSpace


class Spied(DummyTextEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.counted_on: list[int] = []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        self.counted_on.append(threading.get_ident())
        return super().count_tokens(texts)


@pytest.mark.parametrize(
    ("titles", "at_once"),
    [(["a film"] * 3, True), (["x" * 600] * 2, False), (["x" * 600, "y" * (AT_ONCE_CHARACTERS - 600)], True)],
)
def test_much_text_is_not_counted_on_the_event_loop(titles: list[str], at_once: bool) -> None:
    engine, encoder, metrics = DummyEngine(), Spied(), Metrics()
    space = TokenSpace(metrics.registry, ["films", "games"], lambda: Census(engine.layout), {})
    encoding = Encoding(encoder, engine.item_tokenizer, 64, metrics=metrics, token_space=space)
    items = [ItemInput("films", None, ItemContent(title=title)) for title in titles]
    found = asyncio.run(encoding.encode(items, [f"items[{row}]" for row in range(len(items))]))
    assert encoding.batcher.close(10)
    assert len(found) == len(titles)
    assert [ident == threading.get_ident() for ident in encoder.counted_on] == [at_once]
