"""Whether a trained recommender is put together with the IDs that it learned.

IDs of another tokenizer may have the same shape, and then nothing else would tell: the recommender would rank items by
names that it learned for others. Knows nothing of networks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from service.errors import ConfigError
from service.semantic_ids import TokenLayout
from training.data.dataset import Dataset
from training.recommender.corpus import learned_from
from training.stage import read_figures
from training.tokenizer.ids import DomainIds

LEARNED_IDS = "learned_ids"
"""In the figures of `train-recommender`: `ids_digest` by domain."""


def ids_digest(ids: DomainIds) -> str:
    """SHA-256 of the IDs of a domain's items, in whatever order these are."""
    order = sorted(range(len(ids.item_ids)), key=ids.item_ids.__getitem__)
    digest = hashlib.sha256(repr((ids.domain, [ids.item_ids[row] for row in order])).encode())
    for array in (ids.codes, ids.experts, ids.suffix):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array[order], dtype=np.int32).tobytes())
    return digest.hexdigest()


def require_learned_ids(
    folder: Path, domains: Iterable[str], ids: Mapping[str, DomainIds], dataset: Dataset, layout: TokenLayout
) -> None:
    """Refuse a recommender that learned other IDs of a domain.

    Its histories may be others: a recommender is measured on what users did since, and a bundle is proven on histories
    that may be published.

    Parameters
    ----------
    folder : what `train-recommender` wrote
    domains : those that it learned from
    ids : what the tokenizer gave, by domain
    dataset, layout : of the items and their IDs; where a folder is from before `LEARNED_IDS`, it says only of IDs and
        histories together what they were

    Raises
    ------
    ConfigError : the folder is not finished, or it learned other IDs or does not say which; names the domain
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
