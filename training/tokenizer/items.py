"""What a tokenizer learns from: embeddings, domains, and what some kinds must know besides.

Knows nothing of kinds, files or data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.errors import InvalidInput

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Extras:
    """What some kinds must know of n items besides their embeddings; None: not known.

    Attributes
    ----------
    titles : n strings
    categories : n category paths, the widest category first
    collaborative : float32 [n, C], vectors made of interactions alone; a row of zeros where there was none
    """

    titles: Sequence[str] | None = None
    categories: Sequence[Sequence[str]] | None = None
    collaborative: FloatArray | None = None

    def of(self, rows: NDArray[np.bool_]) -> Extras:
        """The same of some of the items, bool [n]."""
        return Extras(
            titles=None if self.titles is None else list(compress(self.titles, rows)),
            categories=None if self.categories is None else list(compress(self.categories, rows)),
            collaborative=None if self.collaborative is None else self.collaborative[rows],
        )


@dataclass(frozen=True)
class TrainingItems:
    """What is learned from.

    Attributes
    ----------
    embeddings : float32 [n, D]
    domains : int64 [n], numbers of domains
    names : one a domain
    extras : of the same n items
    """

    embeddings: Tensor
    domains: Tensor
    names: tuple[str, ...]
    extras: Extras = Extras()


def checked_embeddings(embeddings: NDArray[Any], width: int | None) -> FloatArray:
    """Float32 [n, D], contiguous, all finite, of the width asked for.

    Raises
    ------
    InvalidInput : anything else; names the row
    """
    array = np.asarray(embeddings)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InvalidInput(f"embeddings have shape {array.shape} and type {array.dtype}, but must be floats [n, D]")
    if width is not None and array.shape[1] != width:
        raise InvalidInput(f"embeddings have {array.shape[1]} columns, but the tokenizer takes {width}")
    result: FloatArray = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        raise InvalidInput(f"embedding row {int(np.argmin(finite))} holds a value that is not finite")
    return result
