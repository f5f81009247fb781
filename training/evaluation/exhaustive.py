"""What a head over items says of every item of a domain, no search between: what its searches could find at best.

Symbols: n users, B batch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.data.split import Examples
from training.evaluation.protocol import batched_histories
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
    for batch, history in batched_histories(
        layout, domain, values, examples, max_history=trained.max_history, size=BATCH
    ):
        encoded = model.encoder(torch.from_numpy(history.tokens), torch.from_numpy(history.mask))
        scores = last_state(encoded.last_hidden_state, encoded.mask) @ vectors.T
        targets = torch.from_numpy(examples.targets[batch].astype(np.int64))[:, None]
        ranks[batch] = (scores > scores.gather(1, targets)).sum(dim=1).numpy()
    return ranks
