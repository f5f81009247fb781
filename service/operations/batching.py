"""Dynamic micro-batching: asyncio callers submit jobs to a queue that one worker thread owns.

As soon as the thread is free, it takes what is queued. There is no batching window in which an idle machine waits for
more entries, and under load the batches grow by themselves. A batch holds entries of one group (those that can share
one run of a graph) and is bounded by its padded size: entries times the largest size among them. Queueing is fair: a
request of one entry does not wait for all of a request of hundreds that came just before it. Entries whose client has
disconnected are dropped before any work is done for them. When a batch fails, its entries are run one by one, so that
only the entry at fault fails.

Knows nothing of what it batches, of HTTP, or of how much may wait (see `service/overload/admission.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Generic, TypeAlias, TypeVar

from opentelemetry.context import Context

from service.errors import ModelError, NotReady
from service.metrics import BatchReport
from service.overload.throughput import Expected, Throughput
from service.tracing import OFF, Tracing

ANSWERED_A_ROUND = 4
"""Callers of a batch that are answered in one iteration of the event loop: about two milliseconds of work."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Submission(Generic[Result]):
    """The jobs of one caller, answered together; only the event loop touches `results` and `missing`."""

    loop: asyncio.AbstractEventLoop
    traced: Context | None
    future: asyncio.Future[list[Result]]
    results: list[Result | None]
    missing: int
    left: bool = False


@dataclass(slots=True)
class _Entry(Generic[Job, Result]):
    """One job in the queue; `turn` is its virtual finish time in fair queueing, which orders the queue."""

    turn: int
    number: int
    job: Job
    size: int
    group: Hashable
    position: int
    submission: _Submission[Result]
    since: float = field(default_factory=time.perf_counter)

    def __lt__(self, other: _Entry[Job, Result]) -> bool:
        return (self.turn, self.number) < (other.turn, other.number)


_Outcome: TypeAlias = tuple[_Entry[Job, Result], Result | None, Exception | None]
"""An entry with its result or its error."""


