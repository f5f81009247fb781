"""The explain operation: why an item has its semantic ID, and which items have similar IDs.

The tokenizer is run on the item's content as it is stored now. If that gives another ID than the published one, the
answer says so (the content has changed, or the item was registered with more text than is stored, or as an embedding).
Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from service.catalogue.content import read_content
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey, not_found
from service.catalogue.table import CatalogueEntry
from service.catalogue.view import Neighbour
from service.operations.encoding import EncodedItem, Encoding
from service.operations.queries import ItemInput
from service.overload.admission import Admission

Read = TypeVar("Read")

READERS = 2
"""Threads that read the store for explanations."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Tokenizer output for the stored content.

    Attributes
    ----------
    agrees : whether codes and experts equal those of the published ID
    expert_weights : the router's weight of every expert
    """

    codes: tuple[int, ...]
    experts: tuple[int, ...]
    agrees: bool
    quantization_error: float
    expert_weights: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Explanation:
    """An item, the tokenizer's output for it (None: no content is stored that it could read), and similar items."""

    entry: CatalogueEntry
    computed: Computed | None
    alike: tuple[Neighbour, ...]


class Explaining:
    """The explain operation on one engine and one catalogue.

    Parameters
    ----------
    encoding : turns contents into codes
    catalogue : the live catalogue
    expert_names : names of the K experts
    admission : shared with the other operations
    """

    def __init__(
        self, *, encoding: Encoding, catalogue: LiveCatalogue, expert_names: Sequence[str], admission: Admission
    ) -> None:
        self._encoding = encoding
        self._catalogue = catalogue
        self._expert_names = tuple(expert_names)
        self._admission = admission
        # Not the event loop's default threads: a slow store must not use up the threads that count tokens of texts.
        self._reading = ThreadPoolExecutor(READERS, thread_name_prefix="catalogue-reader")

    def close(self) -> None:
        """Start no more reads; those in progress finish."""
        self._reading.shutdown(wait=False, cancel_futures=True)

    async def explain(self, key: ItemKey, count: int) -> Explanation:
        """Explain an item, with at most `count` similar items, longest common prefix of the IDs first.

        Raises
        ------
        ItemNotFound : the item is not in the catalogue
        Overloaded : the request was not admitted; nothing was done
        StoreUnavailable : the item's content cannot be read
        """
        with self._admission.enter(1, self._encoding.expected(1)):
            stored = (await self._read(self._catalogue.get, [key]))[0]
            entry = self._catalogue.lookup([key])[0]
            if stored is None or entry is None:
                raise not_found(key, self._catalogue.domains())
            item = ItemInput(key.domain, key.item_id, read_content(stored.title, stored.content))
            computed = None
            if item.has_content:
                computed = self._computed((await self._encoding.encode([item], ["item"]))[0], entry)
            alike = await self._read(self._catalogue.alike, key, count)
        return Explanation(entry, computed, tuple(alike))

    async def _read(self, read: Callable[..., Read], *arguments: Any) -> Read:
        return await asyncio.get_running_loop().run_in_executor(
            self._reading, partial(copy_context().run, read, *arguments)
        )

    def _computed(self, said: EncodedItem, entry: CatalogueEntry) -> Computed:
        codes, experts = tuple(map(int, said.codes)), tuple(map(int, said.experts))
        return Computed(
            codes=codes,
            experts=experts,
            agrees=(*codes, *experts) == tuple(entry.values[:-1].tolist()),
            quantization_error=said.quantization_error,
            expert_weights=dict(zip(self._expert_names, map(float, said.gate), strict=True)),
        )
