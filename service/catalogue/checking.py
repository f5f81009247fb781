"""Checks a store's derived data (counts, fingerprints, suffix counters) against its items, and repairs it.

The items are the source of truth. Two items with the same ID, or an invalid ID, can be reported but not repaired:
nothing tells what would be right. Independent of the kind of store and of networks.

Symbols: n items, L levels, N experts chosen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.catalogue.columns import ItemColumns
from service.catalogue.content import read_content
from service.catalogue.fingerprint import Fingerprints
from service.catalogue.records import ItemKey, StoredItem, Totals
from service.catalogue.store import CatalogueStore
from service.errors import StoreUnavailable
from service.items import ItemContent
from service.semantic_ids import IntArray, TokenLayout

ATTEMPTS = 3
"""Passes over the items; a pass is valid only if nothing changes during it."""

EXAMPLES = 5
"""Items named in one finding."""

IdsOf = Callable[[Sequence[str], Sequence[ItemContent]], IntArray]
"""Computes codes and experts from domains and contents, int32 [n, L + N]."""

Counter = tuple[str, int, int]
"""Domain, ID with suffix 0, minimum number of suffixes allocated."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency; `mendable` if the correct value can be computed from the items."""

    what: str
    mendable: bool


@dataclass(frozen=True, slots=True)
class Examination:
    """What an examination found.

    Attributes
    ----------
    totals : counts and fingerprints computed from the items
    deleted : tombstones, that is, deleted items that keep their IDs
    counters : suffix counters that are too low, with the minimum correct value
    compared, other_id : live items with stored content, and how many of them would get other codes today; not a fault,
        since an item keeps its ID when its content is renewed
    """

    totals: Totals
    deleted: int
    findings: tuple[Finding, ...]
    counters: tuple[Counter, ...]
    compared: int | None = None
    other_id: int | None = None


def examine(store: CatalogueStore, ids_of: IdsOf | None = None) -> Examination:
    """Examine every item of a store.

    Parameters
    ----------
    ids_of : recomputes the IDs from the stored contents, to be compared; None skips the comparison

    Raises
    ------
    StoreUnavailable : it does not answer, or changed during every attempt
    """
    for _ in range(ATTEMPTS):
        before = store.totals()
        log = _read_log(store, before.head)
        walk = _Walk(store.layout, log.keys, ids_of)
        for batch in store.rows():
            walk.take(batch)
        counters = _low_counters(store, walk)
        if store.head() == before.head:
            return walk.examination(before, [*log.findings], counters)
    raise StoreUnavailable("the catalogue kept changing while it was examined; stop what registers items, and repeat")


def repair(store: CatalogueStore) -> Examination:
    """Repair what can be computed from the items; returns the findings from before the repair.

    Raises
    ------
    StoreUnavailable : it does not answer, or changed during every attempt
    NotReady : the bundle's own catalogue is not complete
    """
    for _ in range(ATTEMPTS):
        found = examine(store)
        if not any(finding.mendable for finding in found.findings) or store.mend(found.totals, found.counters):
            return found
    raise StoreUnavailable("the catalogue kept changing while it was repaired; stop what registers items, and repeat")


@dataclass(frozen=True, slots=True)
class _Log:
    keys: set[ItemKey]
    findings: list[Finding]


def _read_log(store: CatalogueStore, head: int) -> _Log:
    """Read the whole change log up to `head`."""
    keys: set[ItemKey] = set()
    at = head - store.status().log_length
    while at < head:
        changes = store.changes(at)
        if changes.gap:
            text = f"change log: a change between {at} and {head} is missing"
            return _Log(keys, [Finding(text, mendable=False)])
        keys.update(changes.keys)
        at = changes.last
    return _Log(keys, [])


