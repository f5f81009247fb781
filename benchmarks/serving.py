"""The service over HTTP on this machine: what HTTP adds to the engine, and latency against load.

Loads are open loops, to loopback only, for a bounded time. Symbols: L levels, N experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.caller import Caller
from benchmarks.catalogues import items_of, one_root
from benchmarks.open_loop import Call, measured
from benchmarks.processes import service
from benchmarks.rows import Row, medians
from service.bundle.files import Bundle
from service.engine.engine import Engine
from service.engine.history_tokens import history_tokens
from service.semantic_ids import IntArray

SAMPLE = Path("models/sample")
BEAMS, HISTORY = 50, 10
TITLE = "A heist on the night train to Lisbon"
ADDED_MILLISECONDS = 3.0
"""Most that HTTP and batching may add to the engine, in the median."""
SHARE = 0.5
"""Beside a storm of other requests, one kind has half the machine: its latency may double."""


def catalogue(folder: Path, domain: str) -> tuple[list[str], IntArray]:
    """Items of a domain of a bundle in the order of their semantic IDs: item ids, and int32 [n, L + N + 1]."""
    table = items_of(folder).filter(pl.col("domain") == domain)
    columns = table["codes", "experts", "suffix", "item_id"].iter_rows()
    rows = sorted(([*codes, *experts, suffix], item_id) for codes, experts, suffix, item_id in columns)
    return [item_id for _, item_id in rows], np.asarray([values for values, _ in rows], dtype=np.int32)


def request(item_ids: Sequence[str], domain: str) -> dict[str, Any]:
    """A request for ten items after these."""
    return {"history": [{"item_id": name, "domain": domain} for name in item_ids], "k": 10, "domains": [domain]}


def engine_alone(folder: Path, domain: str, values: IntArray) -> Callable[[], object]:
    """A call that searches the whole domain after a history of `values` int32 [n, L + N + 1]."""
    bundle = Bundle.open(folder)
    recommender = Engine.open(bundle, "cpu").recommender_for([domain])
    layout = bundle.manifest.token_layout(recommender.part)
    index = one_root(layout.tokens(catalogue(folder, domain)[1])).arrays()
    asked = history_tokens(layout, values, np.asarray([0, len(values)]), recommender.part.max_history)
    root, none = np.zeros((1, 1), dtype=np.int32), np.zeros((1, 0), dtype=np.int32)
    return lambda: recommender.search(asked.tokens, asked.mask, index, root, none, BEAMS)


def run(bundle: Path = SAMPLE, count: int = 200) -> Iterator[Row]:
    """One request at a time, and tokenizing beside a storm of recommending."""
    domain = Bundle.open(bundle).manifest.recommenders[0].domains[0]
    names, values = catalogue(bundle, domain)
    recommend, item = request(names[:HISTORY], domain), {"items": [{"domain": domain, "title": TITLE}]}
    alone = engine_alone(bundle, domain, values[:HISTORY])
    with service(bundle) as served, Caller(served.address) as caller:
        sides: list[Callable[[], object]] = [
            caller.turns(Call.post("/recommend", recommend)),
            caller.turns(Call.post("/tokenize", item)),
            caller.turns(Call("/livez", "GET", "/livez")),
            alone,
        ]
        recommending, tokenizing, floor, engine = (1e3 * taken for taken in medians(count, *sides))
        note = f"{BEAMS} beams, {HISTORY} known items of history, {len(names):,} items"
        yield Row("POST /recommend, one at a time, median", recommending, "ms", note=note)
        yield Row("POST /tokenize, one at a time, median", tokenizing, "ms", note="one item from text")
        yield Row("GET /livez, one at a time, median", floor, "ms", note="what HTTP itself costs")
        note = f"the engine alone takes {engine:.2f} ms"
        added = recommending - engine
        yield Row("POST /recommend, on top of the engine, median", added, "ms", note=note, goal=ADDED_MILLISECONDS)
        capacity = 1e3 / recommending
        calls = [Call.post("/tokenize", item)] * count
        quiet = measured(served.address, calls, 20.0)
        storm = [*calls, *[Call.post("/recommend", recommend)] * round(capacity * count / 20.0)]
        np.random.default_rng(0).shuffle(storm)
        beside = measured(served.address, storm, 20.0 + capacity, "/tokenize")
    note = f"the same without {capacity:.0f} /recommend a second, as many as one client at a time gets"
    yield Row("POST /tokenize at 20/s beside a storm, median", beside.median, "ms", quiet.median, note, SHARE)
    yield Row("POST /tokenize at 20/s beside a storm, 99th percentile", beside.late, "ms", quiet.late, note)


def load(bundle: Path = SAMPLE, rates: Sequence[float] = (10, 20, 40, 80), seconds: float = 8.0) -> Iterator[Row]:
    """Latency at rising rates, until the service no longer keeps up."""
    domain = Bundle.open(bundle).manifest.recommenders[0].domains[0]
    names, _ = catalogue(bundle, domain)
    starts = np.random.default_rng(0).integers(0, len(names) - HISTORY, 1000)
    calls = [Call.post("/recommend", request(names[start : start + HISTORY], domain)) for start in starts.tolist()]
    with service(bundle) as served:
        for rate in rates:
            count = round(rate * seconds)
            found = measured(served.address, [calls[number % len(calls)] for number in range(count)], rate)
            note = f"{found.rate:.1f} answers/s, {dict(found.statuses)}; {len(names):,} items, {BEAMS} beams"
            for what, value in (("median", found.median), ("99th percentile", found.late)):
                measure = f"POST /recommend at {rate:g} requests/s, {what}"
                yield Row(measure, value, "ms", note=note, curve=f"POST /recommend, {what}", at=rate)
            if found.rate < 0.8 * rate:
                return
