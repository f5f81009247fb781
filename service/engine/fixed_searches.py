"""Searches of fixed sizes: one session per set of sizes, so that a GPU replays the whole search as one CUDA graph.

A batch is padded to the next larger sizes, and the results of the padding are ignored. A replay reads and writes the
memory of the first run, so input and output arrays keep their addresses. The same holds for the constraint index: a
patched copy keeps its address; when a copy is sent again, the next search is captured again. A session is opened in the
background when its sizes occur for the second time. Until then, and after the runtime has refused or failed a set of
sizes, `run` returns None and the caller searches with open sizes. So no failure here fails a request. Independent of
what is searched for.

Symbols: those of `recommender`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
import onnxruntime

from service.engine.fixed_search import INDEX, FixedSearch
from service.engine.sessions import Array, Feed, Runtime, Session
from service.engine.signature import Tensor

LOG = logging.getLogger(__name__)

Sizes: TypeAlias = tuple[tuple[str, int], ...]
"""Pairs of symbol and size."""

STEPS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Batch sizes to which a batch is padded; larger batches have no session."""
HISTORY_STEP = 8
KEPT = 24
"""Most sessions open at the same time; each holds the weights and its own working memory."""
MET = 2
"""A session is opened when its sizes have occurred this many times."""
PAUSE = 60.0
"""Least seconds between two openings when `KEPT` sessions are open: each makes all searches wait for a capture."""
VAIN = 3
"""After this many refused sizes in a row, with no successful search between them, no more are tried."""


class FixedSearches:
    """Sessions by their sizes. Every method may be called from any thread.

    Parameters
    ----------
    runtime : how they run
    outputs : of the graph
    opened : opens the graph with these sizes

    Attributes
    ----------
    answered : number of searches that were answered here
    """

    def __init__(self, runtime: Runtime, outputs: list[Tensor], opened: Callable[[Mapping[str, int]], Session]) -> None:
        self.answered = 0
        self._runtime, self._outputs, self._opened = runtime, outputs, opened
        self._lock = threading.Lock()
        self._met: OrderedDict[Sizes, int] = OrderedDict()
        self._searches: OrderedDict[Sizes, Future[FixedSearch | None]] = OrderedDict()
        self._began, self._vain = 0.0, 0
        self._opener = ThreadPoolExecutor(1, "fixed-sizes")
        # One thread: a provider may keep captured graphs per thread, and a device runs searches one at a time anyway.
        self._runner = ThreadPoolExecutor(1, "fixed-searches")

    def run(self, feeds: Mapping[str, Feed], owner: object) -> dict[str, Array] | None:
        """Outputs by name, as from a run with open sizes; None: the caller must search with open sizes.

        Parameters
        ----------
        feeds : inputs by name
        owner : the object that the index's arrays are a copy of, held by weak reference; the copy is released with it
        """
        sizes = _sizes(feeds)
        search = None if sizes is None else self._search(sizes)
        if sizes is None or search is None:
            return None
        try:
            found = self._runner.submit(self._run, search, feeds, owner).result()
        except Exception as error:
            # ONNX Runtime raises a dozen unrelated classes here. The open-size run reports faults of the inputs.
            self._refuse(sizes, search, error)
            return None
        if found is not None:
            with self._lock:
                self.answered, self._vain = self.answered + 1, 0
        return found

    def settle(self) -> None:
        """Wait until all sessions that were submitted for opening have been opened or refused."""
        with self._lock:
            waiting = list(self._searches.values())
        for each in waiting:
            each.result()

    def _run(self, search: FixedSearch, feeds: Mapping[str, Feed], owner: object) -> dict[str, Array] | None:
        """Run a search, on the runner's thread, after every session has released the index copies no longer in use."""
        with self._lock:
            opened = [each.result() for each in self._searches.values() if each.done()]
        index: tuple[Any, ...] = tuple(feeds[name] for name in INDEX)
        for each in opened:
            if each is not None:
                each.give_up(owner, index)
        return search.run(feeds, owner, index)

    def _search(self, sizes: Sizes) -> FixedSearch | None:
        """The session of these sizes, if it is open and not refused."""
        with self._lock:
            found = self._searches.get(sizes)
            if found is None:
                met = self._met[sizes] = self._met.pop(sizes, 0) + 1
                while len(self._met) > 16 * KEPT:
                    self._met.popitem(last=False)
                if met >= MET and self._may_open():
                    self._began = time.monotonic()
                    self._begin(sizes)
                return None
            self._searches.move_to_end(sizes)
        return found.result() if found.done() else None

    def _begin(self, sizes: Sizes) -> None:
        """Open the session in the background; if no thread can be started, log it and try again later."""
        try:
            self._searches[sizes] = self._opener.submit(self._open, sizes)
        except RuntimeError as error:
            LOG.warning("no session of sizes %s can be opened now: %s", dict(sizes), error)

    def _may_open(self) -> bool:
        """Whether another session may be opened now (see `VAIN`, `KEPT`, `PAUSE`)."""
        full = len(self._searches) >= KEPT
        return self._vain < VAIN and not (full and time.monotonic() - self._began < PAUSE)

    def _open(self, sizes: Sizes) -> FixedSearch | None:
        """Open the session of these sizes; None: the runtime refuses them."""
        self._make_room()
        if self._vain >= VAIN:
            return None
        try:
            session = self._opened(dict(sizes))
            with self._runtime.device_lock.together():
                return FixedSearch(session, dict(sizes), self._outputs, self._runtime)
        except Exception as error:
            self._say_refused(sizes, error)
            return None

    def _make_room(self) -> None:
        """Close the least recently used sessions; this frees memory, which must not happen during a capture."""
        while True:
            with self._lock:
                if len(self._searches) <= KEPT:
                    return
                sizes, closed = self._searches.popitem(last=False)
                self._met.pop(sizes, None)
            with self._runtime.device_lock.together():
                del closed

    def _refuse(self, sizes: Sizes, search: FixedSearch, error: Exception) -> None:
        """Use open sizes for these sizes from now on; if several searches fail at once, only the first logs it."""
        refused: Future[FixedSearch | None] = Future()
        refused.set_result(None)
        with self._lock:
            found = self._searches.get(sizes)
            if found is None or not found.done() or found.result() is not search:
                return
            self._searches[sizes] = refused
        self._say_refused(sizes, error)

    def _say_refused(self, sizes: Sizes, error: Exception) -> None:
        with self._lock:
            self._vain += 1
            last = self._vain == VAIN
        LOG.warning("searches of sizes %s stay with open sizes: %s", dict(sizes), error)
        if last:
            LOG.warning("%d sizes were refused one after the other: those of all others stay with open sizes too", VAIN)


def _sizes(feeds: Mapping[str, Feed]) -> Sizes | None:
    """The sizes after padding; None: no session can serve these inputs."""
    if not all(isinstance(feeds[name], onnxruntime.OrtValue) for name in INDEX):
        return None
    batch, history = np.shape(feeds["history"])
    if batch > STEPS[-1]:
        return None
    found = {
        "B": next(step for step in STEPS if step >= batch),
        "S": -(-history // HISTORY_STEP) * HISTORY_STEP,
        "W": len(feeds["beam_slots"]),
        "R": _power(np.shape(feeds["roots"])[1]),
        "X": _power(np.shape(feeds["blocked"])[1]),
    }
    for name, value in feeds.items():
        if name.startswith("child_slots_"):
            found[f"C{name.removeprefix('child_slots_')}"] = _power(len(value))
    return tuple(found.items())


def _power(number: int) -> int:
    """The least power of two that is not below the number."""
    return 1 << max(0, number - 1).bit_length()
