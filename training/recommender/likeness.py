"""What tokens stand for, so that a head over items can tell which items are alike: rows that are never trained.

Content is the items' embeddings by their principal components, the weaker ones made louder, for they tell items of one
domain apart. A row holds what its token says of that beyond the tokens before it, as `content_start` has it. Any kind
of tokenizer will do. Knows nothing of files.

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
"""Power of its deviation by which a component is divided: 1 would make all equal."""


def likeness_rows(layout: TokenLayout, tokens: Tensor, embeddings: NDArray[np.float32], width: int) -> Tensor:
    """What each row of the head's table says of what is alike.

    Parameters
    ----------
    tokens : int64 [I, L + N + 1]
    embeddings : float32 [I, D]
    width : M

    Returns
    -------
    float32 [H, M], whose sums of the items have a mean square length of 1; zeros where no item has the row
    """
    content = torch.from_numpy(principal_components(embeddings, width))
    deviations = content.std(dim=0, correction=0)
    rows = row_vectors(layout, tokens, content / deviations.clamp(min=1e-6) ** LOUDER)
    if not layout.expert_first:
        rows = token_vectors(layout, tokens, rows)
    squares = rows[head_rows_of_items(layout, tokens)].sum(dim=1).square().sum(dim=1)
    return rows / squares.mean().sqrt().clamp(min=1e-12)
