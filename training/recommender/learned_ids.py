"""Check that a trained recommender is combined with the IDs that it was trained on.

IDs of another tokenizer may have the same shape, and then no other check would notice: the recommender would rank items
by IDs that it learned for other items. Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from service.errors import ConfigError
from service.semantic_ids import TokenLayout
from training.data.dataset import Dataset
from training.ids.table import DomainIds
from training.recommender.corpus import learned_from
from training.stage import read_figures

LEARNED_IDS = "learned_ids"
"""Key in the figures of `train-recommender`: `ids_digest` by domain."""


def ids_digest(ids: DomainIds) -> str:
    """SHA-256 of the IDs of a domain's items, independent of their order."""
    order = sorted(range(len(ids.item_ids)), key=ids.item_ids.__getitem__)
    digest = hashlib.sha256(repr((ids.domain, [ids.item_ids[row] for row in order])).encode())
    for array in (ids.codes, ids.experts, ids.suffix):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array[order], dtype=np.int32).tobytes())
    return digest.hexdigest()


def require_learned_ids(
    folder: Path, domains: Iterable[str], ids: Mapping[str, DomainIds], dataset: Dataset, layout: TokenLayout
) -> None:
    """Refuse a recommender that was trained on other IDs of a domain.

    Its histories may differ from those given here: a recommender may be evaluated on later interactions, and a bundle
    proven on histories that may be published.

    Parameters
    ----------
    folder : output of `train-recommender`
    domains : domains that it was trained on
    ids : IDs given by the tokenizer, by domain
    dataset, layout : of the items and their IDs; needed for folders older than `LEARNED_IDS`, which recorded one digest
        of IDs and histories together

    Raises
    ------
    ConfigError : the folder is not finished, or it was trained on other IDs or did not record them; names the domain
    """
    figures = read_figures(folder)
    for name in domains:
        known = figures.get(LEARNED_IDS, {}).get(name)
        if known is not None:
            if known != ids_digest(ids[name]):
                raise ConfigError(
                    f"{folder}: learned other IDs of {name} than this tokenizer gave; give the tokenizer whose IDs it "
                    "learned, or train it on these"
                )
            continue
        of_both = figures.get("learned_from", {}).get(name)
        if of_both is None:
            raise ConfigError(f"{folder}: does not say which IDs of {name} it learned; train it again")
        if of_both != learned_from(ids[name], dataset[name], layout):
            raise ConfigError(
                f"{folder}: learned other IDs or other histories of {name} than are given here, and is from before it "
                "said which; give the tokenizer and the dataset that it learned from, or train it again"
            )
