"""In-memory state of a catalogue: table, constraint index, census and fingerprints, changed and saved together.

Only one thread at a time may change a state; views of it are immutable. Independent of stores and of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.catalogue.census import Census
from service.catalogue.columns import ItemColumns, rows_of_each
from service.catalogue.fingerprint import Fingerprints
from service.catalogue.records import ItemKey, StoredItem
from service.catalogue.table import CatalogueTable
from service.catalogue.view import CatalogueView
from service.errors import SavedIndexError
from service.index.saving import load_arrays, save_arrays
from service.index.trie import CodeTrie
from service.semantic_ids import TokenLayout

IntArray = NDArray[np.int32]

SAVED_TABLE, SAVED_TRIE, SAVED_CENSUS = "table_", "trie_", "census_"


def shared_levels(layout: TokenLayout) -> int:
    """Levels at which items that are alone share what follows: the last code, the experts behind it, the suffix."""
    return 2 if layout.expert_first else layout.experts_per_item + 2


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """The live items of one moment: their rows int32 [n], and their fingerprints."""

    rows: IntArray
    fingerprints: Fingerprints


class LiveState:
    """All items in memory, as a view for searches and a table for look-ups.

    Attributes
    ----------
    table : items by key and by ordinal
    census : usage of the token space
    fingerprints : fingerprints of the items
    view : what searches read; replaced at every change (copy-on-write)
    """

    def __init__(
        self,
        layout: TokenLayout,
        table: CatalogueTable,
        trie: CodeTrie,
        census: Census,
        fingerprints: Fingerprints,
    ) -> None:
        self._layout = layout
        self._trie = trie
        domains = {domain: number for number, domain in enumerate(table.domains())}
        self._domains: Mapping[str, int] = domains
        self.table = table
        self.census = census
        self.fingerprints = fingerprints
        self.view = CatalogueView(table, layout, trie.state, domains)

    @classmethod
    def of(cls, layout: TokenLayout, table: CatalogueTable, fingerprints: Fingerprints) -> LiveState:
        """Build the index and census over all live items of a table."""
        domains = table.domains()
        ordinals, roots = table.rows()
        values = table.values(ordinals)
        census = Census(layout)
        for domain, rows in zip(domains, rows_of_each(roots, len(domains)), strict=True):
            census.add(domain, values[rows])
        trie = CodeTrie.from_tokens(layout.tokens(values), roots, ordinals, len(domains), shared_levels(layout))
        return cls(layout, table, trie, census, fingerprints)

    @classmethod
    def read(cls, layout: TokenLayout, batches: Iterable[ItemColumns]) -> LiveState:
        """Build the state from the whole content of a store."""
        table, fingerprints = CatalogueTable(layout), Fingerprints()
        for batch in batches:
            table.add(batch)
            fingerprints.toggle_all(batch)
        return cls.of(layout, table, fingerprints)

    @classmethod
    def load(cls, layout: TokenLayout, folder: Path, about: Mapping[str, Any]) -> tuple[LiveState, dict[str, Any]]:
        """Memory-map what `save` wrote; returns it with its metadata.

        Raises
        ------
        SavedIndexError : nothing is there, it is damaged, or its metadata differs from `about`
        """
        arrays, said = load_arrays(folder, about)
        try:
            table = CatalogueTable.from_arrays(layout, _named(arrays, SAVED_TABLE), said["domains"])
            census = Census.from_arrays(layout, said["domains"], _named(arrays, SAVED_CENSUS))
            trie = CodeTrie.from_saved(_named(arrays, SAVED_TRIE))
            return cls(layout, table, trie, census, Fingerprints(said["fingerprints"])), said
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise SavedIndexError(f"{folder}: arrays are missing or do not fit: {error!r}") from None

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the state with the metadata `about`, required by `load`; the state must not change meanwhile."""
        arrays = {SAVED_TABLE + name: array for name, array in self.table.arrays().items()}
        arrays |= {SAVED_TRIE + name: array for name, array in self._trie.to_save().items()}
        domains = self.table.domains()
        arrays |= {SAVED_CENSUS + name: array for name, array in self.census.arrays(domains).items()}
        fingerprints = self.fingerprints.values()
        save_arrays(folder, arrays, {**about, "domains": domains, "fingerprints": fingerprints})

    def frozen(self) -> Frozen:
        """Snapshot of the live items; the state must not change meanwhile."""
        rows, _ = self.table.rows()
        return Frozen(rows, Fingerprints(self.fingerprints.values()))

    def compacted(self, frozen: Frozen) -> LiveState:
        """A compacted copy of those items, with new ordinals; this state may change meanwhile."""
        return LiveState.of(self._layout, self.table.compacted(frozen.rows), frozen.fingerprints)

    def slack(self) -> float:
        """Greatest unused share among the index's edges, the table's rows and the texts."""
        return max(self._trie.slack(), self.table.slack())

    def nbytes(self) -> dict[str, int]:
        """Bytes in use of the index, of the table's columns and of its texts."""
        columns, texts = self.table.nbytes()
        return {"index": self._trie.nbytes(), "columns": columns, "texts": texts}

    def apply(self, states: Mapping[ItemKey, StoredItem | None]) -> bool:
        """Apply the given item states atomically; idempotent. False if nothing changed.

        Raises
        ------
        InvalidInput : an item's new ID belongs to another item; no item was added
        """
        table = self.table
        gone: list[ItemKey] = []
        retitled: list[tuple[int, str | None]] = []
        added: list[StoredItem] = []
        for key, item in states.items():
            ordinal = table.ordinal(key)
            if ordinal is None:
                added += [] if item is None else [item]
            elif item is None:
                gone.append(key)
            elif not table.has_id(ordinal, item.packed):
                # Happens only if the store was emptied and filled again.
                gone.append(key)
                added.append(item)
            elif table.title(ordinal) != item.title:
                retitled.append((ordinal, item.title))
        for ordinal, title in retitled:
            table.retitle(ordinal, title)
        if gone or added:
            self._change(gone, added)
        return bool(gone or retitled or added)

    def _change(self, gone: Sequence[ItemKey], added: Sequence[StoredItem]) -> None:
        table, trie = self.table, self._trie
        lost = [ordinal for key in gone if (ordinal := table.ordinal(key)) is not None]
        lost_domains, new_domains = [key.domain for key in gone], [item.domain for item in added]
        if unknown := {domain: None for domain in new_domains if domain not in self._domains}:
            self._domains = {**self._domains, **{domain: trie.add_root() for domain in unknown}}
            # Before the table counts their first items: a domain found there must be searchable.
            self.view = CatalogueView(table, self._layout, trie.state, self._domains)
        columns = ItemColumns.of(added)
        rows = np.asarray(table.next_rows(len(added)), dtype=np.int32)
        old, new = table.values(lost), self._layout.unpack(columns.packed)
        lost_roots, new_roots = self._roots(lost_domains), self._roots(new_domains)
        # First the step that may be refused, without any change; readers see it only with the new view.
        trie.change((lost_roots, self._layout.tokens(old)), (new_roots, self._layout.tokens(new), rows))
        for key in gone:
            table.remove(key)
        table.add(columns)
        for key, number in zip(gone, self._layout.pack(old).tolist(), strict=True):
            self.fingerprints.toggle(*key, number)
        self.fingerprints.toggle_all(columns)
        for domain, places in _places(lost_domains).items():
            self.census.remove(domain, old[places])
        for domain, places in _places(new_domains).items():
            self.census.add(domain, new[places])
        self.view = CatalogueView(table, self._layout, trie.state, self._domains)

    def _roots(self, domains: Sequence[str]) -> IntArray:
        return np.array([self._domains[domain] for domain in domains], dtype=np.int32)


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    """The positions of each name."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


def _named(arrays: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
