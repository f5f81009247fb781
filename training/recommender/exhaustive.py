"""Ranks by the item head over all items of a domain, without a search: the best that a search could reach.

Symbols: n users, B batch, I items of the domain, L levels, N experts an item.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.data.split import Examples
from training.measures.histories import batched_histories
from training.measures.ranking import ScoredRanks
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import TrainedRecommender

BATCH = 256


def scoring_states(
    trained: TrainedRecommender, model: SemanticT5, domain: DomainData, values: IntArray, examples: Examples
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Batches of example numbers, int64 [B], with the state after each history, float32 [B, width], longest first.

    The product of a state with an item's vector is the item's score. For inference only: no gradients.

    Parameters
    ----------
    model : the network of `trained`
    values : int32 [I, L + N + 1], the semantic IDs of the domain
    """
    for batch, history in batched_histories(
        trained.layout, domain, values, examples, max_history=trained.max_history, size=BATCH
    ):
        read, mask = torch.from_numpy(history.tokens), torch.from_numpy(history.mask)
        with torch.inference_mode():
            states = model.scoring_state(model.encoder(read, mask), read, mask)
        yield batch, states


@torch.inference_mode()
def scored_ranks(
    trained: TrainedRecommender, domain: DomainData, values: IntArray, examples: Examples
) -> ScoredRanks | None:
    """Rank of each target by the recommender's item head, in the middle of equal scores; None if it has no such head.

    Parameters
    ----------
    values : int32 [I, L + N + 1], the semantic IDs of the domain
    """
    model, layout = trained.model, trained.layout
    if not isinstance(model, SemanticT5):
        return None
    tokens = torch.from_numpy(layout.tokens(values).astype(np.int64))
    vectors, as_new = model.item_vectors(tokens), model.vectors_of_tokens(tokens)
    ranks = ScoredRanks(*np.zeros((2, len(examples)), dtype=np.int64))
    for batch, states in scoring_states(trained, model, domain, values, examples):
        targets = torch.from_numpy(examples.targets[batch].astype(np.int64))[:, None]
        scores = states @ vectors.T
        of_known = scores.gather(1, targets)
        scores.scatter_(1, targets, -torch.inf)
        ranks.known[batch] = _places(scores, of_known)
        of_new = (states * as_new[targets[:, 0]]).sum(dim=1, keepdim=True)
        ranks.new[batch] = _places(scores, of_new)
    return ranks


def _places(scores: Tensor, wanted: Tensor) -> NDArray[np.int64]:
    """Number of items with a higher score, plus half of those with the same: float32 [B, I], [B, 1] -> [B]."""
    places: NDArray[np.int64] = ((scores > wanted).sum(dim=1) + (scores == wanted).sum(dim=1) // 2).numpy()
    return places
