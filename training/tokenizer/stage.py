"""The stage `train-tokenizer`: items and their embeddings in, a tokenizer and the semantic IDs of all items out.

Knows nothing of the command line.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.catalogue.store_rules import layout_of_ids
from service.engine.alignment import Alignment, Alignments
from service.errors import ConfigError
from service.items import compose_texts
from service.progress import progress
from service.semantic_ids import TokenLayout
from training.checkpoint import CHECKPOINT, Checkpoint
from training.data.dataset import Dataset, DomainData
from training.encoders.vectors import domain_vectors
from training.ids.table import DomainIds, suffixes_of, write_ids
from training.networks.tokenized import Shape
from training.processor import use_processor
from training.stage import Stage, read_figures
from training.tokenizer.alignment import align, write_alignments
from training.tokenizer.configuration import StageParameters
from training.tokenizer.extras import extras_of
from training.tokenizer.figures import domain_figures, repair_figures
from training.tokenizer.holding_out import BoolArray, learned_from
from training.tokenizer.interface import Tokenizer
from training.tokenizer.kinds import load_tokenizer, make_tokenizer
from training.tokenizer.repair import repair_encoded

LEARNED_FROM = "learned_from"
"""Key in the figures: by training domain, SHA-256 of the embeddings that the tokenizer was trained on."""


@dataclass(frozen=True)
class EmbeddedDomain:
    """A domain's items in one order: their embeddings float32 [n, D], texts, and which are trained on, bool [n].

    `learned` is None if no items are held out.
    """

    data: DomainData
    embeddings: NDArray[np.float32]
    texts: list[str]
    learned: BoolArray | None

    def digest(self) -> str:
        """SHA-256 of the embeddings trained on, without those held out."""
        vectors = self.embeddings if self.learned is None else self.embeddings[self.learned]
        return hashlib.sha256(repr(vectors.shape).encode() + np.ascontiguousarray(vectors).tobytes()).hexdigest()


def train_tokenizer(
    dataset: Path, embeddings: Path, out: Path, parameters: StageParameters, reuse: Path | None = None
) -> dict[str, Any]:
    """Train a tokenizer, give every item its ID, and write both; a killed run resumes from its last checkpoint.

    Parameters
    ----------
    dataset, embeddings, out : folders of `prepare` and of `embed`, and the output folder
    parameters : of the stage and the tokenizer
    reuse : folder of a tokenizer trained with the same parameters on the same data; it is used instead of training one

    Raises
    ------
    ConfigError : a domain is not in the dataset; the tokenizer to be reused was trained with other parameters, domains
        or embeddings, or lies in `out`; `align` is set for a kind without experts; or `out` holds a checkpoint of
        another training
    InvalidInput : a domain has no embeddings, or not one per item, or the IDs do not fit into 64 bits
    ModelError : training diverged
    SuffixExhausted : more items share their codes than the layout has suffixes
    """
    if reuse is not None and reuse.resolve() == out.resolve():
        raise ConfigError(f"{out}: a tokenizer cannot be reused from the folder that is written to")
    opened = Dataset.open(dataset)
    sources = _chosen(parameters.train_domains, "train_domains", opened)
    named = _chosen(parameters.id_domains, "id_domains", opened)
    stage = Stage("train-tokenizer", out)
    use_processor(parameters.threads)
    hold_out = dict.fromkeys(sources, parameters.hold_out)
    domains = _read(opened, embeddings, hold_out | {name: 0.0 for name in named if name not in hold_out})
    if reuse is None:
        tokenizer = make_tokenizer(parameters.tokenizer)
        _train(tokenizer, [domains[name] for name in sources], Checkpoint(out / CHECKPOINT, stage.clock))
        learned = {name: domains[name].digest() for name in sources}
    else:
        tokenizer = _trained(reuse, parameters, sources)
        learned = _learned(reuse, {name: domains[name] for name in sources})
    layout = _layout(tokenizer.shape, parameters.suffixes)
    ids, quality, alignments = [], dict[str, Any](), dict[str, Alignment]()
    with progress("semantic IDs", total=len(named)) as advance:
        for name in named:
            domain = domains[name]
            vectors, like = domain.embeddings, None
            if parameters.align and name not in sources:
                like = _served_beside(tokenizer, domain, sources)
                alignment = align(vectors, domains[like].embeddings)
                if alignment is not None:
                    alignments[name], vectors = alignment, alignment(vectors)
            encoded = tokenizer.encode(vectors)
            quality[name] = {"trained": name in sources, "aligned_with": like if name in alignments else None}
            quality[name] |= domain_figures(tokenizer, vectors, encoded, domain.texts, domain.learned)
            codes = encoded.codes
            if parameters.repair:
                repaired = repair_encoded(tokenizer.network, encoded, domain.texts)
                codes = repaired.codes
                quality[name] |= repair_figures(repaired, encoded.experts, domain.texts)
            suffix = suffixes_of(name, codes, encoded.experts, parameters.suffixes)
            ids.append(DomainIds(name, domain.data.item_ids, codes, encoded.experts, suffix))
            advance(1, name)
    tokenizer.save(out)
    write_alignments(out, Alignments(alignments))
    write_ids(out, ids)
    finished = stage.finish(
        {
            "layout": layout_of_ids(layout),
            "expert_names": list(tokenizer.expert_names),
            "parameter_counts": tokenizer.parameter_counts(),
            "domains": quality,
            LEARNED_FROM: learned,
            "parameters": parameters.tokenizer.model_dump(mode="json")
            | parameters.model_dump(mode="json", exclude={"tokenizer"}),
            "log": [asdict(figures) for figures in tokenizer.log] if reuse is None else read_figures(reuse)["log"],
        }
    )
    (out / CHECKPOINT).unlink(missing_ok=True)
    return finished


def _trained(folder: Path, parameters: StageParameters, sources: Sequence[str]) -> Tokenizer:
    """Load a tokenizer, and require that it was trained with these parameters and on these domains."""
    tokenizer, said = load_tokenizer(folder), read_figures(folder)
    if tokenizer.parameters != parameters.tokenizer:
        found, asked = tokenizer.parameters.model_dump(), parameters.tokenizer.model_dump()
        differ = [name for name in asked if found.get(name) != asked[name]]
        raise ConfigError(f"{folder}: was trained with another {', '.join(differ) or 'kind'}")
    trained = said["parameters"]["train_domains"]
    if trained is None:  # All of its dataset, which may hold more domains than those with IDs, listed in the figures.
        trained = [name for name, figures in said["domains"].items() if figures["trained"]]
        trained += [name for name in sources if name not in said["domains"]]
    if said["parameters"].get("hold_out", 0.0) != parameters.hold_out:
        raise ConfigError(f"{folder}: was trained with another hold_out, {said['parameters'].get('hold_out', 0.0)}")
    if set(trained) != set(sources):
        raise ConfigError(f"{folder}: was trained on {', '.join(trained)}, not on {', '.join(sources)}")
    return tokenizer


def _learned(folder: Path, domains: Mapping[str, EmbeddedDomain]) -> dict[str, str]:
    """The digests of embeddings in a tokenizer's figures, after checking the embeddings given here against them.

    An older tokenizer did not record them; it is accepted with a warning.
    """
    said: dict[str, str] = read_figures(folder).get(LEARNED_FROM, {})
    unsaid = [name for name in domains if name not in said]
    if unsaid:
        warnings.warn(
            f"{folder}: does not say which embeddings of {', '.join(unsaid)} it learned from; they are taken for those "
            "given here",
            stacklevel=2,
        )
    other = [name for name, domain in domains.items() if name in said and said[name] != domain.digest()]
    if other:
        raise ConfigError(
            f"{folder}: learned from other embeddings of {', '.join(other)} than are given here; give those (`unitok "
            "embed` with the same --cache keeps the vectors of texts that it has seen), or train without --reuse"
        )
    return said


def _served_beside(tokenizer: Tokenizer, domain: EmbeddedDomain, sources: Sequence[str]) -> str:
    """The training domain whose expert takes most of a domain's items before alignment."""
    experts = tokenizer.encode(domain.embeddings).experts
    if not experts.shape[1]:
        raise ConfigError("align needs a tokenizer with an expert a domain, which this kind has not")
    name = tokenizer.expert_names[int(np.bincount(experts[:, 0]).argmax())]
    if name not in sources:
        raise ConfigError(f"align: expert {name!r} is named after none of the domains of training")
    return name


