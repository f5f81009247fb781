"""What a head over items says of every item of a domain, no search between: what its searches could find at best.

Symbols: n users, B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from service.engine.history_tokens import history_tokens
from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.data.split import Examples
from training.networks.semantic_t5 import SemanticT5, last_state
from training.networks.t5 import TrainedRecommender

BATCH = 256


@torch.inference_mode()
def judged_ranks(
    trained: TrainedRecommender, domain: DomainData, values: IntArray, examples: Examples
) -> NDArray[np.int64] | None:
    """How many items a recommender's head puts before each target, int64 [n]; None where it has no head.

    Parameters
    ----------
    values : int32 [items, L + N + 1], the semantic IDs of the domain
    """
    model, layout = trained.model, trained.layout
    if not isinstance(model, SemanticT5):
        return None
    vectors = model.item_vectors(torch.from_numpy(layout.tokens(values).astype(np.int64)))
    ranks = np.zeros(len(examples), dtype=np.int64)
    by_length = np.argsort(examples.starts - examples.stops, kind="stable")
    for at in range(0, len(by_length), BATCH):
        batch = by_length[at : at + BATCH]
        parts = [domain.history_items[examples.starts[user] : examples.stops[user]] for user in batch]
        row_splits = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
        lead = np.full(len(batch), layout.domain_token(domain.name), dtype=np.int64) if layout.domains else None
        history = history_tokens(layout, values[np.concatenate(parts)], row_splits, trained.max_history, lead)
        encoded = model.encoder(torch.from_numpy(history.tokens), torch.from_numpy(history.mask))
        scores = last_state(encoded.last_hidden_state, encoded.mask) @ vectors.T
        targets = torch.from_numpy(examples.targets[batch].astype(np.int64))[:, None]
        ranks[batch] = (scores > scores.gather(1, targets)).sum(dim=1).numpy()
    return ranks
