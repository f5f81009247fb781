"""Exponential moving average of a network's weights, which ranks better than the weights of any single step.

It is stored in the optimiser's state, so checkpoints save it together with the moments. Knows nothing of networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

AVERAGE = "average"
"""Key of the average in the optimiser's state of a weight."""


class WeightAverage:
    """Exponential moving average of the weights of an optimiser.

    Parameters
    ----------
    optimizer : its state holds the average, once the first step is done
    decay : greatest share of the average that a step keeps; after t steps it is at most (1 + t) / (10 + t), so early
        steps keep less
    """

    def __init__(self, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self._optimizer, self._decay = optimizer, decay

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the current weights to the average, after `step` steps."""
        weights = [weight for weight in self._weights() if weight in self._optimizer.state]
        for weight in weights:
            self._optimizer.state[weight].setdefault(AVERAGE, weight.detach().clone())
        keep = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([self._average(weight) for weight in weights], weights, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Swap the average into the network while the context lasts; nothing may train within it."""
        averaged = [weight for weight in self._weights() if AVERAGE in self._optimizer.state.get(weight, {})]
        kept = [weight.detach().clone() for weight in averaged]
        self._put(averaged, [self._average(weight) for weight in averaged])
        try:
            yield
        finally:
            self._put(averaged, kept)

    @torch.no_grad()
    def _put(self, weights: list[Tensor], values: list[Tensor]) -> None:
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)

    def _weights(self) -> list[Tensor]:
        return [weight for group in self._optimizer.param_groups for weight in group["params"]]

    def _average(self, weight: Tensor) -> Tensor:
        found: Tensor = self._optimizer.state[weight][AVERAGE]
        return found
