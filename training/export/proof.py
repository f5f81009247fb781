"""Proof of an export: runs the written bundle with the engine that will serve it, and compares it with the networks.

Any difference other than a tie ends the export with an error that names the tensor and the greatest difference. Knows
nothing of how the files are written.

Symbols: B histories, S sequence, W beams, depth = L + N + 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.sample import ProvenSample
from service.engine.engine import Engine
from service.engine.tokenized_items import TokenizedItems
from service.errors import ModelError
from service.items import compose_texts
from service.progress import progress
from service.semantic_ids import IntArray
from service.verifying import catalogue_text
from training.export.half import open_twin, prove_half_lists
from training.export.item_tokenizer import prove_item_tokenizer
from training.export.lists import CodedDomain, ProvenLists, draw_histories, prove_lists
from training.export.sources import ExportedDomain, Sources
from training.tokenizer.repair import repair_encoded

VECTOR_TOLERANCE = 1e-3
"""Greatest difference, per component, between a stored embedding and the encoder's vector of the item's text."""
STORED_LISTS = 16
STORED_ITEMS = 64
STORED_TEXTS = 32


@dataclass(frozen=True)
class Proof:
    """Results of a proof.

    Attributes
    ----------
    figures : for the manifest
    quantization_error : mean over the catalogue, by domain
    sample : inputs and results with which `verify` repeats the proof
    """

    figures: dict[str, Any]
    quantization_error: dict[str, float]
    sample: ProvenSample


def prove(
    engine: Engine, sources: Sources, histories: int, beams: int, *, half: bool = False, threads: int = 0
) -> Proof:
    """Compare every graph of an opened bundle with its network.

    Parameters
    ----------
    histories : number of real histories, over all domains, on whose lists every recommender is compared
    beams : W of those searches
    half : whether the recommenders compute in half precision
    threads : of the twins in half precision

    Raises
    ------
    ModelError : a tensor differs by more than a tie, half precision changes more than allowed, or no list is clear
        enough for the sample
    """
    random = np.random.default_rng(0)
    embeddings = np.concatenate([domain.aligned for domain in sources.domains])
    values = np.concatenate([domain.values for domain in sources.domains])
    path = engine.bundle.path(engine.bundle.manifest.item_tokenizer.model)
    proof = prove_item_tokenizer(sources.tokenizer, path, embeddings)
    graph = engine.item_tokenizer.tokenize(embeddings)
    ids = _prove_ids(sources, graph, embeddings, values)
    text_rows, text_vectors, text_figures = _prove_texts(engine, sources, random)
    chosen = np.sort(random.choice(len(embeddings), min(STORED_ITEMS, len(embeddings)), replace=False))
    tokenized = engine.item_tokenizer.tokenize(embeddings[chosen])

    lists: dict[str, ProvenLists] = {}
    coded = [CodedDomain(domain.data, domain.values) for domain in sources.domains]
    with progress("proving ranked lists", len(engine.recommenders) * histories) as advance:
        for recommender in engine.recommenders:
            name = recommender.part.name
            trained = sources.recommenders[name]
            drawn = draw_histories(coded, histories, random, trained.max_history)
            options: dict[str, Any] = {"beams": beams, "advance": advance, "keep": STORED_LISTS}
            if half:
                twin = open_twin(engine.bundle.path(recommender.part.model), recommender, threads)
                lists[name] = prove_half_lists(recommender, twin, trained, drawn, **options)
            else:
                lists[name] = prove_lists(recommender, trained, drawn, **options)
    figures = {
        "text_encoder": text_figures,
        "item_tokenizer": {
            "items": proof.items,
            "ties": proof.ties,
            "ids_changed_by_ties": ids.ties,
            "moved_off_nearest_code": ids.moved,
            "greatest_differences": proof.differences,
        },
        "recommenders": {name: proven.figures for name, proven in lists.items()},
    }
    for name, proven in lists.items():
        if not proven.domain:
            raise ModelError(
                f"recommender {name}: none of {proven.figures['histories']} ranked lists is clear enough for other "
                f"machines to find it too, and `unitok verify` needs one; prove with more histories, or with fewer "
                f"beams than {beams}"
            )
    stored = [(name, proven, row) for name, proven in lists.items() for row in range(len(proven.domain))]
    width = max(len(proven.history[row]) for _, proven, row in stored)
    sample = ProvenSample(
        text_row=text_rows,
        text_vector=text_vectors,
        embedding=embeddings[chosen],
        codes=tokenized.codes,
        experts=tokenized.experts,
        recommender=np.asarray([name for name, _, _ in stored], dtype=np.str_),
        domain=np.asarray([proven.domain[row] for _, proven, row in stored], dtype=np.str_),
        history=np.stack([_padded(proven.history[row], width) for _, proven, row in stored]),
        history_mask=np.stack([_padded(proven.history_mask[row], width) for _, proven, row in stored]),
        tokens=np.stack([proven.tokens[row] for _, proven, row in stored]),
        log_prob=np.stack([proven.log_prob[row] for _, proven, row in stored]),
        tolerance=np.asarray([proven.tolerance for _, proven, _ in stored], dtype=np.float32),
    )
    splits = np.cumsum([len(domain.values) for domain in sources.domains])[:-1]
    errors = {
        domain.data.name: float(part.mean(dtype=np.float64))
        for domain, part in zip(sources.domains, np.split(graph.quantization_error, splits), strict=True)
    }
    return Proof(figures, errors, sample)


def _padded(row: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return np.pad(row, (0, width - len(row)))


@dataclass(frozen=True)
class _ProvenIds:
    """Numbers of items: with codes that a tie in rounding changes, and moved off their nearest code by the repair."""

    ties: int
    moved: int


def _prove_ids(
    sources: Sources, graph: TokenizedItems, embeddings: NDArray[np.float32], values: IntArray
) -> _ProvenIds:
    """Check that the published IDs are those of the network (repaired, if they were repaired) or of the graph."""
    network = sources.tokenizer.encode(embeddings)
    published = values[:, :-1]
    by_graph = np.concatenate([graph.codes, graph.experts], axis=1)
    nearest = np.concatenate([network.codes, network.experts], axis=1)
    expected = _repaired(sources, network, nearest) if sources.repaired else nearest
    wrong = np.flatnonzero((published != expected).any(axis=1) & (published != by_graph).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise ModelError(
            f"codes: {len(wrong)} items have a published ID that the tokenizer does not give them; item "
            f"{_name(sources.domains, row)} has {published[row].tolist()}, but gets {expected[row].tolist()}; "
            f"the IDs were made from other vectors or by another tokenizer"
        )
    return _ProvenIds(int((by_graph != nearest).any(axis=1).sum()), int((expected != nearest).any(axis=1).sum()))


def _repaired(sources: Sources, encoded: TokenizedItems, nearest: IntArray) -> IntArray:
    """Codes and experts after the repair, domain by domain, int32 [n, L + N]."""
    repaired, start = np.array(nearest), 0
    for domain in sources.domains:
        rows = slice(start, start + len(domain.values))
        own = TokenizedItems(**{name: getattr(encoded, name)[rows] for name in TokenizedItems.__slots__})
        texts = compose_texts(domain.data.contents())
        repaired[rows, : own.codes.shape[1]] = repair_encoded(sources.tokenizer.network, own, texts).codes
        start = rows.stop
    return repaired


def _name(domains: tuple[ExportedDomain, ...], row: int) -> str:
    """Domain and item id of a row of the whole catalogue."""
    for domain in domains:
        if row < len(domain.values):
            return f"{domain.data.item_ids[row]!r} of {domain.data.name}"
        row -= len(domain.values)
    raise IndexError(row)


def _prove_texts(
    engine: Engine, sources: Sources, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32], dict[str, Any]]:
    """Check that the encoder's vectors of some items' texts equal the stored embeddings; draw the texts of the sample.

    Returns
    -------
    rows of the catalogue int64 [m], the vectors of their short texts float32 [m, D], and figures
    """
    titles, greatest, compared = [], 0.0, 0
    for domain in sources.domains:
        data = domain.data
        titles += [catalogue_text(*row) for row in data.items.select("title", "item_id").iter_rows()]
        rows = np.sort(random.choice(len(domain.values), min(STORED_TEXTS, len(domain.values)), replace=False))
        contents = data.contents()
        texts = compose_texts([contents[row] for row in rows])
        with_text = [place for place, text in enumerate(texts) if text]
        vectors = engine.text_encoder.encode([texts[place] for place in with_text])
        differences = np.abs(vectors - domain.embeddings[rows[with_text]]).max(axis=1, initial=0.0)
        if differences.max(initial=0.0) > VECTOR_TOLERANCE:
            row = int(rows[with_text][int(differences.argmax())])
            raise ModelError(
                f"sentence_embedding: the vector of item {data.item_ids[row]!r} of {data.name} differs from the "
                f"stored one by up to {differences.max():.3g}, but at most {VECTOR_TOLERANCE:.3g} is rounding; the "
                f"embeddings were made by another encoder or from other texts"
            )
        greatest, compared = max(greatest, float(differences.max(initial=0.0))), compared + len(with_text)
    chosen = np.sort(random.choice(len(titles), min(STORED_TEXTS, len(titles)), replace=False)).astype(np.int64)
    vectors = engine.text_encoder.encode([titles[row] for row in chosen])
    return chosen, vectors, {"texts": compared, "greatest_difference": greatest}
