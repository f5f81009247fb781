"""Graphs laid out for a GPU: the lists of those laid out for a processor, and no size that histories decide."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from beam_twin import LAYOUT, SMALL, random_items, random_model, whole_histories
from numpy.typing import NDArray
from tiny import tiny_stages

from service.bundle.files import Bundle, read_manifest
from service.bundle.manifest import RecommenderPart
from service.engine.engine import Engine
from service.engine.history_tokens import history_tokens, require_room
from service.engine.recommender import Recommender
from service.engine.resident import ResidentIndexes
from service.engine.sessions import Runtime, open_session
from service.engine.signature import Tensor
from service.errors import InvalidInput
from service.index.trie import CodeTrie
from service.ranked_lists import compare_lists
from service.semantic_ids import TokenLayout
from service.verifying import verify
from training.export.bundle import export_bundle
from training.graphs.graph import Graph
from training.graphs.item_graph import ItemGraph, ItemTables
from training.graphs.recommender import GRAPH, export_recommender
from training.networks.t5 import T5Settings
from training.networks.token_tables import table_rows

RUNTIME = Runtime(threads=1)
PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
ITEMS = SMALL.model_copy(update={"history": "items", "item_head": 0.6})
SETTINGS = {
    "tokens": SMALL,
    "items": ITEMS,
    "likes": ITEMS.model_copy(update={"likeness": True}),
    "the head alone": ITEMS.model_copy(update={"item_head": 1.0}),
}
LAYOUTS = {"plain": LAYOUT, "expert first, domains lead": replace(LAYOUT, expert_first=True, domains=("a", "b"))}
SIZED = {"Range": (0, 1, 2), "Expand": (1,), "Reshape": (1,), "TopK": (1,), "Slice": (1, 2, 4)}
"""Operands that decide how large a result is."""
UNUSED = frozenset(
    (
        *("NonZero", "Unique", "Compress", "Loop", "If", "Scan", "Tile", "Pad", "Split", "OneHot", "ConstantOfShape"),
        "GatherND",
    )
)
"""Operators whose results are as large as other operands say; and one that sends sizes to a GPU with every run."""


def exported(settings: T5Settings, folder: Path, layout: TokenLayout = LAYOUT) -> list[Path]:
    """One network, laid out for a processor and for a GPU."""
    known = random_items(1, (120,), layout).tokens[::2] if settings.history == "items" else None
    model, paths = random_model(1, settings, layout, known), [folder / "cpu.onnx", folder / "gpu.onnx"]
    for path, for_gpu in zip(paths, (False, True), strict=True):
        export_recommender(model, layout, path, for_gpu=for_gpu)
    return paths


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_both_layouts_rank_alike(settings: T5Settings, layout: TokenLayout, tmp_path: Path) -> None:
    # The last domain has fewer items than there are beams, and the last history none.
    items, (tokens, mask) = random_items(1, (80, 40, 3), layout), whole_histories(1, (7, 1, 20, 4, 0), layout)
    index, domains = items.trie.arrays(), np.asarray([[0, 1], [1, -1], [2, -1], [0, 2], [0, 1]])
    roots = np.where(domains < 0, -1, index.roots[domains]).astype(np.int32)
    cpu, gpu = (Recommender.open(path, PART, layout, RUNTIME) for path in exported(settings, tmp_path, layout))
    fixed = Recommender.open(tmp_path / "gpu.onnx", PART, layout, RUNTIME, ResidentIndexes(RUNTIME), captured=True)
    assert fixed._fixed is not None
    for beams in (1, 5, 8, 30):
        arguments = (tokens, mask, index, roots, roots[:, :0], beams)
        expected = cpu.search(*arguments)
        for _ in range(3):
            fixed.search(*arguments)
        fixed._fixed.settle()
        before = fixed._fixed.answered
        for found in (gpu.search(*arguments), fixed.search(*arguments)):
            sides = (each for side in (expected, found) for each in (side.tokens, side.log_prob))
            compared = [compare_lists(*each) for each in zip(*sides, strict=True)]
            assert [each.problem for each in compared if each.problem] == []
            np.testing.assert_array_equal(found.leaf >= 0, expected.leaf >= 0)
            np.testing.assert_allclose(found.log_prob_by_level, expected.log_prob_by_level, atol=1e-4)
        assert fixed._fixed.answered == before + 1


def reading(layout: TokenLayout, folder: Path, *, room: bool) -> Callable[..., NDArray[np.float32]]:
    """Tokens and mask, int64 [B, S], to float32 [B, n], 1 where a history has an item."""
    graph, sequences = Graph("read"), [Tensor("history", "int64", ("B", "S")), Tensor("mask", "int64", ("B", "S"))]
    tokens, own = np.zeros((table_rows(layout), 2), np.float32), np.zeros((1, 2), np.float32)
    tables = ItemTables(graph.constant(tokens), graph.constant(own), graph.constant(np.zeros(1, np.int32)))
    given = (graph.input(each.name, each.dtype, each.shape) for each in sequences)
    result = Tensor("is_read", "float32", ("B", "n"))
    read = ItemGraph(graph, layout, room=room).read(tables, *given)
    graph.output(read.is_read, result.name, result.dtype, result.shape)
    path = folder / f"read_{room}.onnx"
    graph.save(path)
    session = open_session(path, RUNTIME, sequences, [result])
    return lambda history, mask: session.run({"history": history, "mask": mask})["is_read"]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_tokens_have_room_for_as_many_items_as_they_can_be(layout: TokenLayout, count: int, tmp_path: Path) -> None:
    read = reading(layout, tmp_path, room=True)
    values, leads = np.zeros((count, layout.depth), np.int32), np.asarray([layout.vocabulary - 1])
    history = history_tokens(layout, values, np.asarray([0, count]), 20, leads if layout.domains else None)
    is_read = read(history.tokens, history.mask)
    # A domain counts as an item, and so does the padding that is read in place of nothing.
    np.testing.assert_array_equal(is_read, np.ones((1, count + 1 if layout.domains else max(count, 1))))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_histories_are_refused_just_where_items_of_theirs_would_be_lost(layout: TokenLayout, tmp_path: Path) -> None:
    every, some = (reading(layout, tmp_path, room=room) for room in (False, True))
    random, refused = np.random.default_rng(0), 0
    for _ in range(300):
        batch, width = random.integers(1, 4), random.integers(1, 20)
        # Items begin often, and the rest is anything.
        tokens = np.where(
            random.random((batch, width)) < random.choice([0.1, 0.3, 0.6]),
            layout.tokens(np.zeros((1, layout.depth), np.int32))[0, 0],
            random.integers(0, layout.vocabulary, (batch, width)),
        )
        mask = (np.arange(width) < random.integers(1, width + 1, (batch, 1))).astype(np.int64)
        lost = every(tokens, mask).sum() > some(tokens, mask).sum()
        refused += int(lost)
        with pytest.raises(InvalidInput, match="every item must be whole") if lost else nullcontext():
            require_room(layout, tokens, mask)
    assert 50 < refused < 250


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_size_follows_from_what_histories_hold(settings: T5Settings, tmp_path: Path) -> None:
    cpu, gpu = exported(settings, tmp_path)
    assert deciding_inputs(cpu)
    assert deciding_inputs(gpu) == set()


def test_a_bundle_for_a_gpu_is_proven(tmp_path: Path) -> None:
    stages = tiny_stages(tmp_path)
    figures = export_bundle(stages.folders, tmp_path / "bundle", replace(stages.options, gpu=True))
    assert figures["laid_out_for"] == read_manifest(tmp_path / "bundle").figures["laid_out_for"] == "gpu"
    assert deciding_inputs(tmp_path / "bundle" / GRAPH) == set()
    assert [check.name for check in verify(tmp_path / "bundle", threads=1)][-1] == "constraint"
    # Who calls the engine itself may send anything.
    (recommender,) = Engine.open(Bundle.open(tmp_path / "bundle"), threads=1).recommenders
    layout, nothing = recommender.layout, np.zeros(1, np.int32)
    first = layout.tokens(np.zeros((1, layout.depth), np.int32))
    index = CodeTrie.from_tokens(first, nothing, nothing, 1).arrays()
    beginnings = np.full((2, 2 * layout.depth), first[0, 0], dtype=np.int64)
    beginnings[0] = 0
    arguments = (beginnings, np.ones_like(beginnings), index, np.zeros((2, 1), np.int32), np.zeros((2, 0), np.int32), 1)
    with pytest.raises(InvalidInput, match=f"history 1 begins {2 * layout.depth} items in {2 * layout.depth} tokens"):
        recommender.search(*arguments)
    assert len(replace(recommender, for_gpu=False).search(*arguments).leaf) == 2


def deciding_inputs(path: Path) -> set[str]:
    """Inputs of a graph whose content, and not whose sizes alone, decides the size of a result; and such operators."""
    graph = onnx.load(path).graph
    makers, given = {name: node for node in graph.node for name in node.output}, {each.name for each in graph.input}
    found, waiting, seen = set[str](), [], set[str]()
    for node in graph.node:
        if node.op_type in UNUSED:
            found.add(node.op_type)
        waiting.extend(node.input[place] for place in SIZED.get(node.op_type, ()) if place < len(node.input))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in given:
            found.add(name)
        elif name in makers and makers[name].op_type != "Shape":
            waiting.extend(makers[name].input)
    return found
