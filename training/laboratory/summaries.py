"""Rows of several seeds as one figure: mean, spread and how many.

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
    deviation : sample standard deviation; None for one seed, which says nothing of the spread
    seeds : how many
    """

    mean: float
    deviation: float | None
    seeds: int


@dataclass(frozen=True)
class Measured:
    """What a figure was measured of, seeds aside."""

    domain: str
    tokenizer: str
    recommender: str


Figures = dict[tuple[Level, str], Summary]
"""By level and metric."""


def summarised(rows: Iterable[Row], protocol: str, part: Part) -> dict[Measured, Figures]:
    """All figures of one part of a protocol, in the order in which the rows first name what was measured."""
    values: dict[Measured, dict[tuple[Level, str], list[float]]] = {}
    for row in rows:
        if (row.protocol, row.part) == (protocol, part):
            of = values.setdefault(Measured(row.domain, row.tokenizer, row.recommender), defaultdict(list))
            of[row.level, row.metric].append(row.value)
    return {measured: {name: summary(found) for name, found in figures.items()} for measured, figures in values.items()}


def summary(values: list[float]) -> Summary:
    """Mean and spread of at least one value."""
    return Summary(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
