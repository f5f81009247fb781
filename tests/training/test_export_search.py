"""The exported search against two slow twins: transformers' constrained `generate`, and scoring every item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from beam_twin import (
    LAYOUT,
    SMALL,
    Items,
    random_histories,
    random_items,
    random_model,
    score_every_item,
    score_every_level,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import BeamResult, Recommender
from service.engine.sessions import Runtime
from service.errors import ModelError
from service.index.trie import CodeTrie
from service.ranked_lists import compare_lists
from service.semantic_ids import TokenLayout
from training.export.reference import AllowedTokens, generate_lists, narrowest_choice
from training.graphs.position_bias import distance_buckets
from training.graphs.recommender import export_recommender
from training.networks.item_encoder import last_state
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import T5Settings

PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
GATED = SMALL.model_copy(update={"feed_forward": "gated-gelu", "encoder_layers": 1, "decoder_layers": 3, "heads": 2})


def exported(model: T5ForConditionalGeneration, folder: Path, layout: TokenLayout = LAYOUT) -> Recommender:
    path = folder / "recommender.onnx"
    export_recommender(model, layout, path)
    return Recommender.open(path, PART, layout, Runtime(threads=1))


@pytest.fixture(scope="module")
def model() -> T5ForConditionalGeneration:
    return random_model(0)


@pytest.fixture(scope="module")
def recommender(model: T5ForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return exported(model, tmp_path_factory.mktemp("search"))


def search(
    recommender: Recommender,
    items: Items,
    histories: tuple[NDArray[np.int64], NDArray[np.int64]],
    roots: tuple[int, ...],
    beams: int,
    *,
    blocked: NDArray[np.int32] | None = None,
) -> BeamResult:
    history, mask = histories
    batch = len(history)
    if blocked is None:
        blocked = np.zeros(0, dtype=np.int32)
    return recommender.search(
        history,
        mask,
        items.trie.arrays(),
        np.tile(np.asarray(roots, dtype=np.int32), (batch, 1)),
        np.tile(blocked.astype(np.int32), (batch, 1)),
        beams,
    )


EXPERT_FIRST = replace(LAYOUT, expert_first=True)
ITEMS = SMALL.model_copy(update={"history": "items", "item_head": 0.6, "decoder_layers": 1})
HEAD_ALONE = ITEMS.model_copy(update={"item_head": 1.0})
ALIKE = ITEMS.model_copy(update={"likeness": True})
ALIKE_ALONE = ALIKE.model_copy(update={"item_head": 1.0})


@pytest.mark.parametrize(
    ("settings_of", "seed", "layout"),
    [
        (SMALL, 1, LAYOUT),
        (SMALL, 2, LAYOUT),
        (GATED, 3, LAYOUT),
        (SMALL, 6, EXPERT_FIRST),
        (ITEMS, 4, LAYOUT),
        (ITEMS, 5, EXPERT_FIRST),
        (HEAD_ALONE, 7, EXPERT_FIRST),
        (ALIKE, 7, LAYOUT),
        (ALIKE, 8, EXPERT_FIRST),
        (ALIKE_ALONE, 9, EXPERT_FIRST),
    ],
    ids=[
        *("relu", "again", "gated", "expert first", "items", "items, expert first", "head alone"),
        *("likes", "likes, expert first", "likes, head alone"),
    ],
)
def test_lists_are_those_of_generate(settings_of: T5Settings, seed: int, layout: TokenLayout, tmp_path: Path) -> None:
    items = random_items(seed, (120,), layout)
    # Two thirds of the items were there when the network learned; the others came later.
    known = items.tokens[np.arange(120) % 3 > 0] if settings_of.history == "items" else None
    model = random_model(seed, settings_of, layout, known)
    history, mask = random_histories(seed, (11, 40, 5, 23))
    recommender, allowed = exported(model, tmp_path, layout), AllowedTokens(items.tokens)
    for beams in (1, 5, 20):
        found = search(recommender, items, (history, mask), (0,), beams)
        expected = generate_lists(model, history, mask, allowed, beams)
        assert np.isfinite(found.log_prob).all()
        for row in range(len(history)):
            compared = compare_lists(
                expected.tokens[row], expected.log_prob[row], found.tokens[row], found.log_prob[row]
            )
            if compared.problem is not None:
                assert narrowest_choice(model, history[row], mask[row], items.tokens, beams) < 1e-4, compared.problem
            same = (expected.tokens[row] == found.tokens[row]).all(axis=1)
            levels = found.log_prob_by_level[row, same]
            np.testing.assert_allclose(levels, expected.log_prob_by_level[row, same], atol=1e-4)


def test_a_head_that_scores_alone_needs_no_decoder(tmp_path: Path) -> None:
    """Nothing of the decoder is in the graph; and what is found is what the head finds over all items."""
    items = random_items(8, (60,), EXPERT_FIRST)
    model = random_model(8, HEAD_ALONE, EXPERT_FIRST, items.tokens)
    history, mask = random_histories(8, (11, 23))
    found = search(exported(model, tmp_path, EXPERT_FIRST), items, (history, mask), (0,), 60)
    names = {tensor.name for tensor in onnx.load(tmp_path / "recommender.onnx").graph.initializer}
    assert "item_head" in names
    assert not any(name.startswith(("decoder", "shared", "to_logits")) for name in names)
    assert isinstance(model, SemanticT5)
    with torch.inference_mode():
        encoded = model.encoder(torch.from_numpy(history), torch.from_numpy(mask))
        state = last_state(encoded.last_hidden_state, encoded.mask)
        scores = (state @ model.item_vectors(torch.from_numpy(items.tokens.astype(np.int64))).T).numpy()
    np.testing.assert_array_equal(found.leaf, np.argsort(-scores, axis=1))
    np.testing.assert_allclose(found.log_prob, -np.sort(-scores, axis=1), rtol=1e-4, atol=1e-4)


def test_broken_weights_are_found_where_the_head_scores_alone(tmp_path: Path) -> None:
    items = random_items(9, (30,), EXPERT_FIRST)
    model = random_model(9, HEAD_ALONE, EXPERT_FIRST, items.tokens)
    with torch.no_grad():
        model.encoder.final_layer_norm.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        search(exported(model, tmp_path, EXPERT_FIRST), items, random_histories(9, (5,)), (0,), 4)


def test_a_history_longer_than_the_last_bucket_and_a_single_token(
    model: T5ForConditionalGeneration, recommender: Recommender
) -> None:
    items, (history, mask) = random_items(3, (40,)), random_histories(3, (200, 1))
    found = search(recommender, items, (history, mask), (0,), 40)
    for row in range(2):
        scores = score_every_item(model, history[row], mask[row], items.tokens)
        np.testing.assert_allclose(found.log_prob[row], np.sort(scores)[::-1], atol=1e-4)


@pytest.mark.parametrize("roots", [(0,), (1,), (1, -1, 0), (-1, 2, 1)])
def test_with_beams_for_everything_it_equals_scoring_every_item(
    model: T5ForConditionalGeneration, recommender: Recommender, roots: tuple[int, ...]
) -> None:
    items, (history, mask) = random_items(4, (40, 25, 1)), random_histories(4, (9, 30, 2))
    found = search(recommender, items, (history, mask), roots, 80)
    qualify = np.flatnonzero(np.isin(items.roots, roots))
    for row in range(len(history)):
        levels = score_every_level(model, history[row], mask[row], items.tokens)
        scores, alive = levels.sum(axis=1), found.leaf[row] >= 0
        assert sorted(found.leaf[row][alive]) == qualify.tolist()
        np.testing.assert_allclose(found.log_prob[row][alive], scores[found.leaf[row][alive]], atol=1e-4)
        np.testing.assert_allclose(found.log_prob_by_level[row][alive], levels[found.leaf[row][alive]], atol=1e-4)
        assert (np.diff(found.log_prob[row][alive]) <= 0).all()
        np.testing.assert_array_equal(found.tokens[row][alive], items.tokens[found.leaf[row][alive]])
        assert np.isneginf(found.log_prob[row][~alive]).all()
        assert np.isneginf(found.log_prob_by_level[row][~alive]).all()
        assert (found.tokens[row][~alive] == 0).all()


def test_a_batch_gives_what_its_singles_give(recommender: Recommender) -> None:
    items, (history, mask) = random_items(5, (100, 50)), random_histories(5, (3, 17, 60, 29))
    together = search(recommender, items, (history, mask), (0, 1), 20)
    for row, length in enumerate((3, 17, 60, 29)):
        alone = search(recommender, items, (history[row : row + 1, :length], mask[row : row + 1, :length]), (0, 1), 20)
        compared = compare_lists(alone.tokens[0], alone.log_prob[0], together.tokens[row], together.log_prob[row])
        assert compared.problem is None


def test_requests_of_one_batch_keep_their_own_roots_and_limits(recommender: Recommender) -> None:
    items, (history, mask) = random_items(6, (30, 30)), random_histories(6, (9, 9, 9))
    roots = np.asarray([[0, -1], [1, -1], [0, 1]], dtype=np.int32)
    first = search(recommender, items, (history, mask), (0, 1), 5).leaf[1, 0]
    edge = items.trie.blocked_edges(items.roots[[first]], items.tokens[[first]])
    blocked = np.asarray([[-1], [edge[0]], [-1]], dtype=np.int32)
    found = recommender.search(history, mask, items.trie.arrays(), roots, blocked, 60)
    assert (items.roots[found.leaf[0][:30]] == 0).all()
    assert (found.leaf[0][30:] == -1).all()
    assert (items.roots[found.leaf[1][found.leaf[1] >= 0]] == 1).all()
    assert first not in found.leaf[1]
    assert first in found.leaf[2]
    assert (found.leaf[2] >= 0).all()


@settings(max_examples=40)
@given(data=st.data())
def test_blocked_items_never_come_out_and_the_others_do(recommender: Recommender, data: st.DataObject) -> None:
    sizes = data.draw(st.tuples(st.integers(1, 60), st.integers(0, 20)))
    items = random_items(data.draw(st.integers(0, 50)), sizes)
    excluded = np.asarray(sorted(data.draw(st.sets(st.integers(0, sum(sizes) - 1)))), dtype=np.int64)
    beams = data.draw(st.sampled_from([1, 3, 10, 50]))
    blocked = items.trie.blocked_edges(items.roots[excluded], items.tokens[excluded])
    found = search(
        recommender, items, random_histories(data.draw(st.integers(0, 50)), (7,)), (0, 1), beams, blocked=blocked
    )
    leaves = found.leaf[0][found.leaf[0] >= 0]
    np.testing.assert_allclose(found.log_prob_by_level.sum(axis=2), found.log_prob, atol=1e-5)
    assert len(leaves) == min(beams, sum(sizes) - len(excluded))
    assert len(set(leaves.tolist())) == len(leaves)
    assert not set(leaves.tolist()) & set(excluded.tolist())


def test_the_best_that_is_not_blocked_wins_even_behind_many_that_are(
    model: T5ForConditionalGeneration, recommender: Recommender
) -> None:
    items, (history, mask) = random_items(8, (80,)), random_histories(8, (12,))
    ranked = np.argsort(-score_every_item(model, history[0], mask[0], items.tokens))
    for excluded in (1, 10, 79):
        blocked = items.trie.blocked_edges(items.roots[ranked[:excluded]], items.tokens[ranked[:excluded]])
        found = search(recommender, items, (history, mask), (0,), 80, blocked=blocked)
        assert found.leaf[0][: 80 - excluded].tolist() == ranked[excluded:].tolist()


def test_nothing_is_read_from_the_slack_of_a_grown_index(
    model: T5ForConditionalGeneration, recommender: Recommender
) -> None:
    items, (history, mask) = random_items(9, (60,)), random_histories(9, (12,))
    grown = CodeTrie(LAYOUT.depth, 1)
    for leaf in range(60):
        grown.insert(0, items.tokens[leaf], leaf)
    for leaf in range(0, 60, 3):
        grown.delete(0, items.tokens[leaf])
    left = [leaf for leaf in range(60) if leaf % 3]
    root = int(grown.arrays().roots[0])
    found = search(recommender, Items(items.tokens, items.roots, grown), (history, mask), (root,), 70)
    assert sorted(found.leaf[0][found.leaf[0] >= 0]) == left
    scores = score_every_item(model, history[0], mask[0], items.tokens)
    np.testing.assert_allclose(found.log_prob[0][:40], np.sort(scores[left])[::-1], atol=1e-4)


def test_an_empty_index_has_no_results(recommender: Recommender) -> None:
    for trie, roots in ((CodeTrie(LAYOUT.depth, 1), (0,)), (CodeTrie(LAYOUT.depth, 0), (-1,))):
        empty = Items(np.zeros((0, LAYOUT.depth), np.int32), np.zeros(0, np.int32), trie)
        found = search(recommender, empty, random_histories(0, (4, 2)), roots, 3)
        assert found.leaf.tolist() == [[-1] * 3] * 2
        assert np.isneginf(found.log_prob).all()
        assert np.isneginf(found.log_prob_by_level).all()
        assert (found.tokens == 0).all()


def test_one_item_is_found_and_can_be_blocked(recommender: Recommender) -> None:
    items = random_items(0, (1,))
    found = search(recommender, items, random_histories(0, (4,)), (0,), 3)
    assert found.leaf.tolist() == [[0, -1, -1]]
    assert found.tokens[0, 0].tolist() == items.tokens[0].tolist()
    blocked = items.trie.blocked_edges(items.roots, items.tokens)
    assert search(recommender, items, random_histories(0, (4,)), (0,), 3, blocked=blocked).leaf.tolist() == [
        [-1, -1, -1]
    ]


def test_a_request_without_results_leaves_the_others_of_its_batch_alone(recommender: Recommender) -> None:
    items, histories = random_items(7, (1, 30)), random_histories(7, (6, 6, 6))
    everything = items.trie.blocked_edges(items.roots, items.tokens)
    blocked = np.full((3, len(everything)), -1, dtype=np.int32)
    blocked[1] = everything
    roots = np.asarray([[0, -1], [0, 1], [0, 1]], dtype=np.int32)
    found = recommender.search(*histories, items.trie.arrays(), roots, blocked, 50)
    assert found.leaf[0].tolist() == [0] + [-1] * 49
    assert found.leaf[1].tolist() == [-1] * 50
    assert np.isneginf(found.log_prob[1]).all()
    assert sorted(found.leaf[2]) == [-1] * 19 + list(range(31))


class Watched:
    """A session of a graph whose rankings can be looked into."""

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path)
        self.ranked = [node.input[0] for node in graph.graph.node if node.op_type == "TopK"]
        graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self.ranked)
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        self.seen: list[NDArray[np.float32]] = []

    def run(self, names: list[str], feeds: dict[str, Any]) -> list[Any]:
        values = self._session.run([*names, *self.ranked], feeds)
        self.seen += values[len(names) :]
        return values[: len(names)]


def test_the_graph_ranks_finite_numbers_alone(recommender: Recommender) -> None:
    """Also where there is less to be found than beams: the CUDA provider's TopK puts numbers of its own above -inf."""
    watched = Watched(recommender._session.path)
    looked_into = replace(recommender, _session=replace(recommender._session, _session=watched))
    items = random_items(0, (1,))
    found = search(looked_into, items, random_histories(0, (4, 2)), (0,), 6)
    assert found.leaf.tolist() == [[0] + [-1] * 5] * 2
    assert np.isneginf(found.log_prob[:, 1:]).all()
    numbers = np.concatenate([each.ravel() for each in watched.seen])
    assert np.isfinite(numbers).all()
    assert np.finfo(np.float32).min < numbers.min() < -1e20, "nothing stood for a beam that does not exist"


