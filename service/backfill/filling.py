"""Registers the encoded batches of a file in a store, in order, while the next ones are read and encoded.

A checkpoint is written only after a batch was acknowledged. A run that is killed in between repeats one batch, which
changes nothing, since registering is idempotent: nothing is lost, no ID is given twice. There is a single writer, which
keeps the file's order, so IDs do not depend on where batches are encoded. Independent of the command line, of the kind
of store and of how batches are encoded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any

from service.backfill.batches import EncodedBatch, Encoding
from service.backfill.job import BackfillJob
from service.backfill.report import Tally
from service.backfill.rows import Kind, Rejection, Row
from service.catalogue.store import CatalogueStore
from service.errors import SuffixExhausted

Advance = Callable[[Tally, int], None]
"""`advance(tally, records)`: called after each checkpoint with the counts and the records done since the last call."""


def run_backfill(
    job: BackfillJob,
    store: CatalogueStore,
    encoding: Encoding,
    advance: Advance = lambda tally, records: None,
) -> Tally:
    """Register the file's items; resumes an unfinished run on the same content, and restarts after a finished one.

    Parameters
    ----------
    encoding : reads and encodes the job's file

    Raises
    ------
    InvalidInput : the file cannot be read, or, without `skip_bad`, a row is bad; batches before it are stored
    SuffixExhausted : without `skip_bad`, an item's group is full; the rest of its batch is stored
    StoreUnavailable : the store does not answer; start again when it does
    """
    job.check_columns()
    return _Run(job, store, advance).to_the_end(encoding)


class _Run:
    def __init__(self, job: BackfillJob, store: CatalogueStore, advance: Advance) -> None:
        self._job = job
        self._store = store
        self._advance = advance
        self._name = job.checkpoint_name()
        saved = store.checkpoint(self._name)
        tally = Tally.from_json(saved) if saved is not None else Tally()
        self._tally = Tally() if tally.finished else tally
        self._clock = time.perf_counter()

    def to_the_end(self, encoding: Encoding) -> Tally:
        """Store each batch on a separate thread while waiting for the next one.

        Batches are stored one at a time, in file order, each before its checkpoint. After a failure, all earlier
        batches are stored.
        """
        self._advance(self._tally, self._tally.records)
        with ThreadPoolExecutor(1, "backfill-store") as storer:
            storing: Future[None] | None = None
            with closing(encoding(self._tally.records)) as batches:
                try:
                    for encoded in batches:
                        if storing is not None:
                            storing.result()
                        storing = storer.submit(self._finish_batch, encoded)
                finally:
                    if storing is not None:
                        storing.result()
        return self._tally

    def _finish_batch(self, encoded: EncodedBatch) -> None:
        """Register the rows, then write a checkpoint that includes the rejected rows."""
        tally, batch, items = self._tally, encoded.batch, encoded.items
        rejections = list(batch.rejections)
        if items:
            registered = self._store.register(items)
            full = [self._full(row) for row, refused in zip(batch.rows, registered.refused, strict=True) if refused]
            if full and not self._job.skip_bad:
                raise SuffixExhausted(f"{self._job.path}: {full[0]}; pass over such rows with --skip-bad")
            created = int(registered.created.sum())
            tally.created += created
            tally.present += len(items) - created - len(full)
            rejections += full
        for rejection in rejections:
            tally.reject(rejection, str(self._job.path))
        tally.records += batch.records
        tally.finished = batch.last
        now = time.perf_counter()
        tally.seconds, self._clock = tally.seconds + now - self._clock, now
        self._store.save_checkpoint(self._name, tally.to_json())
        self._advance(tally, batch.records)

    def _full(self, row: Row) -> Rejection:
        reason = (
            f"item {row.item_id!r} has the codes of {self._store.layout.suffixes} items of the domain, as many as the "
            "bundle can keep apart"
        )
        return Rejection(Kind.SUFFIX_EXHAUSTED, row.row, self._job.columns["item_id"], reason)


def describe(job: BackfillJob, store: CatalogueStore) -> dict[str, Any]:
    """The part of a report that describes the job."""
    status = store.status()
    return {
        "stage": "backfill",
        "input": str(job.path),
        "domain": job.domain,
        "store": status.where,
        "generation": status.generation,
        "items_in_domain": status.items.get(job.domain, 0),
    }
