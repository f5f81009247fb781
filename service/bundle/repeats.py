"""Learned score bonus of repeated items: items of the history get a bonus by recency and frequency.

Part of the manifest; training, evaluation and the service share this rule. Independent of searches.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Number = Annotated[float, Field(allow_inf_nan=False)]
Item = TypeVar("Item", bound=Hashable)


class LearnedRepeats(BaseModel):
    """Score bonus of a history item in one domain: bonus - recency ln(ago) + frequency ln(times).

    A plain number is accepted too and means `bonus` alone.

    Attributes
    ----------
    bonus : added for every item of the history; below zero where items are not repeated
    recency : decrease per unit of ln(ago), `ago` being the position from the newest item, which is 1
    frequency : increase per unit of ln(times), `times` being the number of occurrences
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    bonus: Number
    recency: Number = 0.0
    frequency: Number = 0.0

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return {"bonus": value} if isinstance(value, (int, float)) else value

    def gains(self, ago: ArrayLike, times: ArrayLike) -> NDArray[np.float64]:
        """Bonuses of m items: `ago` (1: the newest) and `times`, both [m] -> float64 [m]."""
        found: NDArray[np.float64] = self.bonus - self.recency * np.log(ago) + self.frequency * np.log(times)
        return found

    def scaled(self, factor: float) -> LearnedRepeats:
        """The same rule with all coefficients multiplied, for scores in other units."""
        return LearnedRepeats(
            bonus=self.bonus * factor, recency=self.recency * factor, frequency=self.frequency * factor
        )


def met(history: Sequence[Item]) -> dict[Item, tuple[int, int]]:
    """Item -> (position of its last occurrence, 1 for the newest; number of occurrences); history oldest first."""
    found: dict[Item, tuple[int, int]] = {}
    for ago, item in enumerate(reversed(history), start=1):
        latest, times = found.get(item, (ago, 0))
        found[item] = latest, times + 1
    return found