@dataclass(slots=True)
class _Walk:
    """Data accumulated during one pass over the items."""

    layout: TokenLayout
    unseen: set[ItemKey]
    ids_of: IdsOf | None
    packed: defaultdict[str, list[NDArray[np.uint64]]] = field(default_factory=lambda: defaultdict(list))
    ids: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    live: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    findings: list[Finding] = field(default_factory=list)
    deleted: int = 0
    compared: int = 0
    other_id: int = 0

    def take(self, batch: Sequence[StoredItem]) -> None:
        by_domain: defaultdict[str, list[StoredItem]] = defaultdict(list)
        for item in batch:
            by_domain[item.domain].append(item)
            self.unseen.discard(item.key)
        for domain, items in by_domain.items():
            packed = np.array([item.packed for item in items], dtype=np.uint64)
            self._check_range(items, packed)
            self.packed[domain].append(packed)
            self.ids[domain] += [item.item_id for item in items]
            lives = [item for item in items if item.live]
            self.live[domain] += len(lives)
            self.deleted += len(items) - len(lives)
            self.fingerprints.toggle_all(ItemColumns.of(lives))
        if self.ids_of is not None:
            self._compare([item for item in batch if item.live and item.content], self.ids_of)

    def _check_range(self, items: Sequence[StoredItem], packed: NDArray[np.uint64]) -> None:
        values = self.layout.unpack(packed)
        wrong = (values >= np.asarray(self.layout.position_sizes)).any(axis=1)
        used = sum(max(1, (size - 1).bit_length()) for size in self.layout.position_sizes)
        wrong |= np.array([number >> used != 0 for number in packed.tolist()], dtype=bool)
        for row in np.flatnonzero(wrong)[:EXAMPLES]:
            text = f"{_name(items[row].key)} has the ID {items[row].packed:#x}, which is none of the layout"
            self.findings.append(Finding(text, mendable=False))

    def _compare(self, items: Sequence[StoredItem], ids_of: IdsOf) -> None:
        if items:
            contents = [read_content(item.title, item.content) for item in items]
            given = ids_of([item.domain for item in items], contents)
            has = self.layout.unpack(np.array([item.packed for item in items], dtype=np.uint64))[:, :-1]
            self.compared += len(items)
            self.other_id += int((given != has).any(axis=1).sum())

    def domain_ids(self, domain: str) -> NDArray[np.uint64]:
        return np.concatenate(self.packed[domain])

    def examination(self, kept: Totals, findings: list[Finding], counters: Sequence[Counter]) -> Examination:
        findings += self.findings
        for domain in sorted(self.packed):
            findings += self._doubles(domain)
        items = {domain: count for domain, count in self.live.items() if count}
        totals = Totals(kept.head, items, self.fingerprints.values())
        for domain in sorted(items.keys() | kept.items.keys()):
            if items.get(domain) != kept.items.get(domain):
                text = f"domain {domain!r}: the store counts {kept.items.get(domain, 0)} items, but holds "
                findings.append(Finding(f"{text}{items.get(domain, 0)}", mendable=True))
        for domain in sorted(totals.fingerprints.keys() | kept.fingerprints.keys()):
            if totals.fingerprints.get(domain) != kept.fingerprints.get(domain):
                findings.append(Finding(f"domain {domain!r}: the fingerprint is not that of its items", mendable=True))
        for domain, base, used in counters[:EXAMPLES]:
            text = f"domain {domain!r}: the group of ID {base:#x} has given away {used} suffixes, but counts fewer"
            findings.append(Finding(text, mendable=True))
        if self.unseen:
            named = ", ".join(map(_name, sorted(self.unseen)[:EXAMPLES]))
            text = f"change log: names {len(self.unseen)} items that are not in the table: {named}"
            findings.append(Finding(text, mendable=False))
        content = (self.compared, self.other_id) if self.ids_of is not None else (None, None)
        return Examination(totals, self.deleted, tuple(findings), tuple(counters), *content)

    def _doubles(self, domain: str) -> list[Finding]:
        ids = self.domain_ids(domain)
        values, counts = np.unique(ids, return_counts=True)
        found = []
        for value in values[counts > 1][:EXAMPLES]:
            names = ", ".join(repr(self.ids[domain][row]) for row in np.flatnonzero(ids == value)[:EXAMPLES])
            found.append(Finding(f"domain {domain!r}: the ID {int(value):#x} names {names}", mendable=False))
        return found


def _low_counters(store: CatalogueStore, walk: _Walk) -> list[Counter]:
    """Suffix counters that are too low for the items of their group; such a group would allocate an ID twice."""
    kept = store.suffixes_used()
    if kept is None:
        return []
    counts: defaultdict[str, dict[int, int]] = defaultdict(dict)
    for batch in kept:
        for domain, base, used in batch:
            counts[domain][base] = used
    low = []
    for domain in sorted(walk.packed):
        ids = np.unique(walk.domain_ids(domain))
        suffixes = walk.layout.unpack(ids)[:, -1]
        bases = ids - suffixes.astype(np.uint64)
        # IDs are sorted, so the last of a group has the greatest suffix.
        last = np.append(bases[1:] != bases[:-1], True)
        for base, suffix in zip(bases[last].tolist(), suffixes[last].tolist(), strict=True):
            if counts[domain].get(base, 0) <= suffix:
                low.append((domain, base, suffix + 1))
    return low


def _name(key: ItemKey) -> str:
    return f"item {key.item_id!r} of domain {key.domain!r}"
