"""The tokenize operation: items to semantic IDs, stored on request.

For an item in the catalogue the answer holds its published semantic ID, which never changes in a generation, even if
its content now gives another. For any other item it holds the ID computed from its content, with suffix 0 until it is
registered. Quantization error and expert weights are always computed from the content. Any valid domain name may be
used: tokenizing ignores it, and registering into a new domain creates it. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np

from service.catalogue.content import stored_content
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import ItemKey, NewItem
from service.catalogue.store_rules import MAX_NAME_BYTES
from service.errors import InvalidInput, SuffixExhausted, below
from service.limits import Limits
from service.metrics import Metrics
from service.operations.encoding import EncodedItem, Encoding
from service.operations.queries import ItemInput
from service.operations.writing import Writing
from service.overload.early_admission import EarlyAdmission
from service.semantic_ids import IntArray, SemanticId, TokenLayout

NAMED_REFUSALS = 5
"""Refused items named in one message."""


@dataclass(frozen=True, slots=True)
class TokenizedItem:
    """One item's semantic ID, with the tokenizer's error and router weights.

    Attributes
    ----------
    tokens : the tokens that represent the item in a history
    created : whether this call added the item to the catalogue
    """

    domain: str
    item_id: str | None
    semantic_id: SemanticId
    tokens: tuple[str, ...]
    quantization_error: float
    expert_weights: Mapping[str, float]
    created: bool


class Tokenizing:
    """The tokenize operation on one engine and one catalogue.

    Parameters
    ----------
    encoding : turns contents into codes
    catalogue, writing : the live catalogue, and the object that changes it
    layout : shape of the semantic IDs
    expert_names : names of the K experts
    early : admits the requests of this operation
    limits, metrics : shared with the other operations
    """

    def __init__(
        self,
        *,
        encoding: Encoding,
        catalogue: LiveCatalogue,
        writing: Writing,
        layout: TokenLayout,
        expert_names: Sequence[str],
        limits: Limits,
        early: EarlyAdmission,
        metrics: Metrics,
    ) -> None:
        self._encoding = encoding
        self._catalogue = catalogue
        self._writing = writing
        self._layout = layout
        self._expert_names = tuple(expert_names)
        self._limits = limits
        self._early = early
        self._metrics = metrics

    async def tokenize(
        self,
        items: Sequence[ItemInput],
        register: bool = False,
        fields: Sequence[str] | None = None,
        *,
        probe: bool = False,
    ) -> list[TokenizedItem]:
        """Tokenize items, in their order; with `register` they are stored, and recommendable on return.

        Parameters
        ----------
        fields : path of each item in the caller's data, for error messages; `items[0]` and so on if not given
        probe : a readiness check of the service itself; bypasses admission, so that load cannot make it fail

        Raises
        ------
        InvalidInput : an item is named twice, has no usable content, or is to be registered without an `item_id`
        LimitExceeded : there are too many items, or a text is too long
        Overloaded : the request was not admitted; nothing was done
        SuffixExhausted : some items, which the message names, could not be registered; all others were
        StoreUnavailable : nothing was acknowledged; repeating the call is safe
        """
        fields = fields or [f"items[{position}]" for position in range(len(items))]
        self._check(items, fields, register)
        with nullcontext() if probe else self._early.enter(len(items), self._encoding.expected(len(items))):
            encoded = await self._encoding.encode(items, fields)
            self._metrics.items("tokenized", len(items))
            if register:
                values, created = await self._register(items, encoded, fields)
            else:
                values, created = self._published(items, encoded), [False] * len(items)
        return [
            self._answer(item, said, row, new)
            for item, said, row, new in zip(items, encoded, values, created, strict=True)
        ]

    def check_size(self, items: int) -> None:
        """Refuse a request of too many items, given only their number.

        Raises
        ------
        LimitExceeded : there are too many
        """
        self._limits.check_count("items", items, self._limits.items_per_request)

    def _check(self, items: Sequence[ItemInput], fields: Sequence[str], register: bool) -> None:
        """Refuse invalid requests before any work is started."""
        self.check_size(len(items))
        seen: dict[ItemKey, int] = {}
        for position, (item, field) in enumerate(zip(items, fields, strict=True)):
            self._limits.check_content(field, item.content)
            if item.item_id is None:
                if register:
                    raise InvalidInput("is required to register an item", below(field, "item_id"))
                continue
            size = len(item.item_id.encode(errors="surrogatepass"))
            if register and size > MAX_NAME_BYTES:
                raise InvalidInput(
                    f"has {size} bytes in UTF-8, but at most {MAX_NAME_BYTES} are allowed", below(field, "item_id")
                )
            first = seen.setdefault(ItemKey(item.domain, item.item_id), position)
            if first != position:
                raise InvalidInput(
                    f"item {item.item_id!r} of domain {item.domain!r} is already at items[{first}]; "
                    "name each item once a request",
                    field,
                )

    def _published(self, items: Sequence[ItemInput], encoded: Sequence[EncodedItem]) -> list[IntArray]:
        """Published or computed semantic IDs, int32 [L + N + 1] each; stores nothing."""
        keys = [ItemKey(item.domain, item.item_id or "") for item in items]
        return [
            entry.values if entry is not None else np.concatenate([said.codes, said.experts, np.zeros(1, np.int32)])
            for entry, said in zip(self._catalogue.lookup(keys), encoded, strict=True)
        ]

    async def _register(
        self, items: Sequence[ItemInput], encoded: Sequence[EncodedItem], fields: Sequence[str]
    ) -> tuple[list[IntArray], list[bool]]:
        """Store the items; returns their semantic IDs and whether each is new."""
        new_items = [_new_item(item, said) for item, said in zip(items, encoded, strict=True)]
        registered = await self._writing.register(new_items)
        refused = np.flatnonzero(registered.refused)
        if refused.size:
            names = ", ".join(f"{fields[row]} ({items[row].item_id!r})".lstrip() for row in refused[:NAMED_REFUSALS])
            more = f" and {refused.size - NAMED_REFUSALS} more" if refused.size > NAMED_REFUSALS else ""
            raise SuffixExhausted(
                f"{names}{more}: {self._layout.suffixes} items of the domain have the same codes already, as many as "
                "the bundle can keep apart"
                + (f"; the other {len(items) - refused.size} items were registered" if len(items) > 1 else ""),
                {
                    fields[row]: f"{items[row].item_id!r} was not registered: no semantic ID is left for it"
                    for row in refused.tolist()
                    if fields[row]
                },
            )
        return list(registered.values), [bool(new) for new in registered.created]

    def _answer(self, item: ItemInput, said: EncodedItem, values: IntArray, created: bool) -> TokenizedItem:
        semantic_id = self._layout.semantic_id(values)
        return TokenizedItem(
            domain=item.domain,
            item_id=item.item_id,
            semantic_id=semantic_id,
            tokens=tuple(self._layout.token_names(semantic_id)),
            quantization_error=said.quantization_error,
            expert_weights=dict(zip(self._expert_names, map(float, said.gate), strict=True)),
            created=created,
        )


def _new_item(item: ItemInput, said: EncodedItem) -> NewItem:
    return NewItem(
        domain=item.domain,
        item_id=item.item_id or "",
        codes=tuple(map(int, said.codes)),
        experts=tuple(map(int, said.experts)),
        title=item.content.title,
        content=stored_content(item.content),
    )
