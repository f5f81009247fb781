"""Combines rows of several seeds into one figure: mean, spread and number of seeds.

Knows nothing of tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from training.laboratory.rows import Level, Part, Row


@dataclass(frozen=True)
class Summary:
    """One figure over its seeds.

    Attributes
    ----------
    mean : of the values
    deviation : sample standard deviation; None for a single seed
    seeds : number of seeds
    """

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Measured:
    """What was measured, apart from the seed."""

    domain: str
    tokenizer: str
    recommender: str


Figures = dict[tuple[Level, str], Summary]
"""By level and metric."""


def summarised(rows: Iterable[Row], protocol: str, part: Part) -> dict[Measured, Figures]:
    """All figures of one part of a protocol, in the order in which they first appear in the rows."""
    values: dict[Measured, dict[tuple[Level, str], list[float]]] = {}
    for row in rows:
        if (row.protocol, row.part) == (protocol, part):
            of = values.setdefault(Measured(row.domain, row.tokenizer, row.recommender), defaultdict(list))
            of[row.level, row.metric].append(row.value)
    return {measured: {name: summary(found) for name, found in figures.items()} for measured, figures in values.items()}


def summary(values: list[float]) -> Summary:
    """Mean and spread of at least one value."""
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
