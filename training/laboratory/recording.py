"""Figures of a finished stage as rows.

Reads `figures.json` as the stages write it, and nothing else of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.laboratory.planned import PlannedStage
from training.laboratory.rows import EVERY, NONE, POPULARITY, Level, Part, Row

REMOVED = "_history_removed"
"""Follows a metric that was measured with the items of the history taken out of the lists."""

REPEATS = "_with_repeats"
"""Follows a metric of a baseline that has learned of its domain whether items come again."""


@dataclass(frozen=True)
class Recorder:
    """Makes the rows of one stage.

    Attributes
    ----------
    protocol : of the experiment
    stage : whose figures they are
    commit, seconds : see `Row`
    """

    protocol: str
    stage: PlannedStage
    commit: str
    seconds: float

    def rows(self, figures: Mapping[str, Any]) -> list[Row]:
        """All rows that `figures.json` of the stage holds; none for a stage that only trains.

        A domain without evaluated users has none either: zeros of nobody are no figures.
        """
        match self.stage.command:
            case "train-tokenizer":
                return list(self._ids(figures))
            case "evaluate":
                return list(self._evaluation(figures))
            case "train-baseline":
                return list(self._baseline(figures))
            case _:
                return []

    def _row(self, domain: str, part: Part, level: Level, *, metric: str, value: float, recommender: str) -> Row:
        stage = self.stage
        return Row(
            protocol=self.protocol,
            domain=domain,
            tokenizer=stage.tokenizer,
            recommender=recommender,
            seed=stage.seed,
            part=part,
            level=level,
            metric=metric,
            value=value,
            commit=self.commit,
            seconds=self.seconds,
        )

    def _ids(self, figures: Mapping[str, Any]) -> Iterator[Row]:
        counts = {f"parameters_{name}": count for name, count in figures["parameter_counts"].items()}
        # Of several tokenizers, one a domain, each has a number of parameters of its own.
        whose = self.stage.reads[0] if len(self.stage.reads) == 1 else EVERY
        for domain, quality in [(whose, counts), *figures["domains"].items()]:
            for metric, value in numbers(quality):
                yield self._row(domain, "items", "id", metric=metric, value=value, recommender=NONE)

    def _evaluation(self, figures: Mapping[str, Any]) -> Iterator[Row]:
        part: Part = figures["part"]
        recommender = self.stage.recommender
        for domain, judged in figures["domains"].items():
            if not judged["users"]:
                continue
            by_item = {**judged["item_level"], "users": judged["users"]}
            by_tuple = {**judged["tuple_level"], "items_sharing": judged["items_sharing_a_tuple"]}
            levels: tuple[tuple[Level, str, dict[str, Any]], ...] = (
                ("item", recommender, by_item),
                ("tuple", recommender, by_tuple),
                ("tuple", POPULARITY, judged["popularity_tuple_level"]),
            )
            for level, named, found in levels:
                for metric, value in numbers(found):
                    yield self._row(domain, part, level, metric=metric, value=value, recommender=named)

    def _baseline(self, figures: Mapping[str, Any]) -> Iterator[Row]:
        if not figures["users"]:
            return
        domain, recommender = self.stage.reads[0], self.stage.recommender
        parts: tuple[Part, ...] = ("validation", "test")
        for part in parts:
            removed = {f"{name}{REMOVED}": value for name, value in figures["history_items_removed"][part].items()}
            learned = figures.get("with_repeats", {}).get(part, {})
            repeats = {f"{name}{REPEATS}": value for name, value in learned.items()}
            for metric, value in numbers({**figures[part], "users": figures["users"], **removed, **repeats}):
                yield self._row(domain, part, "item", metric=metric, value=value, recommender=recommender)


def numbers(figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of all that is a number or a list of numbers, one a level: `perplexity_1`, `perplexity_2`, ...

    Truth values, texts and tables are no figures; what is not finite (an empty mean) is left out.
    """
    for name, value in figures.items():
        several = enumerate(value, start=1) if isinstance(value, list) else [(0, value)]
        for level, one in several:
            if isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one):
                yield (f"{name}_{level}" if level else name), float(one)
