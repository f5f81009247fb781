"""Verifies that a bundle gives the results proven at export: runs every graph on the stored sample and compares.

Knows nothing of networks and of the command line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.bundle.files import Bundle
from service.bundle.sample import SAMPLE, ProvenSample
from service.catalogue.seeding import read_bundle_catalogue
from service.engine.engine import Engine
from service.engine.recommender import BeamResult, Recommender
from service.engine.sessions import Provider, Runtime
from service.errors import BundleError, ModelError
from service.index.trie import CodeTrie
from service.ranked_lists import BEST, TIE, Kept, compare_best, compare_lists
from service.semantic_ids import IntArray, TokenLayout

VECTOR_TOLERANCE = 1e-3
"""Greatest difference in a component of a text's unit vector that counts as rounding, also for int8 encoders."""

KEPT = 0.95
"""Least share of the top items of a recommender's stored lists that must stay if it computes in half precision. Exports
store lists that one such rounding did not change; a GPU rounds differently again."""


@dataclass(frozen=True)
class Check:
    """A passed check: its name, and what was checked."""

    name: str
    what: str


def verify(folder: Path, provider: Provider = "cpu", threads: int = 0) -> Iterator[Check]:
    """Check a bundle step by step; yields each check that passes.

    Raises
    ------
    BundleError : a file is missing or altered, a signature or the catalogue differs from the manifest, or the stored
        sample does not belong to this bundle
    ModelError : a graph gives another result than was proven; names the tensor
    """
    bundle = Bundle.open(folder)
    yield Check("hashes", f"{len(bundle.manifest.files)} files have the SHA-256 that the manifest states")
    engine = Engine.open(bundle, provider, threads)
    _require_no_further_tokens(engine, provider, threads)
    names = ", ".join(recommender.part.name for recommender in engine.recommenders)
    yield Check("signatures", f"text encoder, item tokenizer, recommenders ({names}) open on {provider}")
    catalogue = read_bundle_catalogue(bundle, engine.layout)
    domains = catalogue["domain"].n_unique()
    yield Check("catalogue", f"{len(catalogue)} items in {domains} domains, each with a semantic ID of its own")
    sample = _sample_of(bundle, engine, catalogue)
    yield _check_texts(engine, catalogue, sample)
    yield _check_ids(engine, sample)
    yield from _check_lists(engine, catalogue, sample)


def _require_no_further_tokens(engine: Engine, provider: Provider, threads: int) -> None:
    """Refuse recommenders that were trained with more tokens than the manifest says."""
    for recommender in engine.recommenders:
        part, layout, path = recommender.part, recommender.layout, engine.bundle.path(recommender.part.model)
        asked = recommender if provider == "cpu" else Recommender.open(path, part, layout, Runtime(threads=threads))
        if asked.has_further_tokens():
            raise BundleError(
                f"{path}: has more than the {layout.vocabulary} tokens that the manifest's layout and domain_tokens "
                "say it has, so it was trained with more suffixes, or others; put back what the export wrote there"
            )


def catalogue_text(title: str | None, item_id: str) -> str:
    """The text that represents an item of the catalogue in the stored sample."""
    return title or item_id


def _sample_of(bundle: Bundle, engine: Engine, catalogue: pl.DataFrame) -> ProvenSample:
    """The stored sample, checked to fit the bundle and to cover each of its parts."""
    if SAMPLE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.folder}: no {SAMPLE}; `unitok export` writes it, and without it nothing can be compared"
        )
    path, layout = bundle.path(SAMPLE), engine.layout
    sizes = {"D": engine.text_encoder.width, "L": layout.levels, "N": layout.experts_per_item, "depth": layout.depth}
    sample = ProvenSample.load(path, sizes)
    if sample.text_row.min() < 0 or sample.text_row.max() >= len(catalogue):
        raise BundleError(f"{path}: text_row holds a row that is not within 0..{len(catalogue) - 1} of the catalogue")
    names = {recommender.part.name for recommender in engine.recommenders}
    for array, found, known in (
        ("recommender", sample.recommender, names),
        ("domain", sample.domain, set(catalogue["domain"])),
    ):
        unknown = sorted(set(found.tolist()) - known)
        if unknown:
            raise BundleError(f"{path}: {array} holds {unknown[0]!r}, but the bundle has {sorted(known)}")
    for recommender in engine.recommenders:
        name, vocabulary = recommender.part.name, recommender.layout.vocabulary
        history = sample.history[sample.recommender == name]
        if not len(history):
            raise BundleError(
                f"{path}: recommender holds no {name!r}, so no ranked list of it was proven; export the bundle anew"
            )
        if history.min() < 0 or history.max() >= vocabulary:
            raise BundleError(f"{path}: history holds a token of {name!r} that is not within 0..{vocabulary - 1}")
        # A max_history that is too large cannot be detected: no graph has a fixed number of items.
        longest, said = _items_of(recommender.layout, history).max(), recommender.part.max_history
        if longest > said:
            raise BundleError(
                f"{path}: history holds {longest} items for {name!r}, but the manifest's max_history is {said}, so "
                "it was trained with more; put back what the export wrote there"
            )
    return sample


