"""The score bonus of history items of a domain, learned on validation with the scores of a recommender's head."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.repeats import LearnedRepeats
from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.measures.repeats import USERS, best_repeats
from training.measures.users import evaluated_users, split_for
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import TrainedRecommender
from training.recommender.exhaustive import scoring_states


@torch.inference_mode()
def learned_repeats(trained: TrainedRecommender, domain: DomainData, values: IntArray) -> LearnedRepeats | None:
    """The bonus of a domain, learned on validation, in units of a search's scores; None without a head over items.

    Parameters
    ----------
    values : int32 [I, L + N + 1], the semantic IDs of the domain
    """
    model = trained.model
    if not isinstance(model, SemanticT5):
        return None
    examples = evaluated_users(split_for(domain, trained.max_history).validation, USERS, 0)
    tokens = torch.from_numpy(trained.layout.tokens(values).astype(np.int64))
    vectors = model.item_vectors(tokens)

    def scored() -> Iterator[tuple[NDArray[np.float32], int, IntArray]]:
        for batch, states in scoring_states(trained, model, domain, values, examples):
            for row, user in zip((states @ vectors.T).numpy(), batch.tolist(), strict=True):
                history = domain.history_items[examples.starts[user] : examples.stops[user]]
                yield row, int(examples.targets[user]), history

    return best_repeats(scored()).scaled(model.item_share)
