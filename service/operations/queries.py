"""Requests to the operations, as plain values.

Separate from the operations, so that parsing a request, in a server or in a client, needs no networks. Knows nothing of
how requests are carried out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.catalogue.records import ItemKey
from service.items import ItemContent, compose_text


@dataclass(frozen=True, slots=True, eq=False)
class ItemInput:
    """An item as a caller describes it.

    Attributes
    ----------
    item_id : None where it need not be named
    embedding : float [D], used in place of the text
    """

    domain: str
    item_id: str | None
    content: ItemContent
    embedding: NDArray[np.float64] | None = None

    @property
    def has_content(self) -> bool:
        """Whether there is anything to compute a semantic ID from."""
        return self.embedding is not None or bool(compose_text(self.content))


@dataclass(frozen=True, slots=True)
class RecommendQuery:
    """A request to recommend; None selects the default described in `service/operations/recommending.py`.

    Attributes
    ----------
    history : oldest first
    explain : whether results tell what each of their tokens adds to the score
    """

    history: tuple[ItemInput, ...]
    k: int = 10
    domains: tuple[str, ...] | None = None
    beam_width: int | None = None
    exclude_history: bool = True
    exclude: tuple[ItemKey, ...] = ()
    allow: tuple[ItemKey, ...] | None = None
    explain: bool = False
