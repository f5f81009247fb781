"""Which ID generation of a bundle is current, kept in the store that all replicas share.

Each generation's catalogue holds a number; the generation with the highest is current. A switch raises one number in a
single write, so readers always see exactly one current generation. Independent of who serves the generations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from service.catalogue.opening import open_store, stored_generations
from service.catalogue.store import CatalogueStore
from service.errors import GenerationIncomplete, UnknownGeneration

TURN = "current generation"
"""Checkpoint that holds a generation's number."""


@dataclass(frozen=True, slots=True)
class Switched:
    """Result of a switch; `before` is None if no generation had ever been made current."""

    bundle: str
    before: int | None
    current: int


def turn(store: CatalogueStore) -> int:
    """A generation's number; 0 if it was never made current."""
    return int(store.checkpoint(TURN) or 0)


def current_of(turns: Mapping[int, int]) -> int | None:
    """The generation with the highest number, the later one on a tie; None if none was ever made current."""
    number, generation = max((turn, generation) for generation, turn in turns.items())
    return generation if number else None


def make_current(stores: Mapping[int, CatalogueStore], generation: int) -> int | None:
    """Switch to a generation; services pick this up at their next poll. Returns the previous current generation.

    Parameters
    ----------
    stores : all existing generations of the bundle
    generation : the generation to make current

    Raises
    ------
    GenerationIncomplete : its catalogue is not complete
    StoreUnavailable : nothing was switched
    """
    if not stores[generation].seeded():
        raise GenerationIncomplete(
            f"generation {generation}: its catalogue is not complete, so it cannot be made current"
        )
    turns = {number: turn(store) for number, store in stores.items()}
    before = current_of(turns)
    if before != generation:
        stores[generation].save_checkpoint(TURN, str(max(turns.values()) + 1))
    return before


@contextmanager
def stores_of(url: str, bundle: str, *, serving: bool = False) -> Iterator[dict[int, CatalogueStore]]:
    """The stores of every generation of a bundle that is not dropped; `serving` as in `open_store`."""
    with ExitStack() as stack:
        yield {
            each.number: stack.enter_context(
                closing(open_store(url, bundle, each.number, each.layout, serving=serving))
            )
            for each in stored_generations(url)
            if each.bundle == bundle and not each.dropped
        }


def require_generation(bundle: str, generation: int, stores: Mapping[int, CatalogueStore]) -> None:
    """Refuse a generation that does not exist.

    Raises
    ------
    UnknownGeneration : the message lists the existing generations
    """
    if generation not in stores:
        there = ", ".join(map(str, sorted(stores))) or "none"
        raise UnknownGeneration(
            f"{bundle}:{generation} is not in the store, or was dropped; the store has generations: {there}"
        )


def switch(url: str, bundle: str, generation: int, *, serving: bool = False) -> Switched:
    """Make a generation of a bundle the current one, in the store that a URL names.

    Raises
    ------
    UnknownGeneration : the store does not hold it
    GenerationIncomplete : its catalogue is not complete
    StoreUnavailable : nothing was switched
    """
    with stores_of(url, bundle, serving=serving) as stores:
        require_generation(bundle, generation, stores)
        return Switched(bundle, make_current(stores, generation), generation)
