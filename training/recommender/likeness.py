"""Content vectors of tokens, by which a head over items scores likeness: rows of its table that are never trained.

Content is the items' embeddings in their principal components. Weaker components are amplified, since they distinguish
items of one domain. A row holds the mean residual content of its token, as in `content_start`. Works with any kind of
tokenizer. Knows nothing of files.

Symbols: I items, D width of an embedding, M width of the rows, H rows of the head's table (`token_tables.head_rows`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.semantic_ids import TokenLayout
from training.networks.token_tables import head_rows_of_items
from training.recommender.content_start import principal_components, row_vectors, token_vectors

LOUDER = 0.75
"""A component is divided by its standard deviation to this power: 1 would whiten, i.e. make all equally strong."""


def likeness_rows(layout: TokenLayout, tokens: Tensor, embeddings: NDArray[np.float32], width: int) -> Tensor:
    """The content vector of each row of the head's table.

    Parameters
    ----------
    tokens : int64 [I, L + N + 1]
    embeddings : float32 [I, D]
    width : M

    Returns
    -------
    float32 [H, M], scaled so that the items' sums of rows have a mean squared length of 1; zeros in rows that no item
    has
    """
    content = torch.from_numpy(principal_components(embeddings, width))
    deviations = content.std(dim=0, correction=0)
    rows = row_vectors(layout, tokens, content / deviations.clamp(min=1e-6) ** LOUDER)
    if not layout.expert_first:
        rows = token_vectors(layout, tokens, rows)
    squares = rows[head_rows_of_items(layout, tokens)].sum(dim=1).square().sum(dim=1)
    return rows / squares.mean().sqrt().clamp(min=1e-12)
