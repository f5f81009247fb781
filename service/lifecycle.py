"""One running service: its parts, its readiness, and its shutdown.

Ready means that a real tokenize and a real recommend have succeeded. Shutdown has two steps. First `/readyz` reports
not ready while requests are still served, so that load balancers notice. Then new work is refused and running work is
finished. Knows nothing of HTTP or signals.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from enum import StrEnum

from service.catalogue.live import Agreement, LiveCatalogue, Reread
from service.catalogue.live_follower import following
from service.engine.engine import Engine
from service.errors import ModelError, NotReady
from service.items import ItemContent
from service.logs import get_logger
from service.metrics import Metrics
from service.operations.encoding import Encoding
from service.operations.explaining import Explaining
from service.operations.queries import ItemInput, RecommendQuery
from service.operations.recommending import Recommending
from service.operations.searching import Searching
from service.operations.token_space import TokenSpace
from service.operations.tokenizing import Tokenizing
from service.operations.writing import Writing
from service.overload.admission import Admission
from service.overload.early_admission import EarlyAdmission
from service.overload.loop_lag import LoopLag
from service.overload.throughput import Expected
from service.settings import Settings
from service.tracing import OFF, Tracing

PROBE = ItemInput("probe", None, ItemContent(title="A first item", description="Tokenized once at start."))
"""Item that is tokenized, and used as a history, before the service reports that it is ready."""

WAITING = "not run yet"
PASSED = "ok"
STORE_FAILED = "does not answer; recommending and tokenizing go on from memory, registrations are refused"
STORE_REFUSES = "refuses changes; recommending and tokenizing go on, registrations are refused"


class State(StrEnum):
    """Where a service is in its life."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"


