"""Learning rate schedule of a training that ends by steps or by time. Knows nothing of networks."""

from __future__ import annotations

import math
from typing import Literal


def finished_share(step: int, total_steps: int, elapsed: float, limit: float | None) -> float:
    """Finished share of the training, 0 to 1: the greater of the shares by steps and by seconds."""
    by_steps = step / total_steps
    by_time = 0.0 if limit is None else elapsed / limit
    return min(1.0, max(by_steps, by_time))


def rate_factor(step: int, done: float, warmup_steps: int, schedule: Literal["cosine", "inverse_sqrt"]) -> float:
    """Factor of the learning rate at a step.

    Parameters
    ----------
    step : steps made before this one
    done : finished share of the training, 0 to 1
    warmup_steps : steps over which the factor rises linearly to 1
    schedule : "cosine" reaches 0 when `done` is 1; "inverse_sqrt" depends on the step alone
    """
    warm = min(1.0, (step + 1) / warmup_steps)
    if schedule == "cosine":
        return warm * 0.5 * (1.0 + math.cos(math.pi * done))
    return warm * math.sqrt(warmup_steps / max(warmup_steps, step + 1))
