"""What a recommender has learned of items that come again: what their scores gain, by when and how often they were met.

Part of the manifest, and the one rule for training, evaluation and the service. Knows nothing of searches.
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
    """Of one domain, what an item of the history gains: bonus - recency ln(ago) + frequency ln(times).

    A plain number is a bonus alone.

    Attributes
    ----------
    bonus : what every item of the history gains; below zero where items do not come again
    recency : how much less the longer ago it was met
    frequency : how much more the oftener it was met
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
        """What items gain that were met so long ago (1: the newest) and so often: two of [m] -> float64 [m]."""
        found: NDArray[np.float64] = self.bonus - self.recency * np.log(ago) + self.frequency * np.log(times)
        return found

    def scaled(self, factor: float) -> LearnedRepeats:
        """The same in other units of scores."""
        return LearnedRepeats(
            bonus=self.bonus * factor, recency=self.recency * factor, frequency=self.frequency * factor
        )


def met(history: Sequence[Item]) -> dict[Item, tuple[int, int]]:
    """Of each item of a history, oldest first: how long ago it was met last, 1 for the newest, and how often."""
    found: dict[Item, tuple[int, int]] = {}
    for ago, item in enumerate(reversed(history), start=1):
        latest, times = found.get(item, (ago, 0))
        found[item] = latest, times + 1
    return found
