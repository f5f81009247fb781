"""Sensitivity to parameters: the figures of an experiment's sweeps over the values that were tried.

Knows nothing of drawing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from training.laboratory.entries import parse_variant
from training.laboratory.rows import NONE, Level, Part, Row
from training.laboratory.summaries import Summary, summarised

SHOWN: dict[tuple[Part, Level, str], str] = {
    ("validation", "item", "ndcg_10"): "NDCG@10, validation",
    ("items", "id", "sharing_beyond_equal_content"): "sharing an ID beyond equal content",
    ("items", "id", "relative_reconstruction_error"): "relative reconstruction error",
}
"""Metrics that are drawn. Parameters are chosen on validation, so test metrics are not included."""


@dataclass(frozen=True)
class Response:
    """One metric in one domain, over one parameter.

    Attributes
    ----------
    parameter, metric, label : names of the axes and of the line
    values : numbers in rising order, or texts in order of appearance
    figures : one per value
    """

    parameter: str
    metric: str
    label: str
    values: tuple[float | str, ...]
    figures: tuple[Summary, ...]


def responses(rows: Iterable[Row], protocol: str) -> dict[str, list[Response]]:
    """All sweeps of a protocol, by entry and parameter, such as `unitok-levels`."""
    rows = list(rows)
    points: dict[_Line, dict[str, Summary]] = defaultdict(dict)
    for (part, level, metric), title in SHOWN.items():
        for of, figures in summarised(rows, protocol, part).items():
            if (level, metric) not in figures:
                continue
            for swept, beside in ((of.tokenizer, of.recommender), (of.recommender, of.tokenizer)):
                variant = parse_variant(swept)
                if variant is not None:
                    name, parameter, value = variant
                    label = of.domain if beside == NONE else f"{of.domain}, {beside}"
                    points[_Line(name, parameter, title, label)][value] = figures[level, metric]
    found: dict[str, list[Response]] = defaultdict(list)
    for line, by_value in points.items():
        response = Response(line.parameter, line.metric, line.label, *_ordered(by_value))
        found[f"{line.name}-{line.parameter}"].append(response)
    return dict(found)


@dataclass(frozen=True)
class _Line:
    name: str
    parameter: str
    metric: str
    label: str


def _ordered(by_value: dict[str, Summary]) -> tuple[tuple[float | str, ...], tuple[Summary, ...]]:
    """Values and figures, sorted by value if all values are numbers."""
    known = {value: number for value in by_value if (number := _number(value)) is not None}
    if len(known) < len(by_value):
        return tuple(by_value), tuple(by_value.values())
    rising = sorted(known, key=lambda value: known[value])
    return tuple(known[value] for value in rising), tuple(by_value[value] for value in rising)


def _number(text: str) -> float | None:
    """The text as a number; None if it is not one."""
    try:
        return float(text)
    except ValueError:
        return None