class Batcher(Generic[Job, Result]):
    """Runs jobs of many callers in batches, on its own thread.

    Parameters
    ----------
    name : name of the queue, used for the thread, messages and spans
    run : takes the jobs of one batch and returns one result for each, in the same order
    budget : bound on a batch's entries x largest size; an entry that exceeds it alone forms its own batch
    size : cost of one job, in the unit of the budget
    group : jobs of different groups are never in one batch
    report : called for each batch, on the batcher's thread, before the batch is run
    tracing : makes a span of each caller's wait and of each batch
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Job]], Sequence[Result]],
        *,
        budget: int,
        size: Callable[[Job], int],
        group: Callable[[Job], Hashable] = lambda job: None,
        report: Callable[[BatchReport], None] = lambda report: None,
        tracing: Tracing = OFF,
    ) -> None:
        self.name = name
        self._run = run
        self._budget = budget
        self._size = size
        self._group = group
        self._report = report
        self._tracing = tracing
        # A heap by turn: fair queueing by virtual finish times, which start at the turn that was served last.
        self._queue: list[_Entry[Job, Result]] = []
        self._served = 0
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._dropped = 0
        self._throughput = Throughput()
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Entries in the queue, not counting the batch that is running."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def expected(self, entries: int) -> Expected:
        """Expected waiting and running time of this many new entries of one caller, under fair queueing."""
        size = self._throughput.size(entries)
        with self._changed:
            turn = self._served + size
            ahead = sum(entry.size for entry in self._queue if entry.turn <= turn)
        return self._throughput.expected(size, ahead)

    async def submit(self, jobs: Sequence[Job]) -> list[Result]:
        """Queue jobs and wait for all their results; cancelling the call withdraws the jobs that have not started.

        Raises
        ------
        NotReady : the batcher is closed
        Exception : the error of the first job that failed; the jobs still queued are withdrawn
        """
        if not jobs:
            return []
        with self._tracing.span(self.name, **{"unitok.entries": len(jobs)}):
            return await self._submit(jobs)

    async def _submit(self, jobs: Sequence[Job]) -> list[Result]:
        loop = asyncio.get_running_loop()
        submission: _Submission[Result] = _Submission(
            loop, self._tracing.here(), loop.create_future(), [None] * len(jobs), len(jobs)
        )
        sizes = [self._size(job) for job in jobs]
        groups = [self._group(job) for job in jobs]
        with self._changed:
            if self._closing:
                raise NotReady(f"the {self.name} queue is closed: the service is stopping")
            turns = itertools.accumulate(sizes, initial=self._served)
            next(turns)
            for position, (turn, job, size, group) in enumerate(zip(turns, jobs, sizes, groups, strict=True)):
                heappush(self._queue, _Entry(turn, next(self._numbers), job, size, group, position, submission))
            self._changed.notify()
        try:
            return await submission.future
        finally:
            submission.left = True

    def close(self, seconds: float) -> bool:
        """Accept no more jobs, finish those in the queue, and end the thread.

        Returns whether all jobs were finished within `seconds`; those still queued then fail with `NotReady`.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        finished = not self._thread.is_alive()
        if not finished:
            with self._changed:
                unfinished = list(self._queue)
                self._queue.clear()
            error = NotReady(f"the {self.name} queue was not finished within {seconds:g} s of stopping")
            self._deliver([(entry, None, error) for entry in unfinished])
        return finished

    def _work(self) -> None:
        """Body of the thread: run batches until the queue is closed and empty."""
        while batch := self._next_batch():
            now = time.perf_counter()
            dropped, self._dropped = self._dropped, 0
            self._throughput.begin(len(batch), sum(entry.size for entry in batch))
            self._report(BatchReport(len(batch), tuple(now - entry.since for entry in batch), dropped))
            with self._tracing.batch(f"{self.name}.batch", [entry.submission.traced for entry in batch]):
                outcomes = self._attempt(batch)
            self._throughput.end()
            self._deliver(outcomes)
            # Free the arrays of the last batch before the thread waits for the next.
            del batch, outcomes

    def _next_batch(self) -> list[_Entry[Job, Result]]:
        """Wait for entries and take the next batch; an empty list once the queue is closed and empty."""
        with self._changed:
            while True:
                self._drop_abandoned()
                if self._queue:
                    return self._take()
                if self._closing:
                    return []
                self._changed.wait()

    def _drop_abandoned(self) -> None:
        """Drop the entries whose callers have left."""
        kept = [entry for entry in self._queue if not entry.submission.left]
        if len(kept) < len(self._queue):
            self._dropped += len(self._queue) - len(kept)
            heapify(kept)
            self._queue = kept

    def _take(self) -> list[_Entry[Job, Result]]:
        """Remove the entry with the lowest turn and all others that fit into its batch.

        That entry is always taken, and turns only increase. So no entry starves, however badly it fits with others.
        """
        first = heappop(self._queue)
        self._served = first.turn
        batch, largest, passed_over = [first], first.size, []
        while self._queue and (len(batch) + 1) * largest <= self._budget:
            entry = heappop(self._queue)
            grown = max(largest, entry.size)
            if entry.group == first.group and (len(batch) + 1) * grown <= self._budget:
                batch.append(entry)
                largest = grown
            else:
                passed_over.append(entry)
        for entry in passed_over:
            heappush(self._queue, entry)
        return batch

    def _attempt(self, batch: Sequence[_Entry[Job, Result]]) -> list[_Outcome[Job, Result]]:
        """Run a batch; if it fails, run each of its entries alone."""
        try:
            results = self._run([entry.job for entry in batch])
            if len(results) != len(batch):
                raise ModelError(f"the {self.name} batch of {len(batch)} gave {len(results)} results")
        except Exception as error:
            if len(batch) == 1:
                return [(batch[0], None, error)]
            waited_for = [entry for entry in batch if not entry.submission.left]
            return [outcome for entry in waited_for for outcome in self._attempt([entry])]
        return [(entry, result, None) for entry, result in zip(batch, results, strict=True)]

    def _deliver(self, outcomes: list[_Outcome[Job, Result]]) -> None:
        """Pass outcomes to the event loops that wait for them, with one call for each loop."""
        callers: dict[asyncio.AbstractEventLoop, dict[int, list[_Outcome[Job, Result]]]] = {}
        for outcome in outcomes:
            submission = outcome[0].submission
            callers.setdefault(submission.loop, {}).setdefault(id(submission), []).append(outcome)
        for loop, mine in callers.items():
            try:
                loop.call_soon_threadsafe(_settle, loop, deque(mine.values()))
            except RuntimeError:
                # The loop is closed, so no caller waits.
                continue


def _settle(loop: asyncio.AbstractEventLoop, callers: deque[list[_Outcome[Job, Result]]]) -> None:
    """On the event loop: fill in the results of some callers and resolve complete futures; the rest follow later.

    Each iteration of the loop answers `ANSWERED_A_ROUND` callers. If all were answered at once, everything else that
    becomes ready meanwhile would wait for the whole batch. If it were one for each iteration, the last caller of a
    batch would, under overload, wait through as many iterations full of refusals.
    """
    some = [callers.popleft() for _ in range(min(ANSWERED_A_ROUND, len(callers)))]
    for entry, result, error in itertools.chain.from_iterable(some):
        submission = entry.submission
        if submission.future.done():
            continue
        if error is not None:
            submission.future.set_exception(error)
            continue
        submission.results[entry.position] = result
        submission.missing -= 1
        if submission.missing == 0:
            # Every position is filled, so no initial None is left in the list.
            submission.future.set_result(submission.results)  # type: ignore[arg-type]
    if callers:
        loop.call_soon(_settle, loop, callers)
