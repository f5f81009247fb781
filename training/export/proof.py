"""Export means prove: runs the bundle that was written, with the engine that will serve it, against the networks.

Any difference that is no tie ends the export with an error that names the tensor and the greatest difference. Knows
nothing of how the files are written.

Symbols: B histories, S sequence, W beams, depth = L + N + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.sample import ProvenSample
from service.engine.engine import Engine
from service.engine.history_tokens import history_tokens
from service.engine.item_tokenizer import TokenizedItems
from service.engine.recommender import Recommender
from service.errors import ModelError
from service.index.trie import CodeTrie
from service.items import compose_texts
from service.progress import Advance, progress
from service.ranked_lists import TIE, compare_lists
from service.semantic_ids import IntArray
from service.verifying import catalogue_text
from training.data.split import leave_one_out
from training.export.item_tokenizer import prove_item_tokenizer
from training.export.reference import AllowedTokens, generate_lists, narrowest_choice
from training.export.sources import ExportedDomain, Sources
from training.networks.t5 import TrainedRecommender

VECTOR_TOLERANCE = 1e-3
"""Greatest difference, in a component, between a stored embedding and the encoder's vector of the item's text."""
BATCH = 25
"""Histories that `generate` takes at a time."""
STORED_LISTS = 16
STORED_ITEMS = 64
STORED_TEXTS = 32
CLEAR = 1e-3
"""A list is stored for `verify` only if no step of its search was closer than this: other machines round otherwise."""


@dataclass(frozen=True)
class ProvenLists:
    """Ranked lists on which graph and `generate` agree.

    Attributes
    ----------
    domain : what was searched, one name a list
    history, history_mask : int64 [S] each, one a list
    tokens, log_prob : int32 [W, depth] and float32 [W], one a list
    figures : how many, how many ties, the greatest difference
    """

    domain: list[str]
    history: list[NDArray[np.int64]]
    history_mask: list[NDArray[np.int64]]
    tokens: list[IntArray]
    log_prob: list[NDArray[np.float32]]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Proof:
    """What was proven.

    Attributes
    ----------
    figures : for the manifest
    quantization_error : mean over the catalogue, by domain
    sample : with which `verify` repeats the proof
    """

    figures: dict[str, Any]
    quantization_error: dict[str, float]
    sample: ProvenSample


def prove(engine: Engine, sources: Sources, histories: int, beams: int, seed: int = 0) -> Proof:
    """Compare every graph of an opened bundle with its network.

    Parameters
    ----------
    histories : real histories, over all domains, whose lists every recommender is compared on
    beams : W of those searches

    Raises
    ------
    ModelError : a tensor differs by more than a tie
    """
    random = np.random.default_rng(seed)
    embeddings = np.concatenate([domain.embeddings for domain in sources.domains])
    values = np.concatenate([domain.values for domain in sources.domains])
    path = engine.bundle.path(engine.bundle.manifest.item_tokenizer.model)
    proof = prove_item_tokenizer(sources.tokenizer, path, embeddings)
    graph = engine.item_tokenizer.tokenize(embeddings)
    changed = _prove_ids(sources, graph, embeddings, values)
    text_rows, text_vectors, text_figures = _prove_texts(engine, sources, random)
    chosen = np.sort(random.choice(len(embeddings), min(STORED_ITEMS, len(embeddings)), replace=False))
    tokenized = engine.item_tokenizer.tokenize(embeddings[chosen])

    lists: dict[str, ProvenLists] = {}
    with progress("proving ranked lists", len(engine.recommenders) * histories) as advance:
        for recommender in engine.recommenders:
            name = recommender.part.name
            lists[name] = _prove_lists(
                recommender, sources.recommenders[name], _draw(sources, histories, random), beams, advance
            )
    figures = {
        "text_encoder": text_figures,
        "item_tokenizer": {
            "items": proof.items,
            "ties": proof.ties,
            "ids_changed_by_ties": changed,
            "greatest_differences": proof.differences,
        },
        "recommenders": {name: proven.figures for name, proven in lists.items()},
    }
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
    )
    splits = np.cumsum([len(domain.values) for domain in sources.domains])[:-1]
    errors = {
        domain.data.name: float(part.mean(dtype=np.float64))
        for domain, part in zip(sources.domains, np.split(graph.quantization_error, splits), strict=True)
    }
    return Proof(figures, errors, sample)


def _padded(row: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return np.pad(row, (0, width - len(row)))


def _prove_ids(sources: Sources, graph: TokenizedItems, embeddings: NDArray[np.float32], values: IntArray) -> int:
    """The published IDs are what graph or network says now; returns how many a tie in rounding changes."""
    network = sources.tokenizer.encode(embeddings)
    published = values[:, :-1]
    by_graph = np.concatenate([graph.codes, graph.experts], axis=1)
    by_network = np.concatenate([network.codes, network.experts], axis=1)
    differs = (published != by_graph).any(axis=1)
    wrong = np.flatnonzero(differs & (published != by_network).any(axis=1))
    if len(wrong):
        row = int(wrong[0])
        raise ModelError(
            f"codes: {len(wrong)} items have a published ID that the tokenizer does not give them; item "
            f"{_name(sources.domains, row)} has {published[row].tolist()}, but gets {by_network[row].tolist()}; "
            f"the IDs were made from other vectors or by another tokenizer"
        )
    return int(differs.sum())


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
    """The encoder's vectors of some items' texts are the stored embeddings; also makes the sample of `verify`.

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


