"""Fills a catalogue from a file: read, encode and register, three batches at a time, each in one of these stages.

A checkpoint is written after a batch was acknowledged, never before. A run that is killed in between repeats one batch,
which changes nothing, since registering is idempotent: nothing is lost, no ID is given twice. Knows nothing of the
command line, nor of which store it fills.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.backfill.encoding import RowEncoder
from service.backfill.reading import FileFormat, columns_of, read_records
from service.backfill.report import Tally
from service.backfill.rows import TEXT_FIELDS, Kind, Rejection, Row, RowReader
from service.bundle.files import sha256_of
from service.catalogue.content import stored_content
from service.catalogue.store import CatalogueStore, NewItem
from service.engine.engine import EncodesTexts, TokenizesItems
from service.errors import InvalidInput, SuffixExhausted

Advance = Callable[[Tally, int], None]
"""`advance(tally, records)`: told after each checkpoint how things stand and how many records were done since."""


@dataclass(frozen=True, slots=True)
class BackfillJob:
    """One file to bring into one domain.

    Attributes
    ----------
    path, kind : the file and its format
    columns : our name of a field -> the file's
    renamed : fields whose column the caller named, and which the file must therefore have
    domain : where the items go
    batch : items encoded and registered at a time
    skip_bad : count bad rows and go on, in place of stopping at the first
    """

    path: Path
    kind: FileFormat
    columns: Mapping[str, str]
    renamed: frozenset[str]
    domain: str
    batch: int
    skip_bad: bool

    def check_columns(self) -> None:
        """Look at the file's head.

        Raises
        ------
        InvalidInput : no such file, no such column, or no column to compute a semantic ID from
        """
        present = columns_of(self.path, self.kind)
        if present is None:
            return
        wanted = [self.columns[name] for name in ("item_id", *sorted(self.renamed))]
        for column in wanted:
            if column not in present:
                raise InvalidInput(f"{self.path}: has no column {column!r}, but {present}; see --map")
        if not any(self.columns[name] in present for name in (*TEXT_FIELDS, "embedding")):
            raise InvalidInput(
                f"{self.path}: none of the columns {present} holds text ({', '.join(TEXT_FIELDS)}) or an embedding; "
                "see --map"
            )

    def checkpoint_name(self) -> str:
        """Where progress is kept: by what the file holds, not by what it is called."""
        reading = json.dumps([self.kind, dict(sorted(self.columns.items()))])
        digest = hashlib.sha256((sha256_of(self.path) + reading).encode()).hexdigest()
        return f"backfill:{self.domain}:{digest}"


def run_backfill(
    job: BackfillJob,
    store: CatalogueStore,
    text_encoder: EncodesTexts,
    item_tokenizer: TokenizesItems,
    advance: Advance = lambda tally, records: None,
) -> Tally:
    """Bring the file in, going on where an unfinished run on the same content stopped; a finished one starts anew.

    Raises
    ------
    InvalidInput : the file cannot be read, or, without `skip_bad`, a row is bad; batches before it are stored
    SuffixExhausted : without `skip_bad`, an item's group is full; the rest of its batch is stored
    StoreUnavailable : the store does not answer; start again when it does
    """
    job.check_columns()
    return _Run(job, store, text_encoder, item_tokenizer, advance).to_the_end()


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows to register, and those rejected among them; `last` where the file ends here."""

    rows: Sequence[Row]
    rejections: Sequence[Rejection]
    last: bool


class _Run:
    def __init__(
        self,
        job: BackfillJob,
        store: CatalogueStore,
        text_encoder: EncodesTexts,
        item_tokenizer: TokenizesItems,
        advance: Advance,
    ) -> None:
        self._job = job
        self._store = store
        self._encoder = RowEncoder(text_encoder, item_tokenizer)
        self._advance = advance
        self._reader = RowReader(job.columns, item_tokenizer.width)
        self._name = job.checkpoint_name()
        saved = store.checkpoint(self._name)
        tally = Tally.from_json(saved) if saved is not None else Tally()
        self._tally = Tally() if tally.finished else tally
        self._clock = time.perf_counter()

    def to_the_end(self) -> Tally:
        """Read a batch, encode the one before it and store the one before that, all at the same time.

        At most three batches are in memory. They are stored one after another, in the order of the file, each before
        its checkpoint; when something fails, those before it have been stored.
        """
        self._advance(self._tally, self._tally.records)
        batches = self._batches()
        with ThreadPoolExecutor(1, "backfill-read") as reader, ThreadPoolExecutor(1, "backfill-store") as storer:
            storing: Future[None] | None = None
            reading = reader.submit(next, batches)
            try:
                while True:
                    batch = reading.result()
                    if not batch.last:
                        reading = reader.submit(next, batches)
                    items = self._tokenized(batch.rows)
                    if storing is not None:
                        storing.result()
                    storing = storer.submit(self._finish_batch, batch, items)
                    if batch.last:
                        break
            finally:
                if storing is not None:
                    storing.result()
        return self._tally

    def _batches(self) -> Iterator[_Batch]:
        """The file from where it is done on, in batches."""
        job = self._job
        rows: list[Row] = []
        rejections: list[Rejection] = []
        for record in read_records(job.path, job.kind, list(job.columns.values()), skip=self._tally.records):
            row = self._reader.read(record)
            if isinstance(row, Row):
                rows.append(row)
            elif job.skip_bad:
                rejections.append(row)
            else:
                raise InvalidInput(f"{job.path}: {row}; mend it, or pass over such rows with --skip-bad")
            if len(rows) + len(rejections) >= job.batch:
                yield _Batch(rows, rejections, last=False)
                rows, rejections = [], []
        yield _Batch(rows, rejections, last=True)

    def _finish_batch(self, batch: _Batch, items: Sequence[NewItem]) -> None:
        """Register the rows, then checkpoint them together with the rejected ones among them."""
        tally, rejections = self._tally, list(batch.rejections)
        done = len(batch.rows) + len(rejections)
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
        tally.records += done
        tally.finished = batch.last
        now = time.perf_counter()
        tally.seconds, self._clock = tally.seconds + now - self._clock, now
        self._store.save_checkpoint(self._name, tally.to_json())
        self._advance(tally, done)

    def _full(self, row: Row) -> Rejection:
        reason = (
            f"item {row.item_id!r} has the codes of {self._store.layout.suffixes} items of the domain, as many as the "
            "bundle can keep apart"
        )
        return Rejection(Kind.SUFFIX_EXHAUSTED, row.row, self._job.columns["item_id"], reason)

    def _tokenized(self, rows: Sequence[Row]) -> list[NewItem]:
        """Rows with their codes and experts."""
        return [
            NewItem(
                domain=self._job.domain,
                item_id=row.item_id,
                codes=encoded.codes,
                experts=encoded.experts,
                title=row.content.title,
                content=stored_content(row.content),
            )
            for row, encoded in zip(rows, self._encoder.encode(rows), strict=True)
        ]


def describe(job: BackfillJob, store: CatalogueStore) -> dict[str, Any]:
    """What a report says of the job itself."""
    status = store.status()
    return {
        "stage": "backfill",
        "input": str(job.path),
        "domain": job.domain,
        "store": status.where,
        "generation": status.generation,
        "items_in_domain": status.items.get(job.domain, 0),
    }
