"""What is evaluated: the semantic IDs of some domains and the recommenders over them, as the engine serves them.

A bundle is one such subject. Knows nothing of histories, of figures and of torch.
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
from training.evaluation.ranking import JudgedRanks
from training.tokenizer.ids import DomainIds


@dataclass(frozen=True)
class Subject:
    """IDs and recommenders.

    Attributes
    ----------
    described : what `evaluation.json` says of it
    ids : by domain, the items of each in any order
    parts : the recommenders
    open : opens the graph of one of them
    judged : ranks of the targets by a head over items alone, without a search, where the network is at hand and has one
    """

    described: Mapping[str, Any]
    ids: Mapping[str, DomainIds]
    parts: Sequence[RecommenderPart]
    open: Callable[[RecommenderPart], Recommender]
    judged: Callable[[DomainData, IntArray, Examples], JudgedRanks | None] = field(
        default=lambda *_: None, kw_only=True
    )


def choose_recommender(parts: Sequence[RecommenderPart], domain: str, wanted: str | None) -> RecommenderPart:
    """The recommender named, else the first that learned from the domain, else the first of all.

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
    """The bundle that `export` wrote; its graphs are opened when they are asked for.

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
