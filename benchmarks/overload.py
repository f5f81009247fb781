"""Five times more than the service can do: is the excess refused at once, and are those let in served as when it idles?

Finds the capacity by rising rates, then offers five times as much: `python -m benchmarks overload [--full]`.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.catalogues import items_of
from benchmarks.open_loop import Answer, Call, Outcome, glancing, late, offer
from benchmarks.processes import Served, processor_seconds, resident_bytes, service
from benchmarks.rows import Row

TIMES = 5.0
MOST_SLOWER = 2.0
"""How many times the unloaded 99th percentile that of the accepted ones may be."""

STEP = 1.5
"""Factor between the rates that look for the capacity."""

KEPT_UP = 0.9
"""Share of what is offered that must be accepted for the rate to count as within capacity."""

FELL_BEHIND = 0.7
"""Below this share of the rate, answers come later and later; random arrivals of a few seconds stay above it."""

CALM = 3.0
"""Seconds of the first rate before the flood, which so meets a service that is calm."""

SETTLING = 3.0
"""Seconds of overload that a burst may take: there is a row with them and one without."""


@dataclass(frozen=True, slots=True)
class Load:
    """Answers to what was offered, the seconds that it took, and those of the processor that asking took."""

    answers: list[Answer]
    seconds: float
    asking: float

    @property
    def outcome(self) -> Outcome:
        """What became of it."""
        return Outcome.of(self.answers, self.seconds)


def calls(bundle: Path) -> Iterator[Call]:
    """Recommends after ten known items, without end."""
    known = items_of(bundle).select("domain", "item_id").rows()
    drawn = random.Random(0)
    while True:
        history = [{"domain": domain, "item_id": name} for domain, name in drawn.sample(known, 10)]
        yield Call.post("/recommend", {"history": history, "k": 10})


def offered(served: Served, source: Iterator[Call], rate: float, seconds: float) -> Load:
    """Offer calls at a rate for some time."""
    chosen = list(itertools.islice(source, max(1, round(rate * seconds))))
    began, used = time.perf_counter(), time.process_time()
    answers = glancing(offer(served.address, chosen, rate))
    return Load(answers, time.perf_counter() - began, time.process_time() - used)


def capacity(served: Served, source: Iterator[Call], first: float, seconds: float) -> float:
    """Most answers a second that any rate brought, rising until the service no longer keeps up."""
    best, rate = 0.0, first
    while True:
        found = offered(served, source, rate, seconds).outcome
        best = max(best, found.rate)
        accepted = found.statuses.get(200, 0) / sum(found.statuses.values())
        if accepted < KEPT_UP or found.rate < FELL_BEHIND * rate:
            return best
        rate *= STEP


def run(bundle: Path = Path("models/sample"), seconds: float = 10.0, first: float = 10.0) -> Iterator[Row]:
    """Rows in the order in which they are measured."""
    source = calls(bundle)
    with service(bundle) as served:
        offered(served, source, first, 2.0)
        quiet = offered(served, source, first, seconds).outcome
        yield Row(f"/recommend at {first:g}/s, 99th percentile", quiet.late, "ms", note=f"median {quiet.median:.1f} ms")
        most = capacity(served, source, first, max(3.0, seconds / 6))
        yield Row("/recommend, capacity", most, "requests/s", note="most answers a second at any rate")
        rate = TIMES * most
        offered(served, source, first, CALM)
        begun = offered(served, source, rate, SETTLING)
        held, worked = resident_bytes(served.pid), processor_seconds(served.pid)
        loaded = offered(served, source, rate, seconds)
        grown = resident_bytes(served.pid) - held
        worked = processor_seconds(served.pid) - worked
    yield from _of(loaded, begun, rate, quiet)
    of = f"{TIMES:g} times capacity"
    cores = f"{worked / loaded.seconds:.2f} cores in use, and {loaded.asking / loaded.seconds:.2f} by the client"
    note = f"{held / 1e6:.0f} MB before; {cores}"
    yield Row(f"{of}, growth of the service's memory", grown, "bytes", note=note)


def _of(loaded: Load, begun: Load, rate: float, quiet: Outcome) -> Iterator[Row]:
    of, found, seconds = f"{TIMES:g} times capacity", loaded.outcome, begun.seconds + loaded.seconds
    whole = Outcome.of([*begun.answers, *loaded.answers], seconds)
    refused = [answer.milliseconds for answer in loaded.answers if answer.status == 429]
    note = f"unloaded; the first {SETTLING:g} s left out"
    yield Row(f"{of}, accepted, 99th percentile", found.late, "ms", quiet.late, note, 1 / MOST_SLOWER)
    note = f"unloaded; {seconds:.0f} s from calm on; {begun.outcome.late:.0f} ms in the first {SETTLING:g} s"
    yield Row(f"{of}, accepted, 99th percentile of all", whole.late, "ms", quiet.late, note, 1 / MOST_SLOWER)
    yield Row(f"{of}, accepted", found.rate, "requests/s", note=f"of {rate:.0f} offered; {found.statuses}")
    others = sum(count for status, count in found.statuses.items() if status not in (200, 429))
    yield Row(f"{of}, answers other than 200 and 429", others, "count", goal=0)
    yield Row(f"{of}, refusals without Retry-After", found.unhelpful, "count", goal=0)
    if refused:
        yield Row(f"{of}, refused, median", statistics.median(refused), "ms", note=f"{late(refused):.1f} ms late")
