"""Turns the figures of a finished stage into rows.

Reads the stages' `figures.json` and nothing else of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from training.laboratory.planned import PlannedStage
from training.laboratory.rows import EVERY, NONE, POPULARITY, Level, Part, Row

REMOVED = "_history_removed"
"""Suffix of a metric measured with items of the history removed from the lists."""

REPEATS = "_with_repeats"
"""Suffix of a metric of a baseline with the learned bonus of repeats."""


@dataclass(frozen=True)
class Recorder:
    """Makes the rows of one stage.

    Attributes
    ----------
    protocol : of the experiment
    stage : the stage that gave the figures
    commit, seconds : see `Row`
    """

    protocol: str
    stage: PlannedStage
    commit: str
    seconds: float

    def rows(self, figures: Mapping[str, Any]) -> list[Row]:
        """All rows in `figures.json` of the stage; none for a stage that only trains.

        A domain without evaluated users gives no rows, since its zeros are not measurements.
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
        # Tokenizers of a single domain each have their own number of parameters.
        whose = self.stage.reads[0] if len(self.stage.reads) == 1 else EVERY
        for domain, quality in [(whose, counts), *figures["domains"].items()]:
            for metric, value in numbers(quality):
                yield self._row(domain, "items", "id", metric=metric, value=value, recommender=NONE)

    def _evaluation(self, figures: Mapping[str, Any]) -> Iterator[Row]:
        part: Part = figures["part"]
        recommender = self.stage.recommender
        for domain, scored in figures["domains"].items():
            if not scored["users"]:
                continue
            by_item = {**scored["item_level"], "users": scored["users"]}
            by_tuple = {**scored["tuple_level"], "items_sharing": scored["items_sharing_a_tuple"]}
            levels: tuple[tuple[Level, str, dict[str, Any]], ...] = (
                ("item", recommender, by_item),
                ("tuple", recommender, by_tuple),
                ("tuple", POPULARITY, scored["popularity_tuple_level"]),
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
    """Names and values of all numbers and lists of numbers, the latter by level: `perplexity_1`, `perplexity_2`, ...

    Booleans, texts and tables are skipped, and so are numbers that are not finite (an empty mean).
    """
    for name, value in figures.items():
        several = enumerate(value, start=1) if isinstance(value, list) else [(0, value)]
        for level, one in several:
            if isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one):
                yield (f"{name}_{level}" if level else name), float(one)
