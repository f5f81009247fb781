"""What callers ask for, as the operations take it.

Apart from the operations, so that reading a request, in a server or in a client, needs no networks. Knows nothing of
how it is carried out.
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
    embedding : float [D], stands in for the text
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
    """What a caller asks for; None leaves the choice to the rules above.

    Attributes
    ----------
    history : oldest first
    explain : say what each token of a result adds to its score
    """

    history: tuple[ItemInput, ...]
    k: int = 10
    domains: tuple[str, ...] | None = None
    beam_width: int | None = None
    exclude_history: bool = True
    exclude: tuple[ItemKey, ...] = ()
    allow: tuple[ItemKey, ...] | None = None
    explain: bool = False
