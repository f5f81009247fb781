"""Curves of finished trainings: validation and losses by epoch, and how often each code is used.

Reads the logs and IDs in the folders of stages; a missing one gives no curve. Knows nothing of drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.semantic_ids import IntArray
from training.laboratory.planned import PlannedStage
from training.laboratory.rows import NONE
from training.stage import FIGURES, read_figures, read_log

POINTS = 40
"""Number of points of a curve of code use: enough for its shape, few enough for a file that git can keep."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel.

    Attributes
    ----------
    panel, label : the panel that shows it, and its name in the legend
    x, y : coordinates, of equal length
    """

    panel: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def validation_curves(stages: Iterable[PlannedStage], work: Path) -> list[Curve]:
    """Validation NDCG@10 by epoch of all recommenders and baselines among the stages, one panel per domain."""
    curves = []
    for stage in stages:
        log = read_log(work / stage.name)
        if stage.command not in ("train-recommender", "train-baseline") or not log:
            continue
        label = stage.recommender if stage.tokenizer == NONE else f"{stage.recommender} on {stage.tokenizer}"
        for domain in stage.reads:
            points = [(float(entry["epoch"]), _validated(entry, domain)) for entry in log]
            curves.append(_curve(domain, label, [(x, y) for x, y in points if y is not None]))
    return curves


def tokenizer_curves(stages: Iterable[PlannedStage], work: Path) -> list[Curve]:
    """Losses and the mean share of items sharing an ID, by epoch, of tokenizers with a log; one panel per metric."""
    curves = []
    for stage in stages:
        if stage.command != "train-tokenizer" or not (work / stage.name / FIGURES).is_file():
            continue
        log = read_figures(work / stage.name).get("log", [])
        for panel in ("reconstruction", "quantization", "sharing"):
            points = [(float(entry["epoch"]), _mean(entry.get(panel))) for entry in log]
            shown = [(x, y) for x, y in points if y is not None]
            if shown:
                curves.append(_curve(panel, stage.tokenizer, shown))
    return curves


def code_use(codes: IntArray, label: str) -> list[Curve]:
    """Share of a domain's items on each code, most used first, one panel per level; codes int32 [n, L]."""
    curves = []
    for level, column in enumerate(codes.T, start=1):
        counts: NDArray[np.int64] = np.sort(np.bincount(column))[::-1]
        shares = counts[counts > 0] / len(codes)
        ranks = np.unique(np.linspace(0, len(shares) - 1, POINTS).round().astype(np.int64))
        points = [(float(rank + 1), round(float(shares[rank]), 6)) for rank in ranks]
        curves.append(_curve(f"level {level}", label, points))
    return curves


def _validated(entry: dict[str, Any], domain: str) -> float | None:
    """NDCG@10 of one domain in a line of a log; logs of a single domain have no `by_domain`."""
    by_domain = entry.get("by_domain")
    if by_domain is None:
        return float(entry["ndcg_10"])
    return float(by_domain[domain]["ndcg_10"]) if domain in by_domain else None


def _mean(value: float | dict[str, float] | None) -> float | None:
    """A number, or the mean over domains; None if there is no value yet."""
    if isinstance(value, dict):
        return float(np.mean(list(value.values()))) if value else None
    return None if value is None else float(value)


def _curve(panel: str, label: str, points: list[tuple[float, float]]) -> Curve:
    return Curve(panel, label, tuple(x for x, _ in points), tuple(y for _, y in points))