class Service:
    """Builds the parts of one service and connects them.

    Parameters
    ----------
    settings : the operator's settings
    engine : an opened bundle
    catalogue : its live catalogue, loaded
    tracing : tracer for the phases of requests

    Attributes
    ----------
    tokenizing, recommending, explaining, writing : the operations
    early_tokenize, early_recommend : decide whether requests to the first two operations are read at all
    state, checks : the current state, and the result of each readiness check
    """

    def __init__(self, settings: Settings, engine: Engine, catalogue: LiveCatalogue, tracing: Tracing = OFF) -> None:
        manifest = engine.bundle.manifest
        self.settings = settings
        self.engine = engine
        self.catalogue = catalogue
        self.manifest = manifest
        self.metrics = Metrics(tracing)
        self.admission = Admission(
            settings.max_concurrent_items,
            settings.max_wait_seconds,
            settings.overload_patience,
            refused=lambda: self.metrics.rejected("overloaded"),
        )
        self.state = State.STARTING
        self.checks = {"tokenize": WAITING, "recommend": WAITING, "store": PASSED}
        self._store_answered = time.monotonic()
        self._log = get_logger("unitok.service")
        token_space = TokenSpace(
            self.metrics.registry,
            manifest.item_tokenizer.expert_names,
            catalogue.census,
            manifest.item_tokenizer.quantization_error,
        )
        self._encoding = Encoding(
            engine.text_encoder,
            engine.item_tokenizer,
            settings.text_batch_tokens,
            metrics=self.metrics,
            token_space=token_space,
        )
        self._searching = Searching(catalogue, settings.search_batch_beams, self.metrics)
        most_declined = settings.overload_refusals_per_second
        lag = LoopLag()
        self.early_tokenize = EarlyAdmission(self.admission, self._encoding.expected, most_declined, lag.seconds)
        self.early_recommend = EarlyAdmission(self.admission, self._recommend_expected, most_declined, lag.seconds)
        self.writing = Writing(catalogue, self.admission, self.metrics)
        self.tokenizing = Tokenizing(
            encoding=self._encoding,
            catalogue=catalogue,
            writing=self.writing,
            layout=engine.layout,
            expert_names=manifest.item_tokenizer.expert_names,
            limits=settings.limits,
            early=self.early_tokenize,
            metrics=self.metrics,
        )
        self.explaining = Explaining(
            encoding=self._encoding,
            catalogue=catalogue,
            expert_names=manifest.item_tokenizer.expert_names,
            admission=self.admission,
        )
        self.recommending = Recommending(
            engine=engine,
            encoding=self._encoding,
            searching=self._searching,
            catalogue=catalogue,
            default_beam_width=settings.default_beam_width,
            limits=settings.limits,
            early=self.early_recommend,
            metrics=self.metrics,
        )
        self._add_gauges()

    def _recommend_expected(self, items: int) -> Expected:
        """Expected waiting and running time of a search with `items - 1` raw items in its history."""
        expected = self._searching.expected()
        return expected + self._encoding.expected(items - 1) if items > 1 else expected

    def _add_gauges(self) -> None:
        metrics = self.metrics
        metrics.serving(self.manifest.name, self.manifest.generation)
        metrics.watch("unitok_index_items", "Items that can be recommended.", lambda: self.items)
        metrics.watch("unitok_admitted_items", "Items being worked on or waiting.", lambda: self.admission.items)
        capacity = float(self.settings.max_concurrent_items)
        metrics.watch("unitok_admission_capacity_items", "Items that may be worked on or wait.", lambda: capacity)
        metrics.watch("unitok_index_bytes", "Bytes of the constraint index.", self._index_bytes)
        metrics.watch(
            "unitok_store_age_seconds",
            "Seconds since this replica had last seen every change of the catalogue store.",
            lambda: self.catalogue.age,
        )
        metrics.watch("unitok_ready", "1 while /readyz says yes.", lambda: self.state is State.READY)
        metrics.watch("unitok_store_up", "1 while the catalogue store answers.", lambda: self.store_up)
        metrics.watch("unitok_store_writable", "1 unless the store refused a change.", lambda: self.store_writable)
        encode, search = self._encoding.batcher, self._searching.batcher
        metrics.watch("unitok_encode_queue_depth", "Items waiting to be tokenized.", lambda: encode.waiting)
        metrics.watch("unitok_search_queue_depth", "Searches waiting.", lambda: search.waiting)

    @property
    def items(self) -> int:
        """Number of items that can be recommended."""
        return sum(self.catalogue.domains().values())

    @property
    def alive(self) -> bool:
        """Whether the worker threads are running."""
        return self._encoding.batcher.alive and self._searching.batcher.alive

    def _index_bytes(self) -> float:
        with self.catalogue.searching() as view:
            arrays = view.arrays
            return sum(
                part.nbytes for part in (arrays.node_start, arrays.node_count, arrays.edge_token, arrays.edge_child)
            )

    async def warm_up(self) -> None:
        """Run a real tokenize and a real recommend; the service is ready when both have succeeded."""
        for name, check in (("tokenize", self._check_tokenize), ("recommend", self._check_recommend)):
            started = time.perf_counter()
            try:
                await check()
            except Exception as error:
                # Bugs are caught too; otherwise the service would stay in "starting" for ever, without a reason.
                self.checks[name] = f"failed: {error}"
                self._log.exception("readiness check failed", check=name)
                return
            self.checks[name] = PASSED
            milliseconds = round(1000 * (time.perf_counter() - started), 1)
            self._log.info("readiness check passed", check=name, milliseconds=milliseconds)
        if self.state is State.STARTING:
            self.state = State.READY
            self._log.info("ready", bundle=self.manifest.name, generation=self.manifest.generation, items=self.items)

    async def _check_tokenize(self) -> None:
        await self.tokenizing.tokenize([PROBE], probe=True)

    async def _check_recommend(self) -> None:
        found = await self.recommending.recommend(RecommendQuery(history=(PROBE,), k=1), probe=True)
        # An empty catalogue is not a failure: a new installation registers its first items through the service.
        if not found.items and self.items:
            raise ModelError(f"the catalogue holds {self.items} items, but none could be recommended")

    @property
    def store_up(self) -> bool:
        """Whether the catalogue store answered when it was last asked for changes."""
        return self.checks["store"] != STORE_FAILED

    @property
    def store_writable(self) -> bool:
        """Whether the catalogue store, as far as is known, accepts changes."""
        return self.store_up and not self.writing.refused

    def following(self) -> AbstractContextManager[None]:
        """Follow the changes of other replicas while the block runs."""
        return following(
            self.catalogue,
            self.settings.refresh_seconds,
            self._store_failed,
            answered=self._store_answers,
            reread=self._reread,
            compare_seconds=self.settings.compare_seconds,
            compared=self._compared,
        )

    def _store_failed(self, error: Exception) -> None:
        """Record that the store could not be asked for changes; readiness stays, since memory still serves."""
        if self.store_up:
            self._log.warning("changes of other replicas could not be fetched", exc_info=error)
        self.checks["store"] = STORE_FAILED
        self.metrics.store_failed("read")

    def _store_answers(self) -> None:
        if not self.store_up:
            self._log.info("the store answers again", seconds=round(time.monotonic() - self._store_answered, 1))
        self._store_answered = time.monotonic()
        self.writing.probe()
        self.checks["store"] = STORE_REFUSES if self.writing.refused else PASSED

    def _reread(self, reason: Reread) -> None:
        self.metrics.reread(reason)
        self._log.warning("the catalogue was read anew", reason=reason, items=self.items)

    def _compared(self, agreement: Agreement) -> None:
        self.metrics.compared(agreement)
        if agreement is Agreement.UNPROVEN:
            self._log.error("the store's counts or fingerprints are wrong; run `unitok catalogue repair`")

    def require_open(self) -> None:
        """Refuse new work once the service is stopping.

        Raises
        ------
        NotReady : the service is stopping
        """
        if self.state is State.STOPPING:
            raise NotReady("the service is stopping; another replica, or this one in a moment, takes the request")

    async def drain(self) -> None:
        """Give load balancers notice, then refuse new work and wait for running work, as long as the settings say."""
        self.state = State.DRAINING
        self._log.info("draining", requests=self.admission.requests, items=self.admission.items)
        await asyncio.sleep(self.settings.drain_notice_seconds)
        self.state = State.STOPPING
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                await self.admission.idle.wait()
        except TimeoutError:
            self._log.warning("drain time is over", requests=self.admission.requests, items=self.admission.items)

    async def close(self) -> None:
        """Finish the queued work and end the threads."""
        self.state = State.STOPPING
        for batcher in (self._encoding.batcher, self._searching.batcher):
            await asyncio.to_thread(batcher.close, self.settings.drain_seconds)
        await asyncio.to_thread(self.writing.close)
        self.explaining.close()
        self._log.info("stopped")
