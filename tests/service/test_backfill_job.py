"""Backfills with an engine that hashes: counts, resuming, repeating, bad rows, a store that fails in between."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from dummy_engine import WIDTH, DummyItemTokenizer, DummyTextEncoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from redis_server import RedisServer

from service.backfill import encoding
from service.backfill.batches import encode_here
from service.backfill.filling import run_backfill
from service.backfill.job import BackfillJob
from service.backfill.reading import FileFormat, format_of
from service.backfill.report import EXAMPLES, Tally
from service.backfill.rows import read_mapping
from service.catalogue.opening import open_store
from service.catalogue.records import ItemKey, NewItem, Registered, StoredItem
from service.catalogue.store import CatalogueStore
from service.engine.engine import TokenizesItems
from service.errors import InvalidInput, StoreUnavailable, SuffixExhausted
from service.items import ItemContent, compose_text
from service.semantic_ids import TokenLayout

names = (f"backfill-{number}" for number in itertools.count())


class Parts:
    """Networks that hash, of a layout that the test chooses."""

    def __init__(self, codes: int = 8, suffixes: int = 64) -> None:
        self.layout = TokenLayout(levels=3, codes=codes, experts=2, experts_per_item=1, suffixes=suffixes)
        self.text_encoder = DummyTextEncoder()
        self.item_tokenizer: TokenizesItems = DummyItemTokenizer(self.layout)


@pytest.fixture
def engine() -> Parts:
    return Parts(codes=256)


@pytest.fixture(params=["embedded", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "embedded":
        return f"embedded:{tmp_path / 'store'}"
    server: RedisServer = request.getfixturevalue("redis_server")
    return server.url


def opened(url: str, engine: Parts, name: str | None = None) -> CatalogueStore:
    store = open_store(url, name or next(names), 1, engine.layout)
    store.finish_seed()
    return store


def job(path: Path, batch: int = 7, skip_bad: bool = False, mapping: Sequence[str] = ()) -> BackfillJob:
    renamed = frozenset(pair.partition("=")[0] for pair in mapping)
    return BackfillJob(path, format_of(path), read_mapping(mapping), renamed, "films", batch, skip_bad)


def run(job: BackfillJob, store: CatalogueStore, engine: Parts) -> Tally:
    return run_backfill(job, store, encode_here(job, engine.text_encoder, engine.item_tokenizer))


def items_file(folder: Path, rows: int, suffix: str = ".parquet") -> Path:
    frame = pl.DataFrame(
        {"item_id": [f"i{n}" for n in range(rows)], "title": [f"film {n}" for n in range(rows)], "brand": ["b"] * rows}
    )
    path = folder / f"items{suffix}"
    {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[suffix](path)
    return path


def content(store: CatalogueStore) -> dict[str, StoredItem]:
    return {item.item_id: item for batch in store.scan() for item in batch}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_item_is_registered_with_the_id_that_its_text_gives(
    tmp_path: Path, url: str, engine: Parts, suffix: str
) -> None:
    store = opened(url, engine)
    tally = run(job(items_file(tmp_path, 50, suffix)), store, engine)
    assert (tally.records, tally.created, tally.present, tally.rejected, tally.finished) == (50, 50, 0, {}, True)
    stored = content(store)
    assert set(stored) == {f"i{n}" for n in range(50)}
    for n in range(50):
        vector = engine.text_encoder.encode([compose_text(ItemContent(title=f"film {n}", brand="b"))])
        codes = engine.item_tokenizer.tokenize(vector).codes[0].tolist()
        values = engine.layout.unpack(np.array([stored[f"i{n}"].packed], dtype=np.uint64))[0].tolist()
        assert values[: len(codes)] == codes
    (one,) = store.get([ItemKey("films", "i3")])
    assert one is not None
    assert (one.title, json.loads(one.content or "")) == ("film 3", {"brand": "b"})
    assert max(map(len, engine.text_encoder.batches[:-50])) == 7


def test_embeddings_and_text_may_alternate(tmp_path: Path, url: str, engine: Parts) -> None:
    path = tmp_path / "items.jsonl"
    rows: list[dict[str, Any]] = [
        {"asin": "a", "vector": [0.1, 0.2, 0.3, 0.4], "title": "has both"},
        {"asin": "b", "title": "has text"},
        {"asin": "c", "vector": [0.9, 0.8, 0.7, 0.6]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    store = opened(url, engine)
    run(job(path, mapping=["item_id=asin", "embedding=vector"]), store, engine)
    assert engine.text_encoder.batches == [["has text"]]
    stored = content(store)
    for item_id, vector in (("a", rows[0]["vector"]), ("c", rows[2]["vector"])):
        expected = engine.item_tokenizer.tokenize(np.array([vector], dtype=np.float32))
        values = engine.layout.unpack(np.array([stored[item_id].packed], dtype=np.uint64))[0].tolist()
        assert values == [*expected.codes[0], *expected.experts[0], 0]


@pytest.mark.parametrize("remembered", [100, 3])
def test_equal_texts_are_encoded_once_while_they_are_remembered(
    tmp_path: Path, url: str, engine: Parts, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr(encoding, "REMEMBERED_TEXTS", remembered)
    path = tmp_path / "items.jsonl"
    vector = [0.1, 0.2, 0.3, 0.4]
    rows = [{"item_id": f"i{n}", "title": f"film {n % 5}"} for n in range(40)]
    rows += [{"item_id": f"v{n}", "title": "film 0", "embedding": vector} for n in range(3)]  # type: ignore[dict-item]
    path.write_text("\n".join(map(json.dumps, rows)))
    store = opened(url, engine)
    tally = run(job(path, batch=4), store, engine)
    assert tally.created == 43
    encoded = [text for batch in engine.text_encoder.batches for text in batch]
    assert set(encoded) == {f"film {n}" for n in range(5)}
    if remembered == 100:
        assert len(encoded) == 5
    else:
        assert 5 < len(encoded) <= 40
    bases = {item_id: item.packed // engine.layout.suffixes for item_id, item in content(store).items()}
    assert all(bases[f"i{n}"] == bases[f"i{n % 5}"] for n in range(40))
    assert len({bases[f"i{n}"] for n in range(5)} | {bases["v0"]}) == 6
    assert bases["v0"] == bases["v1"] == bases["v2"]


def test_reading_goes_on_while_a_batch_is_stored(tmp_path: Path, url: str, engine: Parts) -> None:
    """The next batch is encoded before the one before it is acknowledged, and no more than that one."""
    store, path = opened(url, engine), items_file(tmp_path, 70)
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Failing):
        def register(self, items: Sequence[NewItem]) -> Registered:
            entered.set()
            assert go_on.wait(20)
            return super().register(items)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run, job(path), Slow(store, calls=1000, after=False), engine)  # type: ignore[arg-type]
        assert entered.wait(20)
        deadline = time.monotonic() + 20
        while len(engine.text_encoder.batches) < 2:
            assert time.monotonic() < deadline
        assert content(store) == {}
        assert len(engine.text_encoder.batches) == 2
        go_on.set()
        assert running.result().created == 70


def test_a_finished_backfill_may_be_repeated(tmp_path: Path, url: str, engine: Parts) -> None:
    store, path = opened(url, engine), items_file(tmp_path, 30)
    run(job(path), store, engine)
    before, head = content(store), store.head()
    again = run(job(path), store, engine)
    assert (again.records, again.created, again.present) == (30, 0, 30)
    assert (content(store), store.head()) == (before, head)
    store.delete(ItemKey("films", "i4"))
    after = run(job(path), store, engine)
    assert (after.created, after.present) == (1, 29)
    assert content(store) == before, "a deleted item comes back with its own ID"


def test_items_that_are_there_keep_their_ids(tmp_path: Path, url: str, engine: Parts) -> None:
    store = opened(url, engine)
    store.register([NewItem("films", "i1", (7, 7, 7), (1,), "old")])
    tally = run(job(items_file(tmp_path, 3)), store, engine)
    assert (tally.created, tally.present) == (2, 1)
    found = content(store)["i1"]
    assert engine.layout.unpack(np.array([found.packed], dtype=np.uint64))[0].tolist() == [7, 7, 7, 1, 0]
    assert found.title == "film 1"


class Failing:
    """A store that stops answering at some call, before or after it did what it was asked."""

    def __init__(self, store: CatalogueStore, calls: int, after: bool) -> None:
        self._store = store
        self._calls = calls
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def _failing(self, call: Any, *arguments: Any) -> Any:
        self._calls -= 1
        if self._calls < 0 and not self._after:
            raise StoreUnavailable("gone before")
        answer = call(*arguments)
        if self._calls < 0:
            raise StoreUnavailable("gone after")
        return answer

    def register(self, items: Sequence[NewItem]) -> Registered:
        return self._failing(self._store.register, items)  # type: ignore[no-any-return]

    def save_checkpoint(self, name: str, value: str) -> None:
        self._failing(self._store.save_checkpoint, name, value)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, StoredItem]]:
    """A file, and what a store holds after it was brought in without a break."""
    folder, engine = tmp_path_factory.mktemp("straight"), Parts(codes=2)
    path = items_file(folder, 60)
    store = opened(f"embedded:{folder}", engine)
    run(job(path), store, engine)
    return path, content(store)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=4))
def test_a_run_that_breaks_anywhere_resumes_to_the_same_end(
    tmp_path: Path, straight: tuple[Path, dict[str, StoredItem]], breaks: list[tuple[int, bool]]
) -> None:
    engine, (path, expected) = Parts(codes=2), straight
    store = opened(f"embedded:{tmp_path}", engine)
    tally: Tally | None = None
    for calls, after in breaks:
        try:
            tally = run(job(path), Failing(store, calls, after), engine)
        except StoreUnavailable:
            continue
        break
    if tally is None:
        tally = run(job(path), store, engine)
    assert content(store) == expected
    assert (tally.records, tally.created + tally.present) == (60, 60)
    store.close()


def test_what_is_done_is_not_encoded_again(tmp_path: Path, url: str, engine: Parts) -> None:
    store, path = opened(url, engine), items_file(tmp_path, 50)
    with pytest.raises(StoreUnavailable):
        run(job(path), Failing(store, calls=2 * 4, after=False), engine)
    engine.text_encoder.batches.clear()
    run(job(path), store, engine)
    assert engine.text_encoder.batches[0][0] == "film 28. b"
    assert sum(map(len, engine.text_encoder.batches)) == 50 - 28


def test_progress_belongs_to_the_content_and_how_it_is_read(tmp_path: Path) -> None:
    path = items_file(tmp_path, 5)
    same = tmp_path / "other.parquet"
    same.write_bytes(path.read_bytes())
    (tmp_path / "more").mkdir()
    other = items_file(tmp_path / "more", 6)
    found = [
        job(path).checkpoint_name(),
        job(same, batch=99, skip_bad=True).checkpoint_name(),
        job(other).checkpoint_name(),
        job(path, mapping=["title=brand"]).checkpoint_name(),
        BackfillJob(path, FileFormat.PARQUET, read_mapping([]), frozenset(), "books", 7, False).checkpoint_name(),
    ]
    assert found[0] == found[1]
    assert len(set(found)) == 4


BAD_LINES = [
    '{"item_id": "a", "title": "fine"}',
    '{"item_id": "b"}',
    "broken",
    '{"title": "no name"}',
    '{"item_id": "c", "embedding": [1]}',
    '{"item_id": "d", "title": "fine"}',
]


def test_a_bad_row_stops_with_its_place_and_nothing_of_its_batch(tmp_path: Path, url: str, engine: Parts) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(BAD_LINES))
    store = opened(url, engine)
    with pytest.raises(InvalidInput, match=r"bad\.jsonl: row 2, has neither.*--skip-bad"):
        run(job(path), store, engine)
    assert content(store) == {}
    with pytest.raises(InvalidInput, match="row 2"):
        run(job(path, batch=1), store, engine)
    assert set(content(store)) == {"a"}


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_skipped_rows_are_counted_with_examples(tmp_path: Path, url: str, engine: Parts, batch: int) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(BAD_LINES))
    store = opened(url, engine)
    tally = run(job(path, batch=batch, skip_bad=True), store, engine)
    assert (tally.records, tally.created) == (6, 2)
    assert tally.rejected == {"no_text": 1, "malformed_row": 1, "bad_item_id": 1, "bad_embedding": 1}
    assert tally.examples["bad_embedding"] == [
        {
            "file": str(path),
            "row": 5,
            "field": "embedding",
            "reason": f"has shape [1], but the bundle's embeddings have [{WIDTH}]",
        }
    ]
    report = tally.report(stage="backfill")
    assert report["rejected"]["no_text"]["count"] == 1
    assert (report["read"], report["created"], report["already_there"]) == (6, 2, 0)
    assert json.loads(json.dumps(report)) == report


def test_a_report_shows_a_few_examples_of_each_kind(tmp_path: Path, url: str, engine: Parts) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"item_id": "x"}\n' * 40)
    tally = run(job(path, skip_bad=True), opened(url, engine), engine)
    assert (tally.rejected, len(tally.examples["no_text"])) == ({"no_text": 40}, EXAMPLES)


class OneCode:
    """An item tokenizer that gives every item the same codes."""

    width = WIDTH

    def tokenize(self, embeddings: NDArray[np.float32], domains: Sequence[str] = ()) -> Any:
        class Found:
            codes = np.ones((len(embeddings), 3), dtype=np.int32)
            experts = np.zeros((len(embeddings), 1), dtype=np.int32)

        return Found()


def test_a_full_group_stops_or_is_counted(tmp_path: Path, url: str) -> None:
    engine = Parts(suffixes=10)
    engine.item_tokenizer = OneCode()
    store, path = opened(url, engine), items_file(tmp_path, 13)
    with pytest.raises(SuffixExhausted, match=r"row 11, field 'item_id': item 'i10' .* 10 items"):
        run(job(path), store, engine)
    assert len(content(store)) == 10
    tally = run(job(path, skip_bad=True), store, engine)
    assert (tally.records, tally.created, tally.present) == (13, 7, 3), "the batch that stopped counts as there"
    assert tally.rejected == {"suffix_exhausted": 3}
    assert [example["row"] for example in tally.examples["suffix_exhausted"]] == [11, 12, 13]


@pytest.mark.parametrize(
    ("header", "mapping", "message"),
    [
        ("asin,title", [], r"no column 'item_id', but \['asin', 'title'\]"),
        ("item_id,title", ["brand=maker"], "no column 'maker'"),
        ("item_id,price", [], "none of the columns"),
    ],
)
def test_a_file_without_the_columns_is_refused_at_once(
    tmp_path: Path, engine: Parts, header: str, mapping: list[str], message: str
) -> None:
    path = tmp_path / "items.csv"
    path.write_text(header + "\n1,2\n")
    store = opened(f"embedded:{tmp_path}", engine)
    with pytest.raises(InvalidInput, match=message):
        run(job(path, mapping=mapping), store, engine)
    assert content(store) == {}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_empty_file_is_finished_at_once(tmp_path: Path, url: str, engine: Parts, suffix: str) -> None:
    path = items_file(tmp_path, 0, suffix)
    tally = run(job(path), opened(url, engine), engine)
    assert (tally.records, tally.finished, tally.report()["read"]) == (0, True, 0)
