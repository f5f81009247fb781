"""The constraint index against a set of tuples that only ever gets rebuilt or enumerated."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.index.state import FEW
from service.index.trie import NO_LEAF, CodeTrie, TrieArrays, TrieState

DEPTH = 3
ROOTS = 2
Path = tuple[int, int, int, int]  # root and three tokens

paths = st.tuples(st.integers(0, ROOTS - 1), *[st.integers(0, 3)] * DEPTH)


def columns(items: Sequence[Path]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Roots and tokens."""
    rows = np.array(items, dtype=np.int32).reshape(-1, 1 + DEPTH)
    return rows[:, 0], rows[:, 1:]


def built(items: dict[Path, int], shared: int = 0) -> CodeTrie:
    roots, rows = columns(list(items))
    return CodeTrie.from_tokens(rows, roots, np.array(list(items.values()), dtype=np.int32), ROOTS, shared)


def children(arrays: TrieArrays, node: int) -> list[tuple[int, int]]:
    span = slice(arrays.node_start[node], arrays.node_start[node] + arrays.node_count[node])
    return list(zip(arrays.edge_token[span].tolist(), arrays.edge_child[span].tolist(), strict=True))


def content(trie: CodeTrie | TrieState, skip: frozenset[int] = frozenset()) -> dict[Path, int]:
    """Everything reachable from the roots by plain recursion, not passing over the edges at `skip`."""
    state = trie.state if isinstance(trie, CodeTrie) else trie
    arrays = state.arrays
    found: dict[Path, int] = {}

    def walk(node: int, prefix: tuple[int, ...]) -> int:
        tokens = [token for token, _ in children(arrays, node)]
        assert tokens == sorted(set(tokens))
        leaves = 0
        for offset, (token, child) in enumerate(children(arrays, node)):
            if int(arrays.node_start[node]) + offset in skip:
                continue
            if len(prefix) == DEPTH:
                found[(*prefix, token)] = child  # type: ignore[index]
                leaves += 1
            else:
                below = walk(child, (*prefix, token))
                assert below > 0, "an empty node was left behind"
                leaves += below
        if not skip:
            assert state.node_leaves[node] == leaves
        return leaves

    for root, node in enumerate(arrays.roots.tolist()):
        walk(node, (root,))
    paths = list(found)
    met = np.array(list(found.values()), dtype=np.int32)
    return dict(zip(paths, state.leaves(met, columns(paths)[1]).tolist(), strict=True))


def widths(items: dict[Path, int]) -> tuple[int, ...]:
    """Largest number of children by level, by counting distinct prefixes."""
    levels = []
    for level in range(1, DEPTH + 1):
        prefixes = {path[: level + 1] for path in items}
        parents = [prefix[:-1] for prefix in prefixes]
        levels.append(max([1, *(parents.count(parent) for parent in set(parents))]))
    return tuple(levels)


@settings(max_examples=200)
@given(
    st.dictionaries(paths, st.integers(0, 999), max_size=40),
    st.lists(st.dictionaries(paths, st.one_of(st.none(), st.integers(0, 999)), max_size=12), max_size=12),
    st.integers(0, DEPTH),
)
def test_equals_a_fresh_build_after_any_changes(
    start: dict[Path, int], steps: list[dict[Path, int | None]], shared: int
) -> None:
    """Every step gives some paths a leaf, or none; what was there before is removed in the same step."""
    items, trie = dict(start), built(start, shared)
    kept: list[tuple[TrieState, dict[Path, int]]] = []
    for number, step in enumerate(steps):
        if number % 3 == 0:
            kept.append((trie.state, dict(items)))
        removed = [path for path in step if path in items]
        added = {path: leaf for path, leaf in step.items() if leaf is not None}
        leaves = np.array(list(added.values()), dtype=np.int32)
        gone = trie.change(columns(removed), (*columns(list(added)), leaves))
        assert gone.tolist() == [items.pop(path) for path in removed]
        items |= added
        if number % 4 == 1:
            saved = {name: array.copy() for name, array in trie.to_save().items()}
            for array in saved.values():
                array.flags.writeable = False  # a map of a file is never written to in place
            trie = CodeTrie.from_saved(saved)
    fresh = built(items, shared)
    assert content(trie) == items == content(fresh)
    assert trie.arrays().fanout == fresh.arrays().fanout
    if not shared:
        assert fresh.arrays().fanout == widths(items)
    everything = list(itertools.product(range(ROOTS), *[range(4)] * DEPTH))
    assert trie.state.find(*columns(everything)).tolist() == [items.get(path, NO_LEAF) for path in everything]
    assert len(everything) > FEW, "all of them are looked up together, and then a few at a time"
    for few in (everything[at : at + 9] for at in range(0, len(everything), 9)):
        assert trie.state.find(*columns(few)).tolist() == [items.get(path, NO_LEAF) for path in few]
    for state, before in kept:
        assert content(state) == before, "a state that somebody keeps has changed"


