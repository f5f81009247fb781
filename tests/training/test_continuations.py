"""Reading ahead in one pass of the decoder: what is listed against loops over items, what is found against steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from beam_twin import LAYOUT, SMALL, Items, random_histories, random_items, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import BeamResult, Recommender
from service.engine.sessions import Runtime, open_session
from service.engine.signature import Tensor
from service.errors import ModelError
from service.index.trie import CodeTrie, TrieArrays
from service.ranked_lists import compare_lists
from service.semantic_ids import TokenLayout
from training.graphs import beam_search
from training.graphs.beam_search import BeamSearch, _Progress
from training.graphs.beams import NOTHING, Beams, SearchInputs, Standing
from training.graphs.continuations import SPARE, Continuations
from training.graphs.graph import Graph, Value
from training.graphs.recommender import export_recommender
from training.graphs.t5_graph import EncodedHistory
from training.networks.t5 import T5Settings

DEPTH = 5
PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
GIVEN = [
    *(Tensor(name, "int32", (name,)) for name in ("node_start", "node_count", "edge_token", "edge_child")),
    Tensor("node", "int32", ("B", "W")),
    Tensor("score", "float32", ("B", "W")),
    Tensor("beam_slots", "int32", ("W",)),
    Tensor("parent", "int64", ("B", "W")),
    Tensor("edge", "int32", ("B", "W")),
    Tensor("kept", "float32", ("B", "W")),
]
LISTED = [
    Tensor("fit", "bool", ()),
    Tensor("tokens", "int32", ("B", "K", "left")),
    Tensor("beam", "int64", ("B", "K")),
    Tensor("rows", "int64", ("rows",)),
    Tensor("rows_after", "int64", ("rows",)),
]


def listing(written: int, folder: Path) -> Path:
    """A graph of `Continuations` alone, and of one step after it."""
    graph = Graph("continuations")
    start, count, token, child, node, score, slots, parent, edge, kept = (
        graph.input(each.name, each.dtype, each.shape) for each in GIVEN
    )
    none = graph.constant(np.zeros((1, 1), np.int32))
    inputs = SearchInputs(start, count, token, child, none, none, slots, [none] * DEPTH)
    ahead = Continuations(graph, inputs, written, Standing(node, score, None))

    def rest() -> Sequence[Value]:
        tokens, beam = ahead.descent()
        after = ahead.after(0, ahead.beams(), Beams(kept, token, edge, node, parent, None))
        together = graph.concat([each.unsqueeze(2) for each in tokens], axis=2)
        return together, beam, ahead.rows(0, ahead.beams()), ahead.rows(1, after)

    def nothing() -> Sequence[Value]:
        rows = graph.constant(np.zeros(0, np.int64))
        return graph.constant(np.zeros((0, 0, 0), np.int32)), rows.unsqueeze(0), rows, rows

    found = ahead.fit, *graph.either(ahead.fit, rest, nothing, *(each.dtype for each in LISTED[1:]))
    for value, each in zip(found, LISTED, strict=True):
        graph.output(value, each.name, each.dtype, each.shape)
    path = folder / f"continuations_{written}.onnx"
    graph.save(path)
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    folder = tmp_path_factory.mktemp("continuations")
    return {written: listing(written, folder) for written in (1, 2, 3)}


def followed(index: TrieArrays, prefix: tuple[int, ...]) -> tuple[int, int]:
    """The node behind a prefix, and the edge that leads to it."""
    node, edge = int(index.roots[0]), -1
    for token in prefix:
        start, count = int(index.node_start[node]), int(index.node_count[node])
        edge = start + index.edge_token[start : start + count].tolist().index(token)
        node = int(index.edge_child[edge])
    return node, edge


@given(
    random=st.integers(0, 10_000).map(np.random.default_rng),
    count=st.integers(1, 60),
    width=st.integers(1, 12),
    written=st.sampled_from([1, 2, 3]),
    shared=st.sampled_from([0, 2]),
)
@settings(max_examples=80, deadline=None)
def test_what_follows_is_listed(  # noqa: PLR0917  all of them are drawn
    graphs: dict[int, Path], random: np.random.Generator, count: int, width: int, written: int, shared: int
) -> None:
    tokens = np.unique(random.integers(1, 5, (count, DEPTH)).astype(np.int32), axis=0)
    nothing, leaves = np.zeros(len(tokens), np.int32), np.arange(len(tokens), dtype=np.int32)
    index = CodeTrie.from_tokens(tokens, nothing, leaves, 1, shared).arrays()
    read = sorted({tuple(item[:-1]) for item in tokens.tolist()})
    node, edge, parent = np.full((2, width), -1, np.int32), np.zeros((2, width), np.int32), np.zeros((2, width), int)
    score, kept = (np.full((2, width), NOTHING, np.float32) for _ in range(2))
    beams, steps, expected = [], [], []
    for request in range(2):
        # Beams stand in any order, and beams that do not exist among them; so after a step.
        prefixes = random.permutation(sorted({item[:written] for item in read}))[: random.integers(0, width + 1)]
        beams.append(dict(zip(random.permutation(width).tolist(), map(tuple, prefixes.tolist()), strict=False)))
        expected.append(
            [(at, item[written:]) for at in sorted(beams[-1]) for item in read if item[:written] == beams[-1][at]]
        )
        possible = random.permutation(sorted({(at, path[0]) for at, path in expected[-1]}))
        steps.append(dict(enumerate(map(tuple, possible[: random.integers(0, width + 1)].tolist()))))
        for at, prefix in beams[-1].items():
            node[request, at], score[request, at] = followed(index, prefix)[0], -at
        for at, (beam, token) in steps[-1].items():
            parent[request, at], edge[request, at] = beam, followed(index, (*beams[-1][beam], token))[1]
            kept[request, at] = -at
    given_now = {"node": node, "score": score, "parent": parent, "edge": edge, "kept": kept}
    arrays = {each.name: getattr(index, each.name) for each in GIVEN[:4]}
    session = open_session(graphs[written], Runtime(threads=1), GIVEN, LISTED)
    found = session.run({**arrays, **given_now, "beam_slots": np.arange(width, dtype=np.int32)})
    most = max(1, *map(len, expected))
    assert found["fit"] == (most <= width + width // SPARE)
    if not found["fit"]:
        return
    assert found["tokens"].shape == (2, most, DEPTH - written - 1)
    for request in range(2):
        paths = map(tuple, found["tokens"][request].tolist())
        listed = list(zip(found["beam"][request].tolist(), paths, strict=True))
        assert listed[: len(expected[request])] == expected[request]
        rows, after = (
            found[name].reshape(2, width)[request] - request * most * (DEPTH - written)
            for name in ("rows", "rows_after")
        )
        for at in beams[request]:
            place, position = divmod(int(rows[at]), DEPTH - written)
            assert (listed[place][0], position) == (at, 0)
        for at, step in steps[request].items():
            place, position = divmod(int(after[at]), DEPTH - written)
            assert (listed[place][0], listed[place][1][0], position) == (*step, 1)
        # What stands for beams that do not exist can be looked up.
        for each in (rows, after):
            assert ((each >= 0) & (each < most * (DEPTH - written))).all()


def opened(folder: Path, model_settings: T5Settings, layout: TokenLayout, items: Items) -> Recommender:
    known = items.tokens[::2] if model_settings.history == "items" else None
    export_recommender(random_model(1, model_settings, layout, known), layout, folder / PART.model)
    return Recommender.open(folder / PART.model, PART, layout, Runtime(threads=1))


def search(recommender: Recommender, items: Items, beams: int, blocked: NDArray[np.int32]) -> BeamResult:
    history, mask = random_histories(1, (11, 40, 5, 23))
    # One request has two domains, and one has a domain with next to nothing in it.
    roots = items.trie.arrays().roots[np.asarray([[0, 0], [0, 1], [2, 2], [1, 1]])].astype(np.int32)
    roots[[0, 2, 3], 1] = -1
    return recommender.search(history, mask, items.trie.arrays(), roots, np.tile(blocked, (4, 1)), beams)


ITEMS = SMALL.model_copy(update={"history": "items", "item_head": 0.6, "decoder_layers": 1})
CODES = replace(LAYOUT, codes=24)


@pytest.mark.parametrize("layout", [CODES, replace(CODES, expert_first=True)], ids=["expert last", "expert first"])
@pytest.mark.parametrize("model_settings", [SMALL, ITEMS], ids=["tokens", "items"])
def test_one_pass_finds_what_steps_find(
    model_settings: T5Settings, layout: TokenLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = random_items(2, (150, 60, 3), layout)
    ahead = opened(tmp_path, model_settings, layout, items)
    monkeypatch.setattr(beam_search, "AHEAD", 0)
    stepwise = opened(tmp_path, model_settings, layout, items)
    edges = np.flatnonzero(items.trie.arrays().edge_token > 0).astype(np.int32)
    for beams in (1, 4, 10, 25, 150):
        for blocked in (edges[:0], edges[::7]):
            found, expected = (search(each, items, beams, blocked) for each in (ahead, stepwise))
            sides = (expected.tokens, expected.log_prob, found.tokens, found.log_prob)
            assert [problem for each in zip(*sides, strict=True) if (problem := compare_lists(*each).problem)] == []
            np.testing.assert_array_equal(found.leaf, expected.leaf)
            np.testing.assert_allclose(found.log_prob_by_level, expected.log_prob_by_level, atol=1e-4)


def test_one_pass_is_made_where_it_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that is broken breaks just the searches that make it."""
    whole = BeamSearch._at_once

    def broken(self: BeamSearch, encoded: EncodedHistory, progress: _Progress, *rest: Any) -> tuple[Value, ...]:
        return whole(self, encoded, replace(progress, health=progress.health * float("nan")), *rest)

    monkeypatch.setattr(BeamSearch, "_at_once", broken)
    few, crowded = random_items(3, (30, 10, 3)), random_items(3, (400, 200, 3))
    recommender, nothing = opened(tmp_path, SMALL, LAYOUT, few), np.zeros(0, np.int32)
    with pytest.raises(ModelError, match="NaN"):
        search(recommender, few, 40, nothing)
    assert (search(recommender, crowded, 5, nothing).leaf >= 0).any()
