"""Reads and encodes a file in batches, in file order; contains the engine `local`, which uses one process.

Independent of stores and of who consumes the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from service.backfill.encoding import RowEncoder
from service.backfill.job import BackfillJob
from service.backfill.reading import read_records
from service.backfill.rows import Rejection, Row, RowReader
from service.catalogue.content import stored_content
from service.catalogue.records import NewItem
from service.engine.engine import EncodesTexts, TokenizesItems
from service.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of a file.

    Attributes
    ----------
    first : number of records in the file before these
    rows : valid rows, to be registered
    rejections : the other records
    last : whether this is the last batch of the file
    """

    first: int
    rows: Sequence[Row]
    rejections: Sequence[Rejection]
    last: bool

    @property
    def records(self) -> int:
        """Number of records."""
        return len(self.rows) + len(self.rejections)


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A batch, with one item to register per row."""

    batch: Batch
    items: Sequence[NewItem]


Encoding = Callable[[int], Generator[EncodedBatch, None, None]]
"""`encoding(skip)`: the batches of a file after its first `skip` records, each exactly once, in file order.

A `UnitokError` is raised after all batches that precede its cause. A caller that stops early must close the
generator.
"""


def read_batches(job: BackfillJob, width: int, skip: int) -> Iterator[Batch]:
    """Read the file after its first `skip` records; only the last batch may be empty.

    Parameters
    ----------
    width : D, required width of an embedding

    Raises
    ------
    InvalidInput : the rest of the file cannot be read, or, without `skip_bad`, a row is bad
    """
    reader = RowReader(job.columns, width)
    rows: list[Row] = []
    rejections: list[Rejection] = []
    for record in read_records(job.path, job.kind, list(job.columns.values()), skip):
        row = reader.read(record)
        if isinstance(row, Row):
            rows.append(row)
        elif job.skip_bad:
            rejections.append(row)
        else:
            raise InvalidInput(f"{job.path}: {row}; mend it, or pass over such rows with --skip-bad")
        if len(rows) + len(rejections) >= job.batch:
            batch = Batch(skip, rows, rejections, last=False)
            yield batch
            skip += batch.records
            rows, rejections = [], []
    yield Batch(skip, rows, rejections, last=True)


class BatchEncoder:
    """Computes codes and experts for the rows of batches.

    Parameters
    ----------
    domain : domain of the items
    text_encoder, item_tokenizer : from a bundle
    """

    def __init__(self, domain: str, text_encoder: EncodesTexts, item_tokenizer: TokenizesItems) -> None:
        self._domain = domain
        self._encoder = RowEncoder(domain, text_encoder, item_tokenizer)

    def encode(self, batch: Batch) -> EncodedBatch:
        """One item per row, in the same order."""
        items = [
            NewItem(
                domain=self._domain,
                item_id=row.item_id,
                codes=encoded.codes,
                experts=encoded.experts,
                title=row.content.title,
                content=stored_content(row.content),
            )
            for row, encoded in zip(batch.rows, self._encoder.encode(batch.rows), strict=True)
        ]
        return EncodedBatch(batch, items)


def encode_here(job: BackfillJob, text_encoder: EncodesTexts, item_tokenizer: TokenizesItems) -> Encoding:
    """The engine `local`: a thread reads the next batch while the caller's thread encodes the current one."""

    def batches(skip: int) -> Generator[EncodedBatch, None, None]:
        encoder = BatchEncoder(job.domain, text_encoder, item_tokenizer)
        read = read_batches(job, item_tokenizer.width, skip)
        with ThreadPoolExecutor(1, "backfill-read") as reader:
            reading = reader.submit(next, read)
            while True:
                batch = reading.result()
                if not batch.last:
                    reading = reader.submit(next, read)
                yield encoder.encode(batch)
                if batch.last:
                    return

    return batches