@pytest.mark.parametrize("shared", [0, 2])
def test_the_last_item_of_a_mapped_index_goes_and_another_comes(shared: int) -> None:
    """A map may not be written to, also where a change needs no more room than it has."""
    path = (0, 1, 2, 3)
    trie = built({path: 7}, shared)
    for change in (lambda trie: trie.delete(0, path[1:]), lambda trie: trie.insert(0, path[1:], 8)):
        saved = {name: array.copy() for name, array in trie.to_save().items()}
        for array in saved.values():
            array.flags.writeable = False
        trie = CodeTrie.from_saved(saved)
        assert not trie.state.arrays.edge_token.flags.writeable or not len(saved["edge_token"])
        change(trie)
    assert content(trie) == {path: 8}


@pytest.mark.parametrize("children", [5, 7, 11, 12])
def test_a_block_that_was_built_is_used_again_for_no_more_than_it_holds(children: int) -> None:
    """Those of a build are exactly full, and the next node's edges come right behind."""
    items: dict[Path, int] = {(0, a, 0, c): 100 * a + c for a in range(3) for c in range(children)}
    trie = built(items)
    removed = [path for path in items if path[1] == 0]
    added: dict[Path, int] = {(0, 3, 0, c): 300 + c for c in range(children + 1)}
    trie.change(removed=columns(removed))
    trie.change(added=(*columns(list(added)), np.array(list(added.values()), dtype=np.int32)))
    assert content(trie) == {path: leaf for path, leaf in items.items() if path not in removed} | added


@pytest.mark.parametrize("shared", [0, 2])
def test_a_change_that_cannot_be_changes_nothing(shared: int) -> None:
    items: dict[Path, int] = {(0, 1, 2, 3): 7, (1, 1, 2, 3): 8}
    trie = built(items, shared)
    there, other = columns([(0, 1, 2, 3)]), columns([(0, 1, 2, 0)])
    with pytest.raises(InvalidInput, match=r"tokens \[1, 2, 3\] are already below root 0"):
        trie.insert(0, [1, 2, 3], 9)
    with pytest.raises(InvalidInput, match=r"tokens \[1, 2, 0\] are not below root 0"):
        trie.delete(0, [1, 2, 0])
    twice = tuple(np.concatenate([part, part]) for part in there)
    with pytest.raises(InvalidInput, match="named twice"):
        trie.change(removed=(twice[0], twice[1]))
    with pytest.raises(InvalidInput, match="named twice"):
        trie.change(added=(*(np.concatenate([part, part]) for part in other), np.arange(2)))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="are not below"):
        trie.change(other, (*other, np.arange(1)))
    with pytest.raises(InvalidInput, match="roots range from 2 to 2"):
        trie.insert(2, [1, 2, 0], 9)
    with pytest.raises(InvalidInput, match="greatest leaf"):
        trie.insert(1, [1, 2, 0], 2**31 - 1)
    assert content(trie) == items
    assert trie.change().tolist() == []


