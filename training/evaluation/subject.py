"""The subject of an evaluation: semantic IDs of some domains and the recommenders over them, run by the engine.

A bundle is one such subject. Knows nothing of histories, figures or torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.bundle.files import Bundle
from service.bundle.manifest import RecommenderPart
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import ConfigError
from service.semantic_ids import IntArray
from training.data.dataset import DomainData
from training.data.split import Examples
from training.evaluation.protocol import catalogue_ids
from training.ids.table import DomainIds
from training.measures.ranking import ScoredRanks


@dataclass(frozen=True)
class Subject:
    """IDs and recommenders.

    Attributes
    ----------
    described : its description in `evaluation.json`
    ids : by domain, the items of each in any order
    parts : the recommenders
    open : opens the graph of one of them
    scored : computes ranks of the targets by the item head without a search; gives None without torch network or head
    """

    described: Mapping[str, Any]
    ids: Mapping[str, DomainIds]
    parts: Sequence[RecommenderPart]
    open: Callable[[RecommenderPart], Recommender]
    scored: Callable[[DomainData, IntArray, Examples], ScoredRanks | None] = field(
        default=lambda *_: None, kw_only=True
    )


def choose_recommender(parts: Sequence[RecommenderPart], domain: str, wanted: str | None) -> RecommenderPart:
    """The recommender named `wanted`; if None, the first that learned from the domain, else the first of all.

    Raises
    ------
    ConfigError : no recommender has that name
    """
    if wanted is not None:
        named = [part for part in parts if part.name == wanted]
        if not named:
            raise ConfigError(f"no recommender {wanted!r}; there are {', '.join(part.name for part in parts)}")
        return named[0]
    return next((part for part in parts if domain in part.domains), parts[0])


def bundle_subject(folder: Path, runtime: Runtime) -> Subject:
    """A bundle written by `export`; its graphs are opened on demand.

    Raises
    ------
    BundleError : a file is missing, altered, or of another shape than the manifest says
    """
    bundle = Bundle.open(folder)
    manifest = bundle.manifest

    def open_part(part: RecommenderPart) -> Recommender:
        return Recommender.open(bundle.path(part.model), part, manifest.token_layout(part), runtime)

    return Subject(
        described={"bundle": manifest.name, "generation": manifest.generation},
        ids=catalogue_ids(bundle.path(manifest.catalogue.path)),
        parts=manifest.recommenders,
        open=open_part,
    )
