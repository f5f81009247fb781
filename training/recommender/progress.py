"""How far a training has come, and what it has seen: all of a checkpoint that is no tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
