"""What tests of whole backfills have in common: a file of items that need suffixes, the command, what a store holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tiny_graphs import WORDS

from service.bundle.files import Bundle
from service.catalogue.records import StoredItem
from service.catalogue.store import CatalogueStore

DOMAIN = "films"
BATCH = 8
MAPPING = "item_id=sku"
BROKEN = (100, 1500, 2999)
"""Records of `write_items` that are no items."""


def write_items(path: Path, rows: int) -> Path:
    """Items of which many have equal codes; some lines are no items."""
    chance = random.Random(0)
    lines = [json.dumps({"sku": f"i{n}", "title": " ".join(chance.choices(WORDS, k=3))}) for n in range(rows)]
    for place in BROKEN:
        if place < rows:
            lines[place] = "broken"
    path.write_text("\n".join(lines))
    return path


def command(items: Path, bundle: Bundle, url: str, *more: str) -> subprocess.Popen[str]:
    """The real command, started."""
    what = [str(items), "--domain", DOMAIN, "--map", MAPPING, "--batch", str(BATCH)]
    where = ["--bundle", str(bundle.folder), "--store", url]
    return subprocess.Popen(
        [sys.executable, "-m", "service.cli.main", "backfill", *what, *where, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "UNITOK_THREADS": "1"},
    )


def content(store: CatalogueStore) -> dict[str, StoredItem]:
    """All live items of a store, by id."""
    return {item.item_id: item for batch in store.scan() for item in batch}
