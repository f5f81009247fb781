"""The stage `train-tokenizer`: items and their embeddings in, a tokenizer and the semantic IDs of all items out.

Knows nothing of the command line.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.catalogue.store import layout_of_ids
from service.errors import ConfigError
from service.items import compose_texts
from service.progress import progress
from service.semantic_ids import TokenLayout
from training.data.dataset import Dataset, DomainData
from training.encoders.vectors import read_vectors, vectors_file
from training.networks.tokenized import Shape
from training.stage import Stage
from training.tokenizer.configuration import StageParameters
from training.tokenizer.estimator import CHECKPOINT
from training.tokenizer.extras import extras_of
from training.tokenizer.figures import domain_figures, repair_figures
from training.tokenizer.ids import DomainIds, suffixes_of, write_ids
from training.tokenizer.interface import Tokenizer
from training.tokenizer.kinds import make_tokenizer
from training.tokenizer.repair import repair_encoded


@dataclass(frozen=True)
class EmbeddedDomain:
    """A domain's items and their vectors float32 [n, D], in the same order."""

    data: DomainData
    embeddings: NDArray[np.float32]


def train_tokenizer(dataset: Path, embeddings: Path, out: Path, parameters: StageParameters) -> dict[str, Any]:
    """Train, give every item its ID, and write both; continues where a killed run stopped.

    Raises
    ------
    ConfigError : a domain is not in the dataset
    InvalidInput : a domain has no embeddings, or not one an item, or the IDs do not fit into 64 bits
    SuffixExhausted : more items than the layout has suffixes share their codes
    """
    opened = Dataset.open(dataset)
    sources = _chosen(parameters.train_domains, "train_domains", opened)
    named = _chosen(parameters.id_domains, "id_domains", opened)
    stage = Stage("train-tokenizer", out)
    torch.set_num_threads(parameters.threads or len(os.sched_getaffinity(0)))
    domains = _read(opened, embeddings, list(dict.fromkeys([*sources, *named])))
    tokenizer = make_tokenizer(parameters.tokenizer)
    _train(tokenizer, [domains[name] for name in sources], out / CHECKPOINT)
    layout = _layout(tokenizer.shape, parameters.suffixes)
    ids, quality = [], {}
    with progress("semantic IDs", total=len(named)) as advance:
        for name in named:
            domain = domains[name]
            encoded = tokenizer.encode(domain.embeddings)
            texts = compose_texts(domain.data.contents())
            trained = {"trained": name in sources}
            quality[name] = trained | domain_figures(tokenizer, domain.embeddings, encoded, texts)
            codes = encoded.codes
            if parameters.repair:
                repaired = repair_encoded(tokenizer.network, encoded, texts)
                codes = repaired.codes
                quality[name] |= repair_figures(repaired, encoded.experts, texts)
            suffix = suffixes_of(name, codes, encoded.experts, parameters.suffixes)
            ids.append(DomainIds(name, domain.data.item_ids, codes, encoded.experts, suffix))
            advance(1, name)
    tokenizer.save(out)
    write_ids(out, ids)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return stage.finish(
        {
            "layout": layout_of_ids(layout),
            "expert_names": list(tokenizer.expert_names),
            "parameter_counts": tokenizer.parameter_counts(),
            "domains": quality,
            "parameters": parameters.tokenizer.model_dump(mode="json")
            | parameters.model_dump(mode="json", exclude={"tokenizer"}),
            "log": [asdict(figures) for figures in tokenizer.log],
        }
    )


def _layout(shape: Shape, suffixes: int) -> TokenLayout:
    """Layout of the IDs, which refuses what the service could not hold."""
    return TokenLayout(shape.levels, shape.codes, shape.experts, shape.experts_per_item, suffixes)


def _chosen(names: tuple[str, ...] | None, key: str, dataset: Dataset) -> tuple[str, ...]:
    """The domains that a key of the configuration names, or all."""
    unknown = [name for name in names or () if name not in dataset.domains]
    if unknown:
        raise ConfigError(
            f"{key}: no domain {', '.join(map(repr, unknown))} in {dataset.folder}; "
            f"there are {', '.join(dataset.domains)}"
        )
    return dataset.domains if names is None else names


def _read(dataset: Dataset, folder: Path, names: list[str]) -> dict[str, EmbeddedDomain]:
    """Items and vectors of domains; all vectors must be of one width."""
    domains: dict[str, EmbeddedDomain] = {}
    width = None
    for name in names:
        data = dataset[name]
        vectors = read_vectors(vectors_file(folder, name), data.item_ids, width)
        width = vectors.shape[1]
        domains[name] = EmbeddedDomain(data, vectors)
    return domains


def _train(tokenizer: Tokenizer, domains: list[EmbeddedDomain], checkpoint: Path) -> None:
    embeddings = np.concatenate([domain.embeddings for domain in domains])
    labels = np.concatenate([np.full(len(domain.embeddings), domain.data.name) for domain in domains])
    with progress("tokenizer", total=tokenizer.parameters.steps(len(embeddings))) as advance:
        extras = extras_of([domain.data for domain in domains], tokenizer.parameters)
        tokenizer.fit(embeddings, labels, extras, checkpoint=checkpoint, advance=advance)
