"""Likeness to the last item of a new history: against slow twins, and in a planted domain nobody has met."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recommender_planted import TINY, random_values, ring_corpus
from test_semantic_t5 import LAYOUTS, SCORES, built, scoring_state, tokens_of

from service.engine.history_tokens import history_tokens
from service.index.trie import CodeTrie
from service.semantic_ids import IntArray, TokenLayout
from training.export.reference import AllowedTokens, generate_lists
from training.networks.item_encoder import last_state
from training.networks.known_ids import KnownIds
from training.networks.likeness import ALIKE
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import build_t5
from training.networks.token_tables import code_positions, head_rows_of_items
from training.recommender.batches import collate
from training.recommender.beam_search import TrieTensors, beam_search
from training.recommender.corpus import Corpus
from training.recommender.likeness import likeness_rows


def is_new(corpus: Corpus, known: int) -> NDArray[np.bool_]:
    """Of histories of validation, which are new to a network that knows so many items."""
    found = []
    for start, stop in zip(corpus.validation.start, corpus.validation.stop, strict=True):
        history = corpus.history_items[start:stop]
        found.append(bool((history >= known).all()))
    return np.asarray(found)


@LAYOUTS
def test_behind_a_new_history_what_the_tokens_of_its_last_item_stand_for_scores(layout: TokenLayout) -> None:
    corpus = ring_corpus(users=60, layout=layout)
    model, batch = built(corpus, known=slice(0, 12), likeness=True), collate(corpus, corpus.validation, 20)
    with torch.inference_mode():
        encoded = model.encoder(torch.from_numpy(batch.history), torch.from_numpy(batch.mask))
        assert encoded.mask is not None
        states, found = last_state(encoded.last_hidden_state, encoded.mask), scoring_state(model, batch)
    last, new, nothing = corpus.history_items[corpus.validation.stop - 1], is_new(corpus, 12), torch.zeros(TINY.d_model)
    assert (last[~new] >= 12).any()
    assert 5 < new.sum() < 55
    for row, item in enumerate(last):
        rows = head_rows_of_items(layout, tokens_of(corpus)[item])
        # A history does not write a suffix of 0.
        content = model.item_likeness[rows if corpus.values[item, -1] else rows[:-1]].sum(dim=0)
        halves = [nothing, ALIKE * content / content.norm()] if new[row] else [states[row], nothing]
        torch.testing.assert_close(found[row], torch.cat(halves))


def test_without_content_nothing_is_alike() -> None:
    corpus = ring_corpus(users=30)
    model, batch = built(corpus, known=slice(0, 12), likeness=True), collate(corpus, corpus.validation, 20)
    model.item_likeness.zero_()
    found = scoring_state(model, batch)
    assert not found[:, TINY.d_model :].any()
    assert found[:, : TINY.d_model].any(dim=1).all()


@LAYOUTS
def test_behind_a_history_that_was_met_nothing_changes(layout: TokenLayout) -> None:
    corpus = ring_corpus(users=60, layout=layout)
    with_it, without = (built(corpus, known=slice(0, 12), likeness=likeness) for likeness in (True, False))
    state = {name: tensor for name, tensor in with_it.state_dict().items() if name in without.state_dict()}
    half, other_half = state["item_ahead"].chunk(2)
    assert not torch.equal(half, other_half)
    without.load_state_dict({**state, "item_ahead": half})
    batch = collate(corpus, corpus.validation.take(np.flatnonzero(~is_new(corpus, 12))), 20)
    allowed = AllowedTokens(corpus.layout.tokens(corpus.values))
    found, expected = (generate_lists(each, batch.history, batch.mask, allowed, 8) for each in (with_it, without))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.log_prob, expected.log_prob, atol=1e-5)


@LAYOUTS
def test_rows_of_items_sum_to_their_content(layout: TokenLayout) -> None:
    values, embeddings = planted(layout, np.random.default_rng(1), 60)
    tokens = torch.from_numpy(layout.tokens(values).astype(np.int64))
    rows = likeness_rows(layout, tokens, embeddings, 4)
    sums = rows[head_rows_of_items(layout, tokens)].sum(dim=1)
    assert float(sums.square().sum(dim=1).mean()) == pytest.approx(1, abs=1e-5)
    others = np.delete(np.arange(layout.depth), code_positions(layout))
    assert not rows[head_rows_of_items(layout, tokens)[:, others]].any()
    assert likeness_rows(layout, tokens, embeddings, 9)[:, 6:].abs().max() < 1e-4


def planted(layout: TokenLayout, random: np.random.Generator, items: int) -> tuple[IntArray, NDArray[np.float32]]:
    """Semantic IDs, and embeddings that are sums of a vector for each of their codes, of which the first says
    most."""
    values = random_values(layout, items, random)
    meanings = np.random.default_rng(0).normal(size=(layout.levels, layout.codes, 6))
    loud = 0.5 ** np.arange(layout.levels)
    content = sum(loud[level] * meanings[level, values[:, level]] for level in range(layout.levels))
    return values, np.asarray(content, dtype=np.float32)


@pytest.mark.parametrize("expert_first", [True, False])
def test_in_a_domain_nobody_has_met_what_is_alike_is_found(expert_first: bool) -> None:
    layout = TokenLayout(levels=2, codes=8, experts=2, experts_per_item=1, suffixes=8, expert_first=expert_first)
    values, embeddings = planted(layout, np.random.default_rng(2), 240)
    tokens = torch.from_numpy(layout.tokens(values).astype(np.int64))
    met = np.flatnonzero(values[:, -1] == 0)
    met, new = met[::2], met[1::2]
    ids = KnownIds.of(layout, tokens[met])
    hits = {}
    for likeness in (False, True):
        torch.manual_seed(0)
        model = build_t5(layout, SCORES.model_copy(update={"likeness": likeness}), ids.sizes).eval()
        assert isinstance(model, SemanticT5)
        model.know(ids)
        if likeness:
            model.item_likeness.copy_(likeness_rows(layout, tokens[met], embeddings[met], TINY.d_model))
        model.look_ahead(tokens[met], torch.ones(len(met)))
        read = history_tokens(layout, values[new], np.arange(len(new) + 1), 20, None)
        trie = CodeTrie.from_tokens(
            layout.tokens(values[new]), np.zeros(len(new), np.int32), np.arange(len(new), dtype=np.int32), 1
        )
        lists = beam_search(
            model,
            torch.from_numpy(read.tokens),
            torch.from_numpy(read.mask),
            TrieTensors.of(trie.arrays(), torch.device("cpu")),
            torch.zeros(len(new), dtype=torch.long),
            beams=8,
        ).numpy()
        unit = embeddings[new] - embeddings[met].mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        cosine = unit @ unit.T
        np.fill_diagonal(cosine, -1)
        hits[likeness] = float((lists == cosine.argmax(axis=1)[:, None]).any(axis=1).mean())
    assert hits[True] > 0.8, hits
    assert hits[False] < 0.4, hits
