"""How well codes alone reconstruct embeddings: by a least-squares vector per code, whatever a kind's decoder.

Symbols: n items, L levels, N experts an item, D embedding width, C codes in use. Knows nothing of tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse import csr_matrix

from service.semantic_ids import IntArray
from training.ids.counts import groups_of
from training.ids.quality import first_experts, relative_error

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

MOST_CODES = 8192
"""Upper limit of C: the normal equations take 8 C^2 bytes, and solving them C^3 / 3 multiply-adds."""
SAYS_NOTHING = 1.0
"""Ridge penalty: each code gets this many extra items at the mean, so that a code of one item does not memorise it."""


@dataclass(frozen=True)
class CodeError:
    """Squared errors of sums of code vectors, each divided by the spread of the same items about their mean.

    Attributes
    ----------
    learned : over the items that the vectors were fitted to
    held_out : over the others; None if there are none
    """

    learned: float
    held_out: float | None


def code_error(embeddings: FloatArray, codes: IntArray, experts: IntArray, learned: BoolArray) -> CodeError | None:
    """Fit a vector to every code of every level by least squares, and measure how well their sums fit the embeddings.

    An item is decoded as the mean plus L vectors, the form of residual quantisation, with the best vectors for these
    codes. The same code under two experts counts as two codes. A code that no learned item has gets a zero vector.

    Parameters
    ----------
    embeddings : float32 [n, D]
    codes, experts : int32 [n, L] and [n, N]
    learned : bool [n], at least one true

    Returns
    -------
    None if more than `MOST_CODES` codes are in use.
    """
    rows = np.concatenate([first_experts(experts)[:, None], codes], axis=1)
    columns, used = np.empty(codes.shape, dtype=np.int64), 0
    for level in range(codes.shape[1]):
        columns[:, level] = used + groups_of(rows[:, [0, 1 + level]])
        used = int(columns[:, level].max()) + 1
    if used > MOST_CODES:
        return None
    ends = np.arange(len(rows) + 1) * codes.shape[1]
    has = csr_matrix((np.ones(columns.size), columns.reshape(-1), ends), (len(rows), used))
    mean = embeddings[learned].mean(axis=0, dtype=np.float64)
    fitted = has[learned]
    counted = (fitted.T @ fitted).toarray() + SAYS_NOTHING * np.eye(used)
    vectors = solve(counted, fitted.T @ (embeddings[learned] - mean), assume_a="pos", overwrite_a=True)
    decoded = (has @ vectors + mean).astype(np.float32)
    held_out = ~learned
    return CodeError(
        learned=relative_error(embeddings[learned], decoded[learned]),
        held_out=relative_error(embeddings[held_out], decoded[held_out]) if held_out.any() else None,
    )
