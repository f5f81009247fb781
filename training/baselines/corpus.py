"""What a baseline learns from and is asked: one domain's histories, split as for every other recommender.

Knows nothing of models.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import DomainData
from training.data.split import Split, Stretches, leave_one_out, training_stretches


@dataclass(frozen=True)
class Corpus:
    """One domain.

    Attributes
    ----------
    domain : its name
    items, users : how many there are
    history_items : int32 [interactions], users back to back
    split : the examples of validation and test
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
        """Split a domain; histories hold at most `max_history` items."""
        split = leave_one_out(domain.history_items, domain.history_starts, max_history)
        training = training_stretches(domain.history_starts)
        return cls(domain.name, len(domain.items), domain.users, domain.history_items, split, training)

    def interactions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users and items of the training part: two of int64 [n], in the order of time within a user."""
        lengths = self.training.stops - self.training.starts
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        at = np.repeat(self.training.starts, lengths) + within
        return np.repeat(self.training.users, lengths), self.history_items[at].astype(np.int64)

    def fingerprint(self) -> str:
        """SHA-256 of all that is learned from."""
        digest = hashlib.sha256(f"{self.domain} {self.items}".encode())
        digest.update(np.ascontiguousarray(self.history_items).data)
        digest.update(np.ascontiguousarray(self.training.stops).data)
        return digest.hexdigest()