def _layout(shape: Shape, suffixes: int) -> TokenLayout:
    """Layout of the IDs; it refuses a layout that the service cannot pack."""
    return TokenLayout(shape.levels, shape.codes, shape.experts, shape.experts_per_item, suffixes)


def _chosen(names: tuple[str, ...] | None, key: str, dataset: Dataset) -> tuple[str, ...]:
    """The domains that a key of the configuration names; None: all."""
    unknown = [name for name in names or () if name not in dataset.domains]
    if unknown:
        raise ConfigError(
            f"{key}: no domain {', '.join(map(repr, unknown))} in {dataset.folder}; "
            f"there are {', '.join(dataset.domains)}"
        )
    return dataset.domains if names is None else names


def _read(dataset: Dataset, folder: Path, hold_out: Mapping[str, float]) -> dict[str, EmbeddedDomain]:
    """Read items and embeddings of domains, with the share to hold out of each; all embeddings must have one width."""
    domains: dict[str, EmbeddedDomain] = {}
    width = None
    for name, share in hold_out.items():
        data = dataset[name]
        vectors = domain_vectors(folder, data, width)
        width = vectors.shape[1]
        texts = compose_texts(data.contents())
        learned = learned_from(texts, share)
        domains[name] = EmbeddedDomain(data, vectors, texts, None if learned.all() else learned)
    return domains


def _train(tokenizer: Tokenizer, domains: list[EmbeddedDomain], checkpoint: Checkpoint) -> None:
    learned = np.concatenate(
        [np.ones(len(domain.texts), np.bool_) if domain.learned is None else domain.learned for domain in domains]
    )
    embeddings = np.concatenate([domain.embeddings for domain in domains])[learned]
    labels = np.concatenate([np.full(len(domain.embeddings), domain.data.name) for domain in domains])[learned]
    with progress("tokenizer", total=tokenizer.parameters.steps(len(embeddings))) as advance:
        extras = extras_of([domain.data for domain in domains], tokenizer.parameters).of(learned)
        tokenizer.fit(embeddings, labels, extras, checkpoint=checkpoint, advance=advance)
