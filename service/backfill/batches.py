"""A file in batches: read, encoded and handed on in its order. Here is how one process does it, the engine `local`.

Knows nothing of stores, nor of who keeps what comes out.
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
    """Some records of a file.

    Attributes
    ----------
    first : records of the file before these
    rows : what is to be registered
    rejections : the others
    last : whether the file ends here
    """

    first: int
    rows: Sequence[Row]
    rejections: Sequence[Rejection]
    last: bool

    @property
    def records(self) -> int:
        """How many they are."""
        return len(self.rows) + len(self.rejections)


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """A batch, and an item to register for each of its rows."""

    batch: Batch
    items: Sequence[NewItem]


Encoding = Callable[[int], Generator[EncodedBatch, None, None]]
"""`encoding(skip)`: the batches of a file after its first `skip` records, none left out or repeated, in its order.

A `UnitokError` comes after all batches before the place where it arose. Whoever stops before the end closes the
generator.
"""


def read_batches(job: BackfillJob, width: int, skip: int) -> Iterator[Batch]:
    """The file from a record on; the last batch alone may be empty.

    Parameters
    ----------
    width : D, what an embedding must have

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
    """Gives the rows of batches their codes and experts.

    Parameters
    ----------
    domain : what the items belong to
    text_encoder, item_tokenizer : from a bundle
    """

    def __init__(self, domain: str, text_encoder: EncodesTexts, item_tokenizer: TokenizesItems) -> None:
        self._domain = domain
        self._encoder = RowEncoder(domain, text_encoder, item_tokenizer)

    def encode(self, batch: Batch) -> EncodedBatch:
        """One item a row, in their order."""
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
    """The engine `local`: a thread reads a batch while the caller's thread encodes the one before it."""

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