@dataclass(frozen=True)
class _Histories:
    """Histories of one domain's test users: item rows back to back, and where each begins."""

    domain: ExportedDomain
    rows: NDArray[np.int32]
    splits: NDArray[np.int64]


def _draw(sources: Sources, count: int, random: np.random.Generator) -> list[_Histories]:
    """Histories of the test split, `count` in all if there are so many, spread evenly over the domains."""
    splits = [leave_one_out(each.data.history_items, each.data.history_starts).test for each in sources.domains]
    left, drawn = count, []
    # The smallest first, so that what they lack is taken from the larger ones.
    for place, number in enumerate(sorted(range(len(splits)), key=lambda each: len(splits[each]))):
        test, domain = splits[number], sources.domains[number]
        share = min(len(test), -(-left // (len(splits) - place)))
        users = np.sort(random.choice(len(test), share, replace=False))
        parts = [domain.data.history_items[test.starts[user] : test.stops[user]] for user in users]
        if parts:
            lengths = np.cumsum([0, *(len(part) for part in parts)], dtype=np.int64)
            drawn.append(_Histories(domain, np.concatenate(parts), lengths))
        left -= share
    if not drawn:
        raise ModelError("no domain has a user with three interactions, so no ranked list can be proven")
    return drawn


def _prove_lists(
    recommender: Recommender, trained: TrainedRecommender, drawn: list[_Histories], beams: int, advance: Advance
) -> ProvenLists:
    """Graph against `generate`, domain by domain; keeps some clear cases for `verify`."""
    proven = ProvenLists([], [], [], [], [], {})
    lists, ties, torn, greatest = 0, 0, 0, 0.0
    for histories in drawn:
        name, layout = histories.domain.data.name, trained.layout
        tokens = layout.tokens(histories.domain.values)
        leaves = np.arange(len(tokens), dtype=np.int32)
        index = CodeTrie.from_tokens(tokens, np.zeros_like(leaves), leaves, root_count=1).arrays()
        allowed = AllowedTokens(tokens)
        wanted = -(-STORED_LISTS // len(drawn))
        for batch in _batches(histories, trained):
            roots = np.zeros((len(batch.tokens), 1), dtype=np.int32)
            found = recommender.search(batch.tokens, batch.mask, index, roots, np.full_like(roots, -1), beams)
            expected = generate_lists(trained.model, batch.tokens, batch.mask, allowed, beams)
            for row in range(len(batch.tokens)):
                compared = compare_lists(
                    expected.tokens[row], expected.log_prob[row], found.tokens[row], found.log_prob[row]
                )
                one = batch.tokens[row][batch.mask[row] == 1], batch.mask[row][batch.mask[row] == 1]
                if compared.problem is not None:
                    # Two right searches part where a step keeps one of two beams that score alike.
                    if narrowest_choice(trained.model, *one, tokens, beams) > TIE:
                        raise ModelError(f"recommender {recommender.part.name}, {name}: {compared.problem}")
                    torn += 1
                else:
                    ties, greatest = ties + compared.ties, max(greatest, compared.difference)
                    clear = wanted > 0 and not compared.ties
                    if clear and narrowest_choice(trained.model, *one, tokens, beams) > CLEAR:
                        wanted -= 1
                        proven.domain.append(name)
                        proven.history.append(one[0])
                        proven.history_mask.append(one[1])
                        proven.tokens.append(found.tokens[row])
                        proven.log_prob.append(found.log_prob[row])
            lists += len(batch.tokens)
            advance(len(batch.tokens))
    figures = {
        "histories": lists,
        "domains": len(drawn),
        "beams": beams,
        "tied_ranks": ties,
        "lists_parted_by_a_tie": torn,
        "greatest_difference": greatest,
    }
    return ProvenLists(proven.domain, proven.history, proven.history_mask, proven.tokens, proven.log_prob, figures)


@dataclass(frozen=True)
class _Batch:
    """int64 [B, S] tokens and mask."""

    tokens: NDArray[np.int64]
    mask: NDArray[np.int64]


def _batches(histories: _Histories, trained: TrainedRecommender) -> Iterator[_Batch]:
    """Histories as the recommender reads them."""
    layout, splits = trained.layout, histories.splits
    lead = layout.domain_token(histories.domain.data.name)
    for start in range(0, len(splits) - 1, BATCH):
        own = splits[start : start + BATCH + 1]
        values = histories.domain.values[histories.rows[own[0] : own[-1]]]
        domain_tokens = np.full(len(own) - 1, lead, dtype=np.int64) if layout.domains else None
        laid = history_tokens(layout, values, own - own[0], trained.max_history, domain_tokens)
        yield _Batch(laid.tokens, laid.mask)
