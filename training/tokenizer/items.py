"""The training data of a tokenizer: embeddings, domains, and further inputs of some kinds.

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
    """Further inputs of some kinds, of n items; None: not given.

    Attributes
    ----------
    titles : n strings
    categories : n category paths, the broadest category first
    collaborative : float32 [n, C], vectors from interactions alone; a row of zeros for an item without any
    """

    titles: Sequence[str] | None = None
    categories: Sequence[Sequence[str]] | None = None
    collaborative: FloatArray | None = None

    def of(self, rows: NDArray[np.bool_]) -> Extras:
        """The inputs of a subset of the items, by a mask bool [n]."""
        return Extras(
            titles=None if self.titles is None else list(compress(self.titles, rows)),
            categories=None if self.categories is None else list(compress(self.categories, rows)),
            collaborative=None if self.collaborative is None else self.collaborative[rows],
        )


@dataclass(frozen=True)
class TrainingItems:
    """The items to train on.

    Attributes
    ----------
    embeddings : float32 [n, D]
    domains : int64 [n], numbers of domains
    names : name of each domain
    extras : of the same n items
    """

    embeddings: Tensor
    domains: Tensor
    names: tuple[str, ...]
    extras: Extras = Extras()


def checked_embeddings(embeddings: NDArray[Any], width: int | None) -> FloatArray:
    """Check embeddings and convert them to float32 [n, D], contiguous; None accepts any width.

    Raises
    ------
    InvalidInput : they are no floats [n, D], have another width, or a row (named) is not finite
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
