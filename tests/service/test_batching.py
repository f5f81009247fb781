"""The batcher: budgets, groups, order, departed clients, poison, closing."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput, ModelError, NotReady
from service.metrics import BatchReport
from service.operations.batching import ANSWERED_A_ROUND, Batcher

Job = tuple[int, int, str]
"""number, size, group"""


class Recorder:
    """Doubles numbers, records batches, and can be held so that a queue builds up behind it."""

    def __init__(self) -> None:
        self.batches: list[list[Job]] = []
        self.reports: list[BatchReport] = []
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.poison: set[int] = set()
        self.hold_after_poison = False

    def __call__(self, jobs: Sequence[Job]) -> list[int]:
        self.batches.append(list(jobs))
        self.started.set()
        assert self.go_on.wait(10)
        for number, _, _ in jobs:
            if number in self.poison:
                if self.hold_after_poison:
                    self.go_on.clear()
                raise InvalidInput(f"{number} is poison")
        return [2 * number for number, _, _ in jobs]

    def batcher(self, budget: int) -> Batcher[Job, int]:
        return Batcher(
            "test", self, budget=budget, size=lambda job: job[1], group=lambda job: job[2], report=self.reports.append
        )


PLUG: Job = (-1, 1, "plug")


def held(recorder: Recorder, budget: int, body: Callable[[Batcher[Job, int]], Coroutine[Any, Any, Any]]) -> Any:
    """Run `body` while the thread is busy with `PLUG`; the body releases it by `recorder.go_on.set()`."""

    async def main() -> Any:
        recorder.go_on.clear()
        batcher = recorder.batcher(budget)
        try:
            plug = asyncio.create_task(batcher.submit([PLUG]))
            await asyncio.to_thread(recorder.started.wait, 10)
            result = await body(batcher)
            assert await plug == [-2]
            return result
        finally:
            recorder.go_on.set()
            assert batcher.close(10)

    return asyncio.run(main())


async def queued(batcher: Batcher[Job, int], count: int) -> None:
    while batcher.waiting < count:
        await asyncio.sleep(0)


jobs_strategy = st.lists(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from("ab")), max_size=6), max_size=8
)


@given(jobs_strategy, st.integers(1, 30))
@settings(max_examples=60)
def test_every_job_gets_its_own_result_within_budget_and_group(submissions: list[list[Job]], budget: int) -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> list[list[int]]:
        tasks = [asyncio.create_task(batcher.submit(jobs)) for jobs in submissions]
        await queued(batcher, sum(map(len, submissions)))
        recorder.go_on.set()
        return await asyncio.gather(*tasks)

    results = held(recorder, budget, body)
    assert results == [[2 * number for number, _, _ in jobs] for jobs in submissions]
    batches = recorder.batches[1:]
    assert sorted(job for batch in batches for job in batch) == sorted(job for jobs in submissions for job in jobs)
    for batch in batches:
        assert len({group for _, _, group in batch}) == 1
        assert len(batch) == 1 or len(batch) * max(size for _, size, _ in batch) <= budget
    # The entry whose turn it is always leads the next batch: no starvation. The batch is as full as first-fit makes it.
    waiting = by_turns(submissions)
    for batch in batches:
        assert batch == first_fit(waiting, budget)
        for job in batch:
            waiting.remove(job)


def by_turns(submissions: list[list[Job]]) -> list[Job]:
    """The slow twin of the queue: callers that arrived together take turns, by the size of what each has had."""
    turns = [(sum(size for _, size, _ in jobs[: n + 1]), job) for jobs in submissions for n, job in enumerate(jobs)]
    return [job for _, job in sorted(turns, key=lambda pair: pair[0])]


def first_fit(waiting: list[Job], budget: int) -> list[Job]:
    """The slow twin of taking a batch."""
    batch = [waiting[0]]
    for job in waiting[1:]:
        enlarged = [*batch, job]
        if job[2] == batch[0][2] and len(enlarged) * max(size for _, size, _ in enlarged) <= budget:
            batch = enlarged
    return batch


def test_an_idle_batcher_does_not_wait_for_company() -> None:
    recorder = Recorder()

    async def main() -> list[int]:
        batcher = recorder.batcher(100)
        first = await batcher.submit([(1, 1, "a")])
        second = await batcher.submit([(2, 1, "a")])
        assert batcher.close(10)
        return first + second

    assert asyncio.run(main()) == [2, 4]
    assert [len(batch) for batch in recorder.batches] == [1, 1]
    assert [report.entries for report in recorder.reports] == [1, 1]


def test_entries_of_a_client_that_left_are_never_run() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> list[int]:
        gone = asyncio.create_task(batcher.submit([(1, 1, "a"), (2, 1, "a")]))
        stays = asyncio.create_task(batcher.submit([(3, 1, "a")]))
        await queued(batcher, 3)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        recorder.go_on.set()
        return await stays

    assert held(recorder, 100, body) == [6]
    assert recorder.batches[1:] == [[(3, 1, "a")]]
    assert recorder.reports[-1].dropped == 2


def test_entries_that_were_dropped_are_reported_once() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> None:
        gone = asyncio.create_task(batcher.submit([(1, 1, "a")]))
        stay = asyncio.create_task(batcher.submit([(2, 1, "b"), (3, 1, "c")]))
        await queued(batcher, 3)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        recorder.go_on.set()
        await stay

    held(recorder, 100, body)
    assert [report.dropped for report in recorder.reports] == [0, 1, 0]


def test_turns_are_kept_when_somebody_before_leaves() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> None:
        tasks: list[asyncio.Task[list[int]]] = []
        for size in (1, 5, 2):
            tasks.append(asyncio.create_task(batcher.submit([(size, size, "a")])))
            await queued(batcher, len(tasks))
        gone, *stay = tasks
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        recorder.go_on.set()
        assert await asyncio.gather(*stay) == [[10], [4]]

    held(recorder, 1, body)
    assert recorder.batches[1:] == [[(2, 2, "a")], [(5, 5, "a")]]


@pytest.mark.parametrize("fails", [False, True])
def test_who_leaves_while_a_batch_runs_costs_the_others_nothing(fails: bool) -> None:
    """Their answers come, and where the batch failed, nothing is run again for who is gone."""
    entered: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    go_on = threading.Semaphore(0)

    def run(jobs: Sequence[int]) -> Sequence[int]:
        entered.put(list(jobs))
        assert go_on.acquire(timeout=10)
        if fails and len(jobs) > 1:
            raise InvalidInput("together they are too much")
        return jobs

    async def main() -> None:
        batcher = Batcher("test", run, budget=9, size=lambda job: 1)
        plug = asyncio.create_task(batcher.submit([0]))
        assert await asyncio.to_thread(entered.get, timeout=10) == [0]
        gone = asyncio.create_task(batcher.submit([1, 2]))
        stays = asyncio.create_task(batcher.submit([3]))
        await queued(batcher, 3)
        go_on.release()
        assert await asyncio.to_thread(entered.get, timeout=10) == [1, 3, 2]
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        go_on.release(4)
        assert await asyncio.wait_for(stays, 10) == [3]
        assert await plug == [0]
        assert batcher.close(10)

    asyncio.run(main())
    again = [] if entered.empty() else [entered.get()]
    assert again == ([[3]] if fails else [])
    assert entered.empty()


def test_an_event_loop_that_was_closed_meanwhile_stops_nothing() -> None:
    recorder = Recorder()
    recorder.go_on.clear()
    batcher = recorder.batcher(100)
    asked: list[asyncio.Task[list[int]]] = []

    async def ask_and_end() -> None:
        asked.append(asyncio.create_task(batcher.submit([(1, 1, "a")])))
        await asyncio.to_thread(recorder.started.wait, 10)

    async def ask() -> list[int]:
        return await asyncio.wait_for(batcher.submit([(2, 1, "a")]), 10)

    asyncio.run(ask_and_end())
    recorder.go_on.set()
    assert asyncio.run(ask()) == [4]
    assert asked[0].cancelled()
    assert batcher.close(10)


def test_an_idle_batcher_holds_nothing_of_its_last_batch() -> None:
    class Large:
        pass

    freed = threading.Event()

    async def main() -> None:
        job = Large()
        weakref.finalize(job, freed.set)
        assert await batcher.submit([job]) == [None]

    batcher: Batcher[Large, None] = Batcher("test", lambda jobs: [None] * len(jobs), budget=1, size=lambda job: 1)
    asyncio.run(main())
    assert freed.wait(10)
    assert batcher.close(10)


@given(st.sets(st.integers(0, 9)), st.integers(1, 12))
@settings(max_examples=30)
def test_poison_fails_alone(poison: set[int], budget: int) -> None:
    recorder = Recorder()
    recorder.poison = poison

    async def body(batcher: Batcher[Job, int]) -> list[list[int] | BaseException]:
        tasks = [asyncio.create_task(batcher.submit([(number, 1, "a")])) for number in range(10)]
        await queued(batcher, 10)
        recorder.go_on.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for number, result in enumerate(held(recorder, budget, body)):
        if number in poison:
            assert isinstance(result, InvalidInput)
            assert str(number) in str(result)
        else:
            assert result == [2 * number]


def test_a_failing_job_withdraws_the_rest_of_its_request() -> None:
    recorder = Recorder()
    recorder.poison = {0}
    recorder.hold_after_poison = True

    async def body(batcher: Batcher[Job, int]) -> None:
        task = asyncio.create_task(batcher.submit([(number, 1, "a") for number in range(5)]))
        await queued(batcher, 5)
        recorder.go_on.set()
        with pytest.raises(InvalidInput, match="0 is poison"):
            await task
        recorder.go_on.set()
        assert await batcher.submit([(7, 1, "b")]) == [14]

    held(recorder, 1, body)
    # Job 1 may have been started before the event loop heard of the failure; no later one can have been.
    started = [number for batch in recorder.batches[1:] for number, _, _ in batch]
    assert started in ([0, 7], [0, 1, 7])


@pytest.mark.parametrize("results", [0, 2])
def test_a_wrong_number_of_results_is_an_error_not_a_shift(results: int) -> None:
    async def main() -> None:
        batcher: Batcher[int, int] = Batcher("wrong", lambda jobs: [0] * results, budget=10, size=lambda job: 1)
        with pytest.raises(ModelError, match=f"batch of 1 gave {results} results"):
            await asyncio.wait_for(batcher.submit([1]), 10)
        assert batcher.close(10)

    asyncio.run(main())


def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> None:
        task = asyncio.create_task(batcher.submit([(1, 1, "a")]))
        await queued(batcher, 1)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close, 10))
        while True:
            try:
                await asyncio.wait_for(batcher.submit([(2, 1, "never")]), 0.01)
            except TimeoutError:
                continue
            except NotReady:
                break
        recorder.go_on.set()
        assert await closing
        assert await task == [2]
        assert not batcher.alive

    held(recorder, 100, body)


def test_closing_in_vain_answers_those_that_wait() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> None:
        task = asyncio.create_task(batcher.submit([(1, 1, "a")]))
        await queued(batcher, 1)
        # While the loop stands still: the thread must not wait for it to learn that nobody waits any more.
        assert not batcher.close(0.01)
        recorder.go_on.set()
        assert batcher.close(10)
        with pytest.raises(NotReady, match="not finished"):
            await task

    held(recorder, 100, body)
    assert recorder.batches == [[PLUG]]


def test_no_jobs_no_batch() -> None:
    recorder = Recorder()

    async def main() -> None:
        batcher = recorder.batcher(1)
        assert await batcher.submit([]) == []
        assert batcher.close(10)

    asyncio.run(main())
    assert recorder.batches == []


def test_a_small_request_does_not_wait_for_a_large_one_before_it() -> None:
    recorder = Recorder()

    async def body(batcher: Batcher[Job, int]) -> None:
        large = asyncio.create_task(batcher.submit([(number, 1, "a") for number in range(40)]))
        await queued(batcher, 40)
        small = asyncio.create_task(batcher.submit([(99, 1, "a")]))
        await queued(batcher, 41)
        recorder.go_on.set()
        assert await small == [198]
        assert await large == [2 * number for number in range(40)]

    held(recorder, 4, body)
    assert (99, 1, "a") in recorder.batches[1]
    assert [len(batch) for batch in recorder.batches[1:]] == [4] * 10 + [1]


def test_a_large_request_is_not_starved_by_small_ones() -> None:
    """Three clients of which one at least always waits: each has a turn for every entry of the large request."""

    def run(jobs: Sequence[int]) -> Sequence[int]:
        # Long enough for clients to be back in the queue before the next batch is chosen.
        time.sleep(0.001)
        return jobs

    batcher = Batcher("test", run, budget=1, size=lambda job: 1)
    small = itertools.count()

    async def main() -> int:
        large = asyncio.create_task(batcher.submit(list(range(20))))
        await asyncio.sleep(0)

        async def client() -> None:
            while not large.done() and next(small) < 1000:
                await batcher.submit([1000])

        await asyncio.gather(*(client() for _ in range(3)))
        await large
        return next(small)

    assert asyncio.run(main()) < 200
    assert batcher.close(10)


def test_the_expected_wait_is_that_of_what_comes_before() -> None:
    """Callers take turns, so a small request does not wait for the rest of a large one."""

    async def body(batcher: Batcher[Job, int]) -> None:
        assert batcher.expected(4).wait == 0.0, "nobody knows the pace yet"
        large = asyncio.create_task(batcher.submit([(number, 1, "a") for number in range(100)]))
        await queued(batcher, 100)
        waits = [batcher.expected(entries).wait for entries in (1, 50, 1000)]
        recorder.go_on.set()
        await large
        assert waits == [0.0, 0.0, 0.0]
        recorder.go_on.clear()
        recorder.started.clear()
        plug = asyncio.create_task(batcher.submit([PLUG]))
        await asyncio.to_thread(recorder.started.wait, 10)
        large = asyncio.create_task(batcher.submit([(number, 1, "a") for number in range(100)]))
        await queued(batcher, 100)
        small, half, behind = (batcher.expected(entries) for entries in (1, 50, 1000))
        assert 0 < small.work < half.work < behind.work
        assert small.wait < half.wait < behind.wait
        assert behind.wait == pytest.approx(100 * small.work, rel=0.5)
        recorder.go_on.set()
        await asyncio.gather(large, plug)

    recorder = Recorder()
    held(recorder, 1, body)


def test_an_answer_of_another_queue_does_not_wait_behind_a_whole_batch() -> None:
    """A batch's callers are answered a few a round of the event loop, between whatever else is there to be done."""
    go_on, storm_delivered, other_delivered = threading.Event(), threading.Event(), threading.Event()
    order: list[str] = []

    def run_storm(jobs: Sequence[str]) -> Sequence[str]:
        assert go_on.wait(10)
        if "after the batch" in jobs:
            storm_delivered.set()
        return jobs

    def run_other(jobs: Sequence[str]) -> Sequence[str]:
        assert storm_delivered.wait(10)
        if "after the other" in jobs:
            other_delivered.set()
        return jobs

    async def main() -> None:
        storm = Batcher("storm", run_storm, budget=8, size=lambda job: 1, group=len)
        other = Batcher("other", run_other, budget=1, size=lambda job: 1)

        async def ask(batcher: Batcher[str, str], job: str) -> None:
            assert await batcher.submit([job]) == [job]
            order.append(job)

        batch = [f"storm {number}" for number in range(8)]
        asked = [asyncio.create_task(ask(storm, job)) for job in ["first", *batch, "after the batch"]]
        asked += [asyncio.create_task(ask(other, job)) for job in ["the other", "after the other"]]
        await queued(storm, 9)
        await queued(other, 1)
        go_on.set()
        # The loop stands still until all results are there.
        assert other_delivered.wait(10)
        await asyncio.gather(*asked)
        assert storm.close(10)
        assert other.close(10)

    asyncio.run(main())
    assert order.index("the other") < order.index(f"storm {ANSWERED_A_ROUND}")
    assert [job for job in order if job.startswith("storm")] == [f"storm {number}" for number in range(8)]
