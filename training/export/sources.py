"""The inputs of an export: folders of the earlier stages, opened and checked against each other.

Knows nothing of the export's output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine.alignment import Alignments
from service.errors import ConfigError
from service.semantic_ids import IntArray, TokenLayout
from training.data.dataset import Dataset, DomainData
from training.embed import ENCODER
from training.encoders.folder import EncoderCard, read_card
from training.encoders.vectors import domain_vectors
from training.ids.table import DomainIds, read_ids
from training.networks.t5 import TrainedRecommender, load_recommender
from training.recommender.corpus import item_values
from training.recommender.learned_ids import require_learned_ids
from training.recommender.stage import tokenizer_layout
from training.stage import read_figures
from training.tokenizer.alignment import read_alignments
from training.tokenizer.interface import Tokenizer
from training.tokenizer.kinds import load_tokenizer


@dataclass(frozen=True)
class Folders:
    """Folders of the earlier stages.

    Attributes
    ----------
    dataset, embeddings, tokenizer : outputs of `prepare`, `embed` and `train-tokenizer`
    recommenders : outputs of `train-recommender`; a recommender is named after its folder
    """

    dataset: Path
    embeddings: Path
    tokenizer: Path
    recommenders: tuple[Path, ...]


@dataclass(frozen=True)
class ExportedDomain:
    """One domain of the bundle's catalogue, by item row.

    Attributes
    ----------
    data : items and histories
    embeddings : float32 [n, D]
    aligned : float32 [n, D], input of the tokenizer: the embeddings, aligned if the domain has an alignment
    values : int32 [n, L + N + 1], the semantic IDs
    """

    data: DomainData
    embeddings: NDArray[np.float32]
    aligned: NDArray[np.float32]
    values: IntArray


@dataclass(frozen=True)
class Sources:
    """All inputs of a bundle.

    Attributes
    ----------
    encoder_folder, encoder : the text encoder and its card
    tokenizer : the trained tokenizer
    alignments : of the domains of the catalogue that it was not trained on
    layout : of the semantic IDs, without domain tokens
    repaired : whether the IDs were repaired, see `training.tokenizer.repair`
    recommenders : by name
    domains : of the catalogue
    """

    encoder_folder: Path
    encoder: EncoderCard
    tokenizer: Tokenizer
    alignments: Alignments
    layout: TokenLayout
    repaired: bool
    recommenders: dict[str, TrainedRecommender]
    domains: tuple[ExportedDomain, ...]


def open_sources(folders: Folders, domains: Sequence[str] | None) -> Sources:
    """Open all folders and check that they fit each other.

    Parameters
    ----------
    domains : domains of the bundle's catalogue; None: all of the dataset that have IDs

    Raises
    ------
    ConfigError : a folder is not finished, a domain is unknown, or two folders do not fit each other, e.g. because a
        recommender was trained on other IDs
    InvalidInput : embeddings or IDs do not fit the items
    """
    encoder_folder = folders.embeddings / ENCODER
    card = read_card(encoder_folder)
    tokenizer = load_tokenizer(folders.tokenizer)
    layout = tokenizer_layout(folders.tokenizer)
    width = tokenizer.shape.embedding_width
    if card.width != width:
        raise ConfigError(
            f"{encoder_folder}: vectors of {card.width} values, but the tokenizer in {folders.tokenizer} takes {width}"
        )
    recommenders: dict[str, TrainedRecommender] = {}
    for folder in folders.recommenders:
        name = folder.resolve().name
        if name in recommenders:
            raise ConfigError(f"two recommenders are in folders called {name!r}; rename one, they are told apart by it")
        read_figures(folder)  # refuses an unfinished training, whose weights may still be replaced by better ones
        recommenders[name] = load_recommender(folder)
        _require_layout(recommenders[name].layout, layout, folder)
    if not recommenders:
        raise ConfigError("no recommender; name at least one folder that `unitok train-recommender` wrote")
    layout = replace(layout, expert_first=_expert_first(recommenders))
    dataset, ids = Dataset.open(folders.dataset), read_ids(folders.tokenizer)
    names = _chosen(domains, dataset, ids)
    for folder, trained in zip(folders.recommenders, recommenders.values(), strict=True):
        known = [name for name in names if name in trained.trained_on]
        require_learned_ids(folder, known, ids, dataset, layout)
    alignments = read_alignments(folders.tokenizer, width)
    opened = [
        ExportedDomain(
            dataset[name],
            vectors := domain_vectors(folders.embeddings, dataset[name], width),
            alignments(vectors, [name] * len(vectors)),
            item_values(ids[name], dataset[name], layout),
        )
        for name in names
    ]
    here = {name: found for name, found in alignments.by_domain.items() if name in {one.data.name for one in opened}}
    repaired = bool(read_figures(folders.tokenizer)["parameters"]["repair"])
    return Sources(encoder_folder, card, tokenizer, Alignments(here), layout, repaired, recommenders, tuple(opened))


def _require_layout(found: TokenLayout, layout: TokenLayout, folder: Path) -> None:
    """Refuse a recommender that was trained on the IDs of a tokenizer of another shape."""
    if (found.position_sizes, found.levels) != (
        layout.position_sizes,
        layout.levels,
    ) or found.experts != layout.experts:
        raise ConfigError(
            f"{folder}: trained on IDs with positions {found.position_sizes} and {found.experts} experts, but the "
            f"tokenizer's have {layout.position_sizes} and {layout.experts}"
        )


def _expert_first(recommenders: Mapping[str, TrainedRecommender]) -> bool:
    """Whether the expert token comes first, the same for all recommenders, since they search one index."""
    found = {name: recommender.layout.expert_first for name, recommender in recommenders.items()}
    first = [name for name, is_first in found.items() if is_first]
    if first and len(first) < len(found):
        raise ConfigError(
            f"{', '.join(first)}: trained with expert_first, the other recommenders without; those of a bundle search "
            "one index, so train all of them alike"
        )
    return bool(first)


def _chosen(domains: Sequence[str] | None, dataset: Dataset, ids: dict[str, DomainIds]) -> list[str]:
    """Names of the domains to export."""
    known = [name for name in dataset.domains if name in ids]
    unknown = [name for name in domains or () if name not in known]
    if unknown:
        raise ConfigError(f"no domain {unknown[0]!r} with items and semantic IDs; there are {', '.join(known)}")
    chosen = known if domains is None else list(dict.fromkeys(domains))
    if not chosen:
        raise ConfigError(f"{dataset.folder}: no domain has semantic IDs of this tokenizer, so nothing to export")
    return chosen
