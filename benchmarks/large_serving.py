"""The service over HTTP with ten million items: what HTTP adds to the engine, latency against load, and fair shares.

    python -m benchmarks http-large --with items=10000 seconds=3     # a rehearsal
    python -m benchmarks http-large                                  # some minutes, after the catalogue was made

Bundle and catalogue (`benchmarks/large_bundle.py`) are made once, in a few minutes: 1.5 GB under `folder`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.caller import Caller
from benchmarks.invented import titles
from benchmarks.large_bundle import DOMAIN, LargeCatalogue, item_id, large_bundle, large_catalogue
from benchmarks.open_loop import Call, measured
from benchmarks.processes import service
from benchmarks.recommenders import HEAD, PART, opened, reading
from benchmarks.rows import Row, steady
from service.catalogue.records import ItemKey
from service.engine.history_tokens import history_tokens
from service.engine.sessions import Runtime

BEAMS, HISTORY, RESULTS = 50, 20, 10
SUSTAINED, LATE = 60.0, 250.0
"""Requests a second to sustain, and the 99th percentile of latency in milliseconds then."""

ADDED = 3.0
"""Milliseconds that HTTP and batching may add to the engine, in the median."""

ALONE, TURNS = 50, 15
"""Histories asked for one at a time, over HTTP and of the engine alone in turns; and how many turns."""

TOKENIZED = 20.0
"""Tokenize requests a second, alone and beside the storm."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure: items of the catalogue, rates of the load, and seconds of each."""

    items: int
    rates: Sequence[float]
    seconds: float


def histories(items: int, count: int) -> list[list[str]]:
    """Random histories of known items."""
    drawn = np.random.default_rng(1).integers(0, items, (count, HISTORY)).tolist()
    return [[item_id(number) for number in row] for row in drawn]


def recommend(history: Sequence[str]) -> Call:
    """A request for ten items."""
    entries = [{"item_id": name, "domain": DOMAIN} for name in history]
    body: dict[str, Any] = {"history": entries, "k": RESULTS, "beam_width": BEAMS, "domains": [DOMAIN]}
    return Call.post("/recommend", body)


def engine_alone(bundle: Path, catalogue: LargeCatalogue, asked: Sequence[Sequence[str]]) -> Callable[[], object]:
    """A call that searches for the next history, without queue and HTTP."""
    recommender, live = opened(bundle / PART.model, Runtime("cpu", 0)), catalogue.live()
    none, laid = np.zeros((1, 0), dtype=np.int32), []
    for history in asked:
        entries = live.lookup([ItemKey(DOMAIN, name) for name in history])
        values = np.stack([entry.values for entry in entries if entry is not None])
        laid.append(history_tokens(live.layout, values, np.array([0, len(values)]), PART.max_history))
    histories = cycle(laid)

    def search() -> None:
        tokens = next(histories)
        with live.searching() as view:
            roots = view.roots([DOMAIN])[None, :]
            recommender.search(tokens.tokens, tokens.mask, view.arrays, roots, none, BEAMS)

    return search


def run(
    items: int = 10_000_000,
    rates: Sequence[float] = (10, 20, 40, SUSTAINED, 80),
    seconds: float = 30.0,
    folder: Path = Path("work/large"),
    *,
    reads: str = "tokens",
    head: float = HEAD,
) -> Iterator[Row]:
    """Rows in the order in which they are measured; `reads` is what a position of the encoder is, tokens or items, and
    `head` the share in the scores of the head that scores items."""
    plan = Plan(items, rates, seconds)
    bundle = large_bundle(folder, None if reads == "tokens" else items, head)
    catalogue = large_catalogue(folder, plan.items)
    asked = histories(plan.items, 1000)
    calls = [recommend(history) for history in asked]
    of = f"{plan.items:,} items, {BEAMS} beams, history of {HISTORY}{reading(reads, head)}"
    with service(bundle, catalogue.settings) as served:
        with Caller(served.address) as caller:
            sides = caller.turns(*calls[:ALONE]), engine_alone(bundle, catalogue, asked[:ALONE])
            recommending, engine = (1e3 * taken for taken in steady(TURNS, *sides))
        note = f"one at a time, in turns of some with the engine alone, which takes {engine:.1f} ms"
        yield Row(f"/recommend on top of the engine, median, {of}", recommending - engine, "ms", note=note, goal=ADDED)
        for rate in plan.rates:
            found = measured(served.address, _repeated(calls, rate, plan.seconds), rate)
            note = f"median {found.median:.0f} ms, {found.rate:.1f} answers/s, {found.statuses}"
            goal = LATE if rate == SUSTAINED else None
            yield Row(f"/recommend at {rate:g}/s, 99th percentile, {of}", found.late, "ms", note=note, goal=goal)
            if rate == SUSTAINED:
                yield Row(f"/recommend sustained, {of}", found.rate, "requests/s", goal=0.97 * SUSTAINED)
        yield from _beside_a_storm(served.address, calls, plan, of)


def _beside_a_storm(address: str, calls: Sequence[Call], plan: Plan, of: str) -> Iterator[Row]:
    """Tokenizing alone, and beside twice as many recommends as are sustained."""
    random = np.random.default_rng(2)
    count = round(TOKENIZED * plan.seconds)
    tokenize = [
        Call.post("/tokenize", {"items": [{"domain": DOMAIN, "title": text}]}) for text in titles(count, random)
    ]
    quiet = measured(address, tokenize, TOKENIZED)
    storm = 2 * SUSTAINED
    mixed = [*tokenize, *_repeated(calls, storm, plan.seconds)]
    random.shuffle(mixed)
    beside = measured(address, mixed, TOKENIZED + storm, "/tokenize")
    note = f"the same without {storm:g} /recommend a second; {beside.statuses}"
    yield Row(f"/tokenize beside a storm, median, {of}", beside.median, "ms", quiet.median, note)
    yield Row(f"/tokenize beside a storm, 99th percentile, {of}", beside.late, "ms", quiet.late, note)


def _repeated(calls: Sequence[Call], rate: float, seconds: float) -> list[Call]:
    return [calls[number % len(calls)] for number in range(round(rate * seconds))]