def _items_of(layout: TokenLayout, history: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of items in histories int64 [H, S], as int64 [H]: counts the tokens that start an item."""
    sizes = np.asarray([layout.position_sizes], dtype=np.int32)
    first, last = (layout.tokens(values)[0, 0] for values in (np.zeros_like(sizes), sizes - 1))
    items: NDArray[np.int64] = ((history >= first) & (history <= last)).sum(axis=1)
    return items


def _check_texts(engine: Engine, catalogue: pl.DataFrame, sample: ProvenSample) -> Check:
    rows = catalogue[sample.text_row.tolist()]
    texts = [catalogue_text(title, item_id) for title, item_id in rows.select("title", "item_id").iter_rows()]
    difference = np.abs(engine.text_encoder.encode(texts) - sample.text_vector).max(initial=0.0)
    if not difference <= VECTOR_TOLERANCE:
        raise ModelError(
            f"sentence_embedding: differs from the proven vectors by up to {difference:.3g}, "
            f"but at most {VECTOR_TOLERANCE:.3g} is rounding"
        )
    return Check("text encoder", f"{len(texts)} texts, greatest difference {difference:.1e}")


def _check_ids(engine: Engine, sample: ProvenSample) -> Check:
    found = engine.item_tokenizer.tokenize(sample.embedding)
    for name, expected, got in (("codes", sample.codes, found.codes), ("experts", sample.experts, found.experts)):
        differ = np.flatnonzero((expected != got).any(axis=1))
        if len(differ):
            row = int(differ[0])
            raise ModelError(
                f"{name}: {len(differ)} of {len(got)} stored items differ; item {row} gets {got[row].tolist()}, "
                f"but {expected[row].tolist()} was proven"
            )
    return Check("semantic IDs", f"codes and experts of {len(found.codes)} stored items are equal")


def _check_lists(engine: Engine, catalogue: pl.DataFrame, sample: ProvenSample) -> Iterator[Check]:
    """Check the ranked lists of every recommender, then the constraints that every list must satisfy."""
    results = 0
    for recommender in engine.recommenders:
        mine = sample.recommender == recommender.part.name
        compared: list[Kept] = []
        for domain in sorted(set(sample.domain[mine].tolist())):
            rows = np.flatnonzero(mine & (sample.domain == domain))
            packed = catalogue.filter(pl.col("domain") == domain)["packed"].to_numpy()
            tokens = recommender.layout.tokens(recommender.layout.unpack(packed))
            leaves = np.arange(len(tokens), dtype=np.int32)
            trie = CodeTrie.from_tokens(tokens, np.zeros_like(leaves), leaves, root_count=1)
            index = trie.arrays()
            history, mask = sample.history[rows], sample.history_mask[rows]
            roots, beams = np.zeros((len(rows), 1), dtype=np.int32), sample.tokens.shape[1]
            found = recommender.search(history, mask, index, roots, np.full_like(roots, -1), beams)
            for place, row in enumerate(rows):
                compared.append(_compare_list(sample, int(row), found, place, recommender.part.name))
            first = found.leaf[:, :1]
            blocked = np.stack([trie.blocked_edges(roots[0], tokens[leaf]) for leaf in first])
            again = recommender.search(history, mask, index, roots, blocked, beams)
            for result, banned in ((found, np.full_like(first, -1)), (again, first)):
                results += _require_valid(result, tokens, banned, recommender.part.name)
        what = f"{len(compared)} ranked lists of {sample.tokens.shape[1]} "
        what += _kept(compared, recommender.part.name) if sample.tolerance[mine].any() else "are equal"
        difference = max(one.difference for one in compared)
        yield Check(f"recommender {recommender.part.name}", f"{what}, greatest difference {difference:.1e}")
    yield Check("constraint", f"{results} results: every one is an item, none twice, none that was excluded")


def _compare_list(sample: ProvenSample, row: int, found: BeamResult, place: int, name: str) -> Kept:
    """Compare a list with the stored one: equal up to ties, or, in half precision, with scores within a tolerance."""
    lists = sample.tokens[row], sample.log_prob[row], found.tokens[place], found.log_prob[place]
    compared, tolerance = compare_best(*lists), float(sample.tolerance[row])
    problem = compare_lists(*lists).problem if tolerance == 0 else None
    if tolerance != 0 and not compared.difference <= tolerance:
        problem = f"log_prob: differs by up to {compared.difference:.3g}, but at most {tolerance:.3g} is rounding"
    if problem is not None:
        raise ModelError(f"{name}, stored history {row}: {problem}")
    return compared


def _kept(compared: Sequence[Kept], name: str) -> str:
    """Check that half precision keeps at least the share `KEPT` of the top items; returns the result as text."""
    share = sum(one.kept for one in compared) / sum(one.best for one in compared)
    if share < KEPT:
        raise ModelError(
            f"{name}: semantic_id: {share:.1%} of the {BEST} best of its stored lists are found, but at least "
            f"{KEPT:.0%} must be in half precision"
        )
    return f"keep {share:.1%} of their {BEST} best"


def _require_valid(result: BeamResult, tokens: IntArray, banned: IntArray, name: str) -> int:
    """Count the results of B lists; all must be items, without duplicates, and none banned (int32 [B, 1])."""
    alive = result.leaf >= 0
    width = min(result.leaf.shape[1], len(tokens) - int((banned >= 0).any()))
    if (alive.sum(axis=1) != width).any():
        raise ModelError(f"{name}: leaf: a list has {alive.sum(axis=1).min()} results, but {width} items qualify")
    gap = np.abs(result.log_prob_by_level[alive].sum(axis=1) - result.log_prob[alive]).max(initial=0.0)
    if not gap <= TIE:
        raise ModelError(f"{name}: log_prob_by_level: its sum differs from log_prob by {gap:.3g}")
    if (result.tokens[alive] != tokens[result.leaf[alive]]).any():
        raise ModelError(f"{name}: semantic_id: a result is not the ID of the item it names")
    if any(len(set(row[row >= 0].tolist())) < (row >= 0).sum() for row in result.leaf):
        raise ModelError(f"{name}: leaf: an item is listed twice")
    if (alive & (result.leaf == banned)).any():
        raise ModelError(f"{name}: leaf: an excluded item is listed")
    return int(alive.sum())
