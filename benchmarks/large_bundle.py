"""A bundle in the paper's shape, and a catalogue of millions of random items ready to be served with it.

Four levels of 256 codes, ten experts, a static text encoder (that of the sample bundle), a tokenizer that has learned
from invented titles for a moment, and a T5 of TIGER's size with random weights: nothing is sensible, every cost is
real. The catalogue lies in a saved index folder, as a service writes it, so that starting takes no store of that size.
Both are made once and kept. Knows nothing of what is measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.catalogues import LAYOUT, TITLE, random_items
from benchmarks.invented import titles
from benchmarks.recommenders import HEAD, PART, exported, random_model, random_model_of_items
from service.bundle.files import Bundle, hash_files, write_manifest
from service.bundle.manifest import MANIFEST, SCHEMA_VERSION, CataloguePart, Layout, Manifest
from service.catalogue.columns import ItemColumns
from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.engine.sessions import Runtime
from service.engine.text_encoder import TextEncoder
from service.id_columns import to_lists
from service.semantic_ids import IntArray
from training.export.item_tokenizer import export_item_tokenizer
from training.tokenizer.estimator import UniTok

DOMAIN = "shop"
LEARNED = 10_000
"""Invented titles that the tokenizer learns from."""

BATCH = 100_000
SAMPLE = Path("models/sample")


KNOWN = 100_000
"""Items that a recommender that reads items knows; the others are as if they had come after training."""


def large_bundle(folder: Path, items: int | None = None, head: float = HEAD) -> Path:
    """The bundle in `folder`, made if it is not there: some minutes.

    With a number of `items`, its recommender reads items, and knows the first `KNOWN` of a catalogue of so many;
    `head` is the share of its head in the scores.
    """
    bundle = folder / ("bundle" if items is None else f"bundle-reads-{items}-items{'-head' if head == 1 else ''}")
    if (bundle / MANIFEST).is_file():
        return bundle
    shutil.rmtree(bundle, ignore_errors=True)
    (bundle / "catalogue").mkdir(parents=True)
    sample = Bundle.open(SAMPLE)
    text = sample.manifest.text_encoder
    for name in (text.model, text.tokenizer):
        shutil.copyfile(sample.path(name), bundle / name)
    encoder = TextEncoder.open(bundle / text.model, bundle / text.tokenizer, text.max_tokens, Runtime("cpu", 0))
    vectors = encoder.encode(titles(LEARNED, np.random.default_rng(0)))
    domains = [f"domain {number % LAYOUT.experts}" for number in range(LEARNED)]
    tokenizer = UniTok(levels=LAYOUT.levels, codes=LAYOUT.codes, warmup_epochs=2, epochs=2, seed=0)
    part = export_item_tokenizer(tokenizer.fit(vectors, domains), bundle / "item_tokenizer.onnx")
    exported(random_model() if items is None else random_model_of_items(drawn(items)[:KNOWN], head), bundle)
    values = np.zeros((1, LAYOUT.depth), dtype=np.int32)
    first = {
        "item_id": ["the first"],
        "domain": ["others"],
        "title": ["A first item"],
        "codes": to_lists(values[:, : LAYOUT.levels]),
        "experts": to_lists(values[:, LAYOUT.levels : -1]),
        "suffix": values[:, -1],
    }
    pl.DataFrame(first).write_parquet(bundle / "catalogue" / "items.parquet")
    write_manifest(
        bundle,
        Manifest(
            schema_version=SCHEMA_VERSION,
            name="large",
            generation=1,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            description="Random weights in the paper's shape, for benchmarks",
            layout=Layout(
                levels=LAYOUT.levels,
                codes=LAYOUT.codes,
                experts=LAYOUT.experts,
                experts_per_item=LAYOUT.experts_per_item,
                suffixes=LAYOUT.suffixes,
            ),
            text_encoder=text,
            item_tokenizer=part,
            recommenders=[PART],
            catalogue=CataloguePart(items=1),
            files=hash_files(bundle),
        ),
    )
    return bundle


class _Drawn(EmbeddedStore):
    """A store that says that it also holds random items, numbered from 0."""

    def __init__(self, folder: Path, items: int) -> None:
        super().__init__(folder, "large", 1, LAYOUT)
        self._items = items

    def columns(self) -> Iterator[ItemColumns]:
        """The drawn items."""
        packed = LAYOUT.pack(LAYOUT.values(drawn(self._items)))
        for first in range(0, self._items, BATCH):
            part = packed[first : first + BATCH]
            names = [item_id(first + row).encode() for row in range(len(part))]
            domain = np.zeros(len(part), dtype=np.int32)
            yield ItemColumns((DOMAIN,), domain, names, part, [TITLE] * len(part))


def drawn(items: int) -> IntArray:
    """Tokens of so many drawn items: int32 [items, depth]."""
    return random_items(items, np.random.default_rng(0))


def item_id(number: int) -> str:
    """Of a drawn item."""
    return f"i{number:09}"


@dataclass(frozen=True, slots=True)
class LargeCatalogue:
    """Where a service finds the items.

    Attributes
    ----------
    settings : to be given to the service
    store : the store, which holds none of the items itself
    index : folder of the saved index
    """

    settings: dict[str, str]
    store: EmbeddedStore
    index: Path

    def live(self) -> LiveCatalogue:
        """The items, mapped into this process."""
        return LiveCatalogue(self.store, self.index)


def large_catalogue(folder: Path, items: int) -> LargeCatalogue:
    """So many items in `folder`, made if they are not there: 10 million take a minute and 4 GB of memory."""
    place = folder / f"{items}-items"
    store = _Drawn(place / "store", items)
    if not store.seeded():
        store.finish_seed()
    index = place / "index" / "large-1"  # as a service names the folder of a bundle's generation
    # Makes it, also in the place of one that was saved by an older version: the service's store could not.
    LiveCatalogue(store, index)
    settings = {
        "UNITOK_STORE": f"embedded:{place / 'store'}",
        "UNITOK_INDEX_FOLDER": str(index.parent),
        # The store would be found to lack the items, and be believed.
        "UNITOK_COMPARE_SECONDS": "86400",
    }
    return LargeCatalogue(settings, store, index)
