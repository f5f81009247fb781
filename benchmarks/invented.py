"""Invented titles: words that nobody's encoder has to guess, in an order that few others have.

Knows nothing of what they are used for.
"""

from __future__ import annotations

import numpy as np

FIRST = ("red", "old", "deep", "cold", "wild", "gold", "lost", "high", "thin", "dark", "salt", "wind", "moon", "rain")
SECOND = (
    *("lamp", "boat", "coat", "drum", "field", "glass", "harbour", "kettle", "ladder", "mirror", "needle", "orchard"),
    *("pocket", "quilt", "river", "saddle", "table", "umbrella", "violin", "window", "garden", "hammer", "island"),
)
WORDS = [*FIRST, *SECOND, *(f"{one}{other}" for one in FIRST for other in SECOND)]


def titles(count: int, random: np.random.Generator) -> list[str]:
    """So many titles of seven words."""
    drawn = random.integers(0, len(WORDS), (count, 7)).tolist()
    return [" ".join(WORDS[word] for word in row) for row in drawn]
