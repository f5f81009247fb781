"""Initial token vectors of a recommender, computed from the content of the items that carry each token.

The vector of a code is the mean, over the items that carry it, of the residual content that the codes before it do not
explain. So before any training the sum of an item's vectors is close to its content. Content is the items' embeddings,
reduced to the network's width by PCA. Works with any kind of tokenizer, since it needs only items, their tokens and
their embeddings. Knows nothing of files.

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
"""Weight of the origin in every mean, in items: the vector of a code with one item is then not its whole residual."""


def principal_components(embeddings: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Embeddings [I, D], centred, in their first `width` principal components (zeros beyond D): [I, width], with
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
    float32 [R, M]; zeros in rows that no item has, and in rows of tokens that are no codes
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
    """Mix content into the tables of an untrained network.

    Parameters
    ----------
    tokens : int64 [I, L + N + 1], of the training items, which a network that reads items knows
    embeddings : float32 [I, D]
    share : weight of content in a vector; the random vector gets the weight that keeps the length about the same
    """
    content = torch.from_numpy(principal_components(embeddings, network.config.d_model))
    rows = row_vectors(layout, tokens, content)
    vectors = token_vectors(layout, tokens, rows)
    with torch.no_grad():
        if isinstance(network, SemanticT5):
            # At random initialisation the sum of an item's vectors has standard deviation HEAD_SCALE. The content that
            # they do not explain goes into the vector of the whole ID.
            encoder, read = network.encoder, rows[rows_of_items(layout, tokens)].sum(dim=1)
            known = encoder.known_rows(network.hash_parts[tokens].sum(dim=1))
            _mix(encoder.reader.weight, HEAD_SCALE * rows, share)
            encoder.reader_own.weight[known] = share * HEAD_SCALE * (content - read)
            scored = rows if layout.expert_first else vectors
            _mix(network.item_head.weight, HEAD_SCALE * scored, share)
            summed = scored[head_rows_of_items(layout, tokens)].sum(dim=1)
            network.item_own.weight[known] = share * HEAD_SCALE * (content - summed)
        _mix(network.shared.weight, _levelled(layout, vectors), share)


def token_vectors(layout: TokenLayout, tokens: Tensor, rows: Tensor) -> Tensor:
    """Rows of all experts [R, M] -> their means by token, weighted by number of items: float32 [V, M]."""
    row_of = rows_of_items(layout, tokens)[:, code_positions(layout)].flatten()
    token_of = tokens[:, code_positions(layout)].flatten()
    counts = torch.zeros(layout.vocabulary).index_add(0, token_of, torch.ones(len(token_of)))
    sums = torch.zeros(layout.vocabulary, rows.shape[1]).index_add(0, token_of, rows[row_of])
    return sums / counts.clamp(min=1)[:, None]


def _levelled(layout: TokenLayout, vectors: Tensor) -> Tensor:
    """Scale the vectors to standard deviation 1 within each level, since the decoder only has to distinguish codes of
    the same level."""
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
