"""Token vectors of a recommender that begin as what the tokens stand for.

The vector of a code is the mean content of the items that carry it, less what the codes before it already say: so the
sum of an item's vectors is close to its content before a single history was seen. Content is the items' embeddings,
brought to the network's width by their principal components. Any kind of tokenizer will do, since nothing but items,
their tokens and their embeddings is looked at. Knows nothing of files.

Symbols: I items, D width of an embedding, M model width, R rows of a table (`token_tables`), L levels, N experts an
item, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import T5ForConditionalGeneration

from service.semantic_ids import SPECIAL_TOKENS, TokenLayout
from training.networks.item_encoder import HEAD_SCALE
from training.networks.semantic_t5 import SemanticT5
from training.networks.token_tables import code_positions, head_rows_of_items, rows_of_items, table_rows

PRIOR = 0.5
"""Items at the origin that every mean counts besides its own: a code of one item does not take all that it has."""


def principal_components(embeddings: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Embeddings [I, D] about their mean, in their first `width` directions (zeros where D is less): [I, width], of
    standard deviation 1 over all numbers."""
    centred = embeddings - embeddings.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    reduced = np.zeros((len(centred), width), dtype=np.float32)
    kept = directions[:, ::-1][:, :width]
    reduced[:, : kept.shape[1]] = centred @ kept
    return reduced / max(float(reduced.std()), 1e-12)


def row_vectors(layout: TokenLayout, tokens: Tensor, content: Tensor) -> Tensor:
    """What each row of a table adds to the content of its items.

    Parameters
    ----------
    tokens : int64 [I, L + N + 1]
    content : float32 [I, M]

    Returns
    -------
    float32 [R, M]; zeros where no item has the row, and in rows that are no code's
    """
    vectors, left = torch.zeros(table_rows(layout), content.shape[1]), content.clone()
    for rows in rows_of_items(layout, tokens)[:, code_positions(layout)].T:
        counts = torch.zeros(len(vectors)).index_add(0, rows, torch.ones(len(rows)))
        sums = torch.zeros_like(vectors).index_add(0, rows, left)
        means = sums / (counts + PRIOR)[:, None]
        left -= means[rows]
        vectors += means
    return vectors


def start_from_content(
    network: T5ForConditionalGeneration,
    layout: TokenLayout,
    tokens: Tensor,
    embeddings: NDArray[np.float32],
    share: float,
) -> None:
    """Put content into a fresh network's tables.

    Parameters
    ----------
    tokens : int64 [I, L + N + 1], of the items of training, which a network that reads items knows
    embeddings : float32 [I, D]
    share : how much of a vector is content; the rest stays as drawn, so that its length does not change
    """
    content = torch.from_numpy(principal_components(embeddings, network.config.d_model))
    rows = row_vectors(layout, tokens, content)
    vectors = token_vectors(layout, tokens, rows)
    with torch.no_grad():
        if isinstance(network, SemanticT5):
            # As drawn, the sum of an item's vectors has deviation HEAD_SCALE; what they leave out is the ID's own.
            encoder, read = network.encoder, rows[rows_of_items(layout, tokens)].sum(dim=1)
            known = encoder.known_rows(network.hash_parts[tokens].sum(dim=1))
            _mix(encoder.reader.weight, HEAD_SCALE * rows, share)
            encoder.reader_own.weight[known] = share * HEAD_SCALE * (content - read)
            judged = rows if layout.expert_first else vectors
            _mix(network.item_head.weight, HEAD_SCALE * judged, share)
            summed = judged[head_rows_of_items(layout, tokens)].sum(dim=1)
            network.item_own.weight[known] = share * HEAD_SCALE * (content - summed)
        _mix(network.shared.weight, _levelled(layout, vectors), share)


def token_vectors(layout: TokenLayout, tokens: Tensor, rows: Tensor) -> Tensor:
    """Rows of all experts [R, M] -> their means by token, weighed by items: float32 [V, M]."""
    row_of = rows_of_items(layout, tokens)[:, code_positions(layout)].flatten()
    token_of = tokens[:, code_positions(layout)].flatten()
    counts = torch.zeros(layout.vocabulary).index_add(0, token_of, torch.ones(len(token_of)))
    sums = torch.zeros(layout.vocabulary, rows.shape[1]).index_add(0, token_of, rows[row_of])
    return sums / counts.clamp(min=1)[:, None]


def _levelled(layout: TokenLayout, vectors: Tensor) -> Tensor:
    """Every level's numbers of deviation 1, for the decoder tells a code from codes of its own level only."""
    levelled = torch.zeros_like(vectors)
    for level in range(layout.levels):
        own = slice(SPECIAL_TOKENS + level * layout.codes, SPECIAL_TOKENS + (level + 1) * layout.codes)
        used = (vectors[own] != 0).any(dim=1)
        if used.any():
            levelled[own] = vectors[own] / vectors[own][used].std().clamp(min=1e-12)
    return levelled


def _mix(table: Tensor, content: Tensor, share: float) -> None:
    known = (content != 0).any(dim=1, keepdim=True)
    table.copy_(torch.where(known, share * content + (1 - share**2) ** 0.5 * table, table))
