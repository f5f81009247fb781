"""The history of a recommendation request: which entries can be read, and what follows from them.

Rules where the contract leaves a choice:

- A history entry whose item is in the catalogue is read by its published semantic ID. Any other is tokenized from its
  content on the fly; without content it is unknown: reported, and not read. If nothing readable is left, the request is
  refused with the unknown names, because a recommendation without any history would be a mere guess.
- A recommender that reads a domain token gets that of the most recent history entry whose domain is searched, else of
  the first domain searched.

Knows nothing of queues, searching or HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from service.bundle.manifest import RecommenderPart
from service.catalogue.records import ItemKey, with_items
from service.errors import InvalidInput
from service.operations.queries import ItemInput
from service.operations.repeats import gains

NAMED_UNKNOWN = 20
"""Unknown items of a history named in one message."""


class Readable(NamedTuple):
    """A history entry that can be read: by its published ID if the item is `known`, else from its content."""

    position: int
    item: ItemInput
    known: bool


def read_history(
    history: Sequence[ItemInput], known: Sequence[bool], domains: Collection[str]
) -> tuple[list[Readable], tuple[ItemKey, ...]]:
    """Split a history into entries that can be read and keys of unknown items.

    Parameters
    ----------
    known : which entries are items of the catalogue
    domains : those that hold items

    Raises
    ------
    InvalidInput : an entry is empty, or none can be read
    """
    readable: list[Readable] = []
    unknown: list[ItemKey] = []
    for position, (item, is_known) in enumerate(zip(history, known, strict=True)):
        if is_known or item.has_content:
            readable.append(Readable(position, item, is_known))
        elif item.item_id is not None:
            unknown.append(key_of(item))
        else:
            raise InvalidInput("needs an item_id, text or an embedding", f"history[{position}]")
    if not readable:
        distinct = tuple(dict.fromkeys(unknown))
        names = ", ".join(f"{key.item_id!r} of {key.domain!r}" for key in distinct[:NAMED_UNKNOWN])
        if len(distinct) > NAMED_UNKNOWN:
            names += f" and {len(distinct) - NAMED_UNKNOWN} more"
        hint = "" if all(key.domain in domains for key in distinct) else f"; {with_items(domains)}"
        raise InvalidInput(
            f"none of its items is known: {names}; register them, or send their content{hint}"
            if unknown
            else "is empty; at least one item is needed",
            "history",
        )
    return readable, tuple(dict.fromkeys(unknown))


def unpublished(readable: Sequence[Readable], unknown: Sequence[ItemKey]) -> list[ItemKey]:
    """Keys in a history that were not in the catalogue when it was read; they may be registered before the search."""
    raw = (entry.item for entry in readable if not entry.known)
    return [*unknown, *(key_of(item) for item in raw if item.item_id is not None)]


def leading_domain(recent: Sequence[Readable], domains: Sequence[str]) -> str | None:
    """The domain whose token leads the history; None where no domain is searched."""
    searched = (entry.item.domain for entry in reversed(recent) if entry.item.domain in domains)
    return next(searched, domains[0] if domains else None)


def may_come_again(
    readable: Sequence[Readable],
    allowed: Sequence[ItemKey] | None,
    domains: Sequence[str],
    part: RecommenderPart,
) -> dict[ItemKey, float]:
    """Known items of a history that may be recommended again, with their repeat bonus.

    Entries read from content count as interactions when the bonuses are computed, but are not results.
    """
    keys = [key_of(entry.item) for entry in readable]
    learned = {name: part.repeats[name] for name in domains if name in part.repeats}
    found = gains(keys, learned, part.max_history)
    wanted = {key for key, entry in zip(keys, readable, strict=True) if entry.known}
    if allowed is not None:
        wanted &= set(allowed)
    return {key: gain for key, gain in found.items() if key in wanted}


def key_of(item: ItemInput) -> ItemKey:
    """Key of an entry; with an empty item_id, which no item has, if the caller gave none."""
    return ItemKey(item.domain, item.item_id or "")
