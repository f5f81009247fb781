"""How far a training has come and what it has seen: all of a checkpoint that is no tensor; and since the last look.

Knows nothing of networks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Progress:
    """Counts of a training; JSON.

    Attributes
    ----------
    epoch, position : the batch to go on with, and the epoch it belongs to
    step : optimiser steps made
    elapsed : seconds of training, over all starts
    best : greatest validation NDCG@10 so far, -1 before the first
    best_step : step of it
    validations_without_best : in a row, at the end
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
        """Count a validation of the step that is reached; whether it is better than all before."""
        if ndcg_10 > self.best:
            self.best, self.best_step, self.validations_without_best = ndcg_10, self.step, 0
            return True
        self.validations_without_best += 1
        return False


@dataclass
class Tally:
    """What was trained on since the last validation."""

    losses: list[Tensor] = field(default_factory=list)
    examples: int = 0
    started: float = field(default_factory=time.perf_counter)
