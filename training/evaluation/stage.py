"""The stage `evaluate`: measures IDs and recommenders on their dataset and writes `evaluation.json`.

Knows nothing of the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.engine.recommender import Recommender
from service.errors import ConfigError
from service.progress import progress
from service.semantic_ids import IntArray
from training.data.dataset import Dataset, DomainData
from training.data.split import Examples
from training.evaluation.protocol import ranked_lists, score, without_suffixes
from training.evaluation.subject import Subject, choose_recommender
from training.measures.ranking import ranking_figures
from training.measures.users import evaluated_users, split_for
from training.recommender.corpus import item_values
from training.stage import Stage, write_atomically

EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, and how.

    Attributes
    ----------
    domains : None: every domain of the dataset for which the subject has IDs
    part : "test" or "validation"
    max_users : per domain, drawn at random with `seed`; None: all
    beams : beam width of every search, at least 10
    recommender : name of one of the subject's; None: for each domain the first that learned from it, else the first
    remove_history : exclude items of the history from the list, as the service's `exclude_history` does: the newest 20,
        or as many as the recommender reads if that is more; a user's older items stay
    without_repeats : ignore the learned bonus of repeats
    without_suffix : if given, disambiguation is switched off: histories are read without suffixes, and items that share
        an ID tuple are ordered at random with this seed
    seed : draws the users
    """

    domains: tuple[str, ...] | None = None
    part: Literal["test", "validation"] = "test"
    max_users: int | None = None
    beams: int = 20
    recommender: str | None = None
    remove_history: bool = False
    without_repeats: bool = False
    without_suffix: int | None = None
    seed: int = 0


def evaluate(subject: Subject, dataset: Path, out: Path, options: EvaluationOptions) -> dict[str, Any]:
    """Run the stage.

    Returns
    -------
    the contents of `figures.json`; `evaluation.json` holds the same figures

    Raises
    ------
    ConfigError : a domain is unknown to the dataset or has no semantic IDs, one of its items has no ID, no recommender
        has the requested name, or beams is below 10
    ModelError : the network returned NaN
    """
    if options.beams < 10:
        raise ConfigError(f"beams is {options.beams}, but Recall@10 needs at least 10")
    data = Dataset.open(dataset)
    names = _domains(options.domains, data, sorted(subject.ids))
    parts = {name: choose_recommender(subject.parts, name, options.recommender) for name in names}
    splits = {name: split_for(data[name], part.max_history) for name, part in parts.items()}
    examples = {
        name: evaluated_users(getattr(split, options.part), options.max_users, options.seed)
        for name, split in splits.items()
    }
    stage = Stage("evaluate", out)
    recommenders: dict[str, Recommender] = {}
    figures: dict[str, Any] = {}
    with progress("evaluating", sum(len(each) for each in examples.values())) as advance:
        for name in names:
            part = parts[name]
            if part.name not in recommenders:
                recommenders[part.name] = subject.open(part)
            recommender = recommenders[part.name]
            values = item_values(subject.ids[name], data[name], recommender.layout)
            order = options.without_suffix
            read = values if order is None else without_suffixes(values)
            shuffle = None if order is None else np.random.default_rng(order)
            advance(0, name)
            lists = ranked_lists(
                recommender,
                data[name],
                values,
                examples[name],
                beams=options.beams,
                advance=advance,
                read=read,
                remove_history=options.remove_history,
                without_repeats=options.without_repeats,
            )
            figures[name] = {
                **score(
                    data[name], values, examples[name], lists, shuffle, remove_history=options.remove_history
                ).as_dict(),
                **_without_search(subject, data[name], values, examples[name]),
                "recommender": part.name,
                "learned_from": name in part.domains,
            }
    evaluation = {
        **subject.described,
        "part": options.part,
        "beams": options.beams,
        "history_items_removed": options.remove_history,
        "without_repeats": options.without_repeats,
        "without_suffix": options.without_suffix,
        "ranked_over": "all items of the domain",
        "mean_item_ndcg_10": _mean_ndcg(figures),
        "domains": figures,
    }
    write_atomically(out / EVALUATION, json.dumps(evaluation, indent=2) + "\n")
    return stage.finish(evaluation)


def _mean_ndcg(figures: Mapping[str, Any]) -> float | None:
    """Mean over the domains with evaluated users; None if there is no such domain."""
    found = [each["item_level"]["ndcg_10"] for each in figures.values() if each["users"]]
    return round(float(np.mean(found)), 5) if found else None


def _without_search(subject: Subject, domain: DomainData, values: IntArray, examples: Examples) -> dict[str, Any]:
    """Figures of the item head over all items, without a search; empty if there is none. Items of the history stay."""
    ranks = subject.scored(domain, values, examples)
    if ranks is None:
        return {}
    return {
        "head_over_all_items": ranking_figures(ranks.known).as_dict(),
        "head_over_all_items_target_as_new": ranking_figures(ranks.new).as_dict(),
    }


def _domains(wanted: Sequence[str] | None, data: Dataset, with_ids: Sequence[str]) -> list[str]:
    """Domains to evaluate, checked against those that have semantic IDs."""
    names = list(wanted) if wanted is not None else [name for name in data.domains if name in with_ids]
    without = [name for name in names if name not in with_ids]
    if without or not names:
        raise ConfigError(
            f"no items of {', '.join(without) or 'any domain of the dataset'} have semantic IDs; "
            f"there are IDs for {', '.join(with_ids)}"
        )
    return names