def test_items_that_end_alike_share_their_ends() -> None:
    items: dict[Path, int] = {(root, first, 1, 2): first + 4 * root for root in range(2) for first in range(4)}
    apart, shared = built(items), built(items, 2)
    assert content(shared) == content(apart) == items
    # One node each root, one end of two nodes each root, in place of two nodes an item.
    assert len(shared.arrays().node_start) == 2 + 2 * 2
    assert len(apart.arrays().node_start) == 2 + 8 * 2
    assert len(set(shared.arrays().edge_child.tolist()) & set(items.values())) < len(items)


def blocked(trie: CodeTrie, cut: list[Path]) -> NDArray[np.int32]:
    tokens = np.array([path[1:] for path in cut], dtype=np.int32).reshape(-1, DEPTH)
    return trie.blocked_edges(np.array([path[0] for path in cut], dtype=np.int32), tokens)


@settings(max_examples=150)
@given(
    st.sets(paths, max_size=40),
    st.lists(paths, max_size=40),
    st.lists(paths, max_size=10),
    st.integers(0, DEPTH),
    st.booleans(),
)
def test_blocked_edges_cut_exactly_the_named_leaves(
    kept: set[Path], named: list[Path], inserted: list[Path], shared: int, many: bool
) -> None:
    items = {path: leaf for leaf, path in enumerate(sorted(kept | set(named[::2])))}
    trie = built(items, shared)
    for path in inserted:
        if path not in items:
            items[path] = len(items)
            trie.insert(path[0], path[1:], items[path])
    # Repeated ones count once, but make many out of few, which are cut off in another way.
    edges = blocked(trie, named * (FEW + 1) if many else named)
    assert edges.dtype == np.int32
    left = {path: leaf for path, leaf in items.items() if path not in set(named)}

    # Edge -1 does not exist: it only tells `content` that leaf counts need not match. A node whose every edge was cut,
    # in place of the one edge above it, fails there as an empty node.
    assert content(trie, frozenset(edges.tolist()) | {-1}) == left
    # Fewest: one edge for each highest prefix whose every leaf is named, counted by enumeration.
    survivors = {path[:length] for path in left for length in range(1, DEPTH + 2)}
    gone = [path for path in items if path not in left]
    tops = {next(path[:length] for length in range(2, DEPTH + 2) if path[:length] not in survivors) for path in gone}
    assert len(edges) == len(set(edges.tolist())) == len(tops)


@pytest.mark.parametrize("shared", [0, 2])
def test_large_random_build_equals_inserts_in_steps(shared: int) -> None:
    rng = np.random.default_rng(0)
    tokens = np.unique(rng.integers(0, 40, (5000, DEPTH)), axis=0).astype(np.int32)
    rng.shuffle(tokens)
    roots = rng.integers(0, ROOTS, len(tokens)).astype(np.int32)
    leaves = rng.permutation(len(tokens)).astype(np.int32)
    at_once = CodeTrie.from_tokens(tokens, roots, leaves, ROOTS, shared)
    in_steps = CodeTrie(DEPTH, ROOTS, shared)
    for first, end in itertools.pairwise([0, 1, 2, 3, 10, 100, 101, 1000, 3000, len(tokens)]):
        in_steps.change(added=(roots[first:end], tokens[first:end], leaves[first:end]))
    assert content(at_once) == content(in_steps)
    assert at_once.arrays().fanout == in_steps.arrays().fanout
    in_steps.change(removed=(roots, tokens))
    assert content(in_steps) == {}


def test_tokens_too_wide_to_pack_are_sorted_all_the_same() -> None:
    wide = 2**31 - 1
    tokens = np.array([[wide, 0, wide], [0, wide, 0], [wide, wide, 5], [0, 0, wide]], dtype=np.int32)
    trie = CodeTrie.from_tokens(tokens, np.zeros(4, np.int32), np.arange(4, dtype=np.int32), 1)
    assert trie.state.find(np.zeros(4, np.int32), tokens).tolist() == [0, 1, 2, 3]


