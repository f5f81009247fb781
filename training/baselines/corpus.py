"""The data of a baseline: one domain's histories, split as for every other recommender.

Knows nothing of models.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import DomainData
from training.data.split import Interactions, Split, Stretches, training_stretches
from training.measures.users import split_for


@dataclass(frozen=True)
class Corpus:
    """One domain.

    Attributes
    ----------
    domain : its name
    items, users : their numbers
    history_items : int32 [interactions], users back to back, oldest first
    split : the examples of training, validation and test
    training : the training part of every user
    """

    domain: str
    items: int
    users: int
    history_items: NDArray[np.int32]
    split: Split
    training: Stretches

    @classmethod
    def of(cls, domain: DomainData, max_history: int) -> Corpus:
        """Split a domain for a baseline that reads `max_history` items of a history."""
        split, training = split_for(domain, max_history), training_stretches(domain.history_starts)
        return cls(domain.name, len(domain.items), domain.users, domain.history_items, split, training)

    def interactions(self) -> Interactions:
        """Users and items of the training part."""
        return self.training.interactions(self.history_items)

    def fingerprint(self) -> str:
        """SHA-256 of the training data."""
        digest = hashlib.sha256(f"{self.domain} {self.items}".encode())
        digest.update(np.ascontiguousarray(self.history_items).data)
        digest.update(np.ascontiguousarray(self.training.stops).data)
        return digest.hexdigest()
