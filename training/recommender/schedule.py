"""The learning rate over a training that ends by steps or by the clock. Knows nothing of networks."""

from __future__ import annotations

import math
from typing import Literal


def finished_share(step: int, total_steps: int, elapsed: float, limit: float | None) -> float:
    """How much of the training is done, 0 to 1: by steps or by seconds, whichever is further."""
    by_steps = step / total_steps
    by_time = 0.0 if limit is None else elapsed / limit
    return min(1.0, max(by_steps, by_time))


def rate_factor(step: int, done: float, warmup_steps: int, schedule: Literal["cosine", "inverse_sqrt"]) -> float:
    """What to multiply the learning rate with at a step.

    Parameters
    ----------
    step : steps made before this one
    done : share of the training that is done, 0 to 1
    warmup_steps : steps over which the factor rises evenly to 1
    schedule : "cosine" reaches 0 when all is done; "inverse_sqrt" falls with the step alone
    """
    warm = min(1.0, (step + 1) / warmup_steps)
    if schedule == "cosine":
        return warm * 0.5 * (1.0 + math.cos(math.pi * done))
    return warm * math.sqrt(warmup_steps / max(warmup_steps, step + 1))