def test_two_experts_an_item_make_the_search_one_level_deeper(tmp_path: Path) -> None:
    layout = TokenLayout(levels=2, codes=6, experts=4, experts_per_item=2, suffixes=2)
    model, items = random_model(1, SMALL, layout), random_items(1, (40,), layout)
    history, mask = np.asarray([[4, 9, 15]]), np.ones((1, 3), dtype=np.int64)
    found = search(exported(model, tmp_path, layout), items, (history, mask), (0,), 40)
    scores = score_every_item(model, history[0], mask[0], items.tokens)
    np.testing.assert_allclose(found.log_prob[0], np.sort(scores)[::-1], atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_distances_fall_into_the_buckets_of_transformers(bidirectional: bool) -> None:
    config = T5Settings().config(LAYOUT)
    distance = torch.arange(-128, 129)
    expected = T5Attention._relative_position_bucket(distance, bidirectional, 32, 128)
    assert distance_buckets(config, bidirectional).tolist() == expected.tolist()


def test_a_model_of_another_vocabulary_is_refused(model: T5ForConditionalGeneration, tmp_path: Path) -> None:
    layout = TokenLayout(levels=3, codes=9, experts=3, experts_per_item=1, suffixes=4)
    with pytest.raises(ModelError, match=r"has 34 tokens, but the layout has 37"):
        export_recommender(model, layout, tmp_path / "recommender.onnx")
