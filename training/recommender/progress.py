"""Progress of a training, which is the part of a checkpoint that holds no tensors, and sums since the last validation.

Knows nothing of networks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Progress:
    """Counts of a training, serialisable as JSON.

    Attributes
    ----------
    epoch, position : the current epoch, and the number of its next batch
    step : optimiser steps made
    elapsed : seconds of training, over all starts
    best : greatest validation NDCG@10 so far, -1 before the first
    best_step : step of that validation
    validations_without_best : validations since the best one
    history : figures of every validation
    """

    epoch: int = 0
    position: int = 0
    step: int = 0
    elapsed: float = 0.0
    best: float = -1.0
    best_step: int = 0
    validations_without_best: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def validated(self, ndcg_10: float) -> bool:
        """Record a validation at the current step; returns whether it is the best so far."""
        if ndcg_10 > self.best:
            self.best, self.best_step, self.validations_without_best = ndcg_10, self.step, 0
            return True
        self.validations_without_best += 1
        return False


@dataclass
class Tally:
    """Losses, examples and start time since the last validation."""

    losses: list[Tensor] = field(default_factory=list)
    examples: int = 0
    started: float = field(default_factory=time.perf_counter)