def test_space_is_reused_under_churn() -> None:
    trie = CodeTrie(DEPTH, 1)
    for leaf in range(64):
        trie.insert(0, [leaf % 8, leaf // 8, 0], leaf)
    sizes = []
    for turn in range(12):
        for leaf in range(64):
            trie.delete(0, [leaf % 8, leaf // 8, turn])
            trie.insert(0, [leaf % 8, leaf // 8, turn + 1], leaf)
        sizes.append((len(trie.arrays().edge_token), len(trie.arrays().node_start)))
    assert sizes[0] == sizes[-1]
    assert 0 < trie.slack() < 0.6


def test_a_state_that_is_kept_keeps_its_space() -> None:
    trie = built({(0, 1, 2, 3): 7})
    kept = trie.state
    for turn in range(20):
        trie.insert(0, [2, turn, 0], turn)
    grown = len(trie.arrays().node_start)
    unchanged = content(kept) == {(0, 1, 2, 3): 7}
    del kept
    gc.collect()  # the walk refers to itself
    assert unchanged
    for turn in range(20):
        trie.delete(0, [2, turn, 0])
    assert len(trie.arrays().node_start) <= grown + 3 * DEPTH, "what nobody keeps is used again"


def test_a_new_root_is_a_new_domain() -> None:
    trie = built({(0, 1, 2, 3): 7})
    root = trie.add_root()
    assert trie.leaf_count(root) == 0
    trie.insert(root, [1, 2, 3], 8)
    assert trie.state.find(*columns([(root, 1, 2, 3), (0, 1, 2, 3)])).tolist() == [8, 7]
    assert trie.leaf_count(root) == 1


def test_a_state_before_a_new_root_keeps_its_space() -> None:
    """Regression: what changes left over was used again although a state before the new root could still see it."""
    trie = built({(0, 1, 1, 1): 0, (0, 2, 2, 2): 1})
    trie.insert(0, [3, 3, 3], 2)  # from here on there is room, and arrays are not replaced by larger ones
    kept, before = trie.state, content(trie)
    trie.add_root()
    for number in range(5):
        trie.insert(0, [2, 3, number], 10 + number)
    assert content(kept) == before


def test_an_empty_index_has_arrays_a_graph_can_gather_from() -> None:
    arrays = built({}).arrays()
    assert arrays.node_count.tolist() == [0, 0]
    assert len(arrays.edge_token) == len(arrays.edge_child) == 1
    assert arrays.fanout == (1, 1, 1)


@pytest.mark.parametrize(
    ("tokens", "roots", "leaves", "message"),
    [
        ([[0, 0, 1], [0, 0, 1]], [0, 0], [0, 1], "equal tokens"),
        ([[0, 0, 1]], [2], [0], "within 0..1"),
        ([[0, 0, -1]], [0], [0], "negative"),
        ([[0, 0, 1]], [0], [-1], "negative"),
        ([[0, 0, 1]], [0, 0], [0], "shape"),
        ([0, 0, 1], [0, 0, 0], [0, 1, 2], "depth"),
    ],
)
def test_a_wrong_build_says_what_is_wrong(tokens: object, roots: object, leaves: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        CodeTrie.from_tokens(np.array(tokens, np.int32), np.array(roots, np.int32), np.array(leaves, np.int32), ROOTS)


def test_a_tuple_of_another_depth_is_refused_and_changes_nothing() -> None:
    trie = built({(0, 1, 2, 3): 7})
    for tokens in ([1, 2], [1, 2, 3, 4]):
        with pytest.raises(InvalidInput, match="3 levels"):
            trie.delete(0, tokens)
        with pytest.raises(InvalidInput, match="3 levels"):
            trie.blocked_edges(np.zeros(1, np.int32), np.array([tokens], np.int32))
        with pytest.raises(InvalidInput, match="3 levels"):
            trie.insert(0, tokens, 9)
    with pytest.raises(InvalidInput, match="negative"):
        trie.insert(0, [1, 2, -4], 9)
    assert content(trie) == {(0, 1, 2, 3): 7}
