"""Prometheus metrics of one service, in its own registry.

Knows nothing of what happens in the phases it times.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from service.tracing import OFF, Tracing

Phase = Literal["queue_wait", "text_encode", "tokenize", "beam", "store"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ENTRIES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Statistics of one batch.

    Attributes
    ----------
    entries : entries that were run together
    waited : seconds each of them waited in the queue
    dropped : entries dropped since the last batch because their client had disconnected
    """

    entries: int
    waited: tuple[float, ...]
    dropped: int


class Metrics:
    """All metrics of a service; each has a help text.

    Parameters
    ----------
    tracing : makes a span of every timed phase
    """

    def __init__(self, tracing: Tracing = OFF) -> None:
        self.tracing = tracing
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "unitok_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "unitok_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._phase_seconds = Histogram(
            "unitok_phase_seconds",
            "Seconds spent in a phase: one entry's wait in a queue, one batch in a network, one call of the store.",
            ["phase"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch_entries = Histogram(
            "unitok_batch_entries", "Entries of one batch.", ["queue"], buckets=ENTRIES, registry=self.registry
        )
        self._dropped = Counter(
            "unitok_dropped_entries",
            "Entries thrown out of a queue because their client had left.",
            ["queue"],
            registry=self.registry,
        )
        self._rejected = Counter(
            "unitok_rejected", "Requests refused before any work, by reason.", ["reason"], registry=self.registry
        )
        self._problems = Counter(
            "unitok_problems", "Requests answered with a problem, by its type.", ["type"], registry=self.registry
        )
        self._charged = Counter(
            "unitok_key_items", "Items counted against an API key's rate.", ["key"], registry=self.registry
        )
        self._items_done = Counter(
            "unitok_items", "Items tokenized, registered, deleted, recommended.", ["what"], registry=self.registry
        )
        self._store_failures = Counter(
            "unitok_store_failures",
            "Calls of the catalogue store that failed: reading what changed, writing changes.",
            ["what"],
            registry=self.registry,
        )
        self._rereads = Counter(
            "unitok_catalogue_rereads",
            "Times that the whole catalogue was read anew, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._comparisons = Counter(
            "unitok_catalogue_comparisons",
            "Comparisons of this replica's fingerprints with the store's, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self._bundle = Gauge("unitok_generation", "ID generation being served.", ["bundle"], registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def turned_away(self, method: str, route: str, kind: str) -> Callable[[float], None]:
        """A function that counts one request refused unread, given its seconds; the labels are looked up only once."""
        requests = self._requests.labels(method, route, "429")
        seconds, problems = self._request_seconds.labels(method, route), self._problems.labels(kind)

        def count(taken: float) -> None:
            requests.inc()
            seconds.observe(taken)
            problems.inc()

        return count

    def problem(self, kind: str) -> None:
        """Count one request that was answered with a problem."""
        self._problems.labels(kind).inc()

    def rejected(self, reason: str) -> None:
        """Count one request refused before any work."""
        self._rejected.labels(reason).inc()

    def charged(self, key: str, items: int) -> None:
        """Count items against a key."""
        self._charged.labels(key).inc(items)

    def items(self, what: str, count: int) -> None:
        """Count items that were processed, by kind of work."""
        self._items_done.labels(what).inc(count)

    def store_failed(self, what: Literal["read", "write"]) -> None:
        """Count one failed call of the store."""
        self._store_failures.labels(what).inc()

    def reread(self, reason: str) -> None:
        """Count one reload of the whole catalogue."""
        self._rereads.labels(reason).inc()

    def compared(self, outcome: str) -> None:
        """Count one comparison with the store."""
        self._comparisons.labels(outcome).inc()

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Time the block as one run of a phase."""
        started = time.perf_counter()
        try:
            with self.tracing.span(phase):
                yield
        finally:
            self._phase_seconds.labels(phase).observe(time.perf_counter() - started)

    def batch(self, queue: str) -> Callable[[BatchReport], None]:
        """A function to which a batcher reports its batches."""
        entries, dropped = self._batch_entries.labels(queue), self._dropped.labels(queue)
        waited = self._phase_seconds.labels("queue_wait")

        def report(batch: BatchReport) -> None:
            entries.observe(batch.entries)
            dropped.inc(batch.dropped)
            for seconds in batch.waited:
                waited.observe(seconds)

        return report

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge whose value is read when the metrics are collected."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def serving(self, bundle: str, generation: int) -> None:
        """Record which generation of which bundle is served."""
        self._bundle.labels(bundle).set(generation)

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
