"""The constraint index against a set of tuples that only ever gets rebuilt or enumerated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.index.trie import NO_LEAF, CodeTrie, TrieArrays

DEPTH = 3
ROOTS = 2
Path = tuple[int, int, int, int]  # root and three tokens

paths = st.tuples(st.integers(0, ROOTS - 1), *[st.integers(0, 3)] * DEPTH)


def built(items: dict[Path, int]) -> CodeTrie:
    rows = np.array([path[1:] for path in items], dtype=np.int32).reshape(-1, DEPTH)
    roots = np.array([path[0] for path in items], dtype=np.int32)
    return CodeTrie.from_tokens(rows, roots, np.array(list(items.values()), dtype=np.int32), ROOTS)


def children(arrays: TrieArrays, node: int) -> list[tuple[int, int]]:
    span = slice(arrays.node_start[node], arrays.node_start[node] + arrays.node_count[node])
    return list(zip(arrays.edge_token[span].tolist(), arrays.edge_child[span].tolist(), strict=True))


def content(trie: CodeTrie, skip: frozenset[int] = frozenset()) -> dict[Path, int]:
    """Everything reachable from the roots by plain recursion, not passing over the edges at `skip`."""
    arrays = trie.arrays()
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
            assert trie.leaf_count(node) == leaves
        return leaves

    for root in range(ROOTS):
        walk(root, (root,))
    return found


def widths(items: dict[Path, int]) -> tuple[int, ...]:
    """Largest number of children by level, by counting distinct prefixes."""
    levels = []
    for level in range(1, DEPTH + 1):
        prefixes = {path[: level + 1] for path in items}
        parents = [prefix[:-1] for prefix in prefixes]
        levels.append(max([1, *(parents.count(parent) for parent in set(parents))]))
    return tuple(levels)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(paths, st.integers(0, 999), max_size=40),
    st.lists(st.tuples(st.booleans(), paths, st.integers(0, 999)), max_size=60),
)
def test_equals_a_fresh_build_after_any_changes(start: dict[Path, int], changes: list[tuple[bool, Path, int]]) -> None:
    items = dict(start)
    trie = built(items)
    for insert, path, leaf in changes:
        if insert and path not in items:
            trie.insert(path[0], path[1:], leaf)
            items[path] = leaf
        elif not insert and path in items:
            assert trie.delete(path[0], path[1:]) == items.pop(path)
        elif insert:
            with pytest.raises(InvalidInput, match="already"):
                trie.insert(path[0], path[1:], leaf)
        else:
            with pytest.raises(InvalidInput, match="not below"):
                trie.delete(path[0], path[1:])
    assert content(trie) == items == content(built(items))
    assert trie.arrays().fanout == widths(items) == built(items).arrays().fanout
    for path in itertools.product(range(ROOTS), *[range(4)] * DEPTH):
        assert trie.find(path[0], path[1:]) == items.get(path, NO_LEAF)  # type: ignore[arg-type]


def blocked(trie: CodeTrie, cut: list[Path]) -> NDArray[np.int32]:
    tokens = np.array([path[1:] for path in cut], dtype=np.int32).reshape(-1, DEPTH)
    return trie.blocked_edges(np.array([path[0] for path in cut], dtype=np.int32), tokens)


@settings(max_examples=150, deadline=None)
@given(st.sets(paths, max_size=40), st.lists(paths, max_size=40), st.lists(paths, max_size=10))
def test_blocked_edges_cut_exactly_the_named_leaves(kept: set[Path], named: list[Path], inserted: list[Path]) -> None:
    items = {path: leaf for leaf, path in enumerate(sorted(kept | set(named[::2])))}
    trie = built(items)
    for path in inserted:
        if path not in items:
            items[path] = len(items)
            trie.insert(path[0], path[1:], items[path])
    edges = blocked(trie, named)
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


def test_large_random_build_equals_inserts_one_by_one() -> None:
    rng = np.random.default_rng(0)
    tokens = np.unique(rng.integers(0, 40, (5000, DEPTH)), axis=0).astype(np.int32)
    rng.shuffle(tokens)
    roots = rng.integers(0, ROOTS, len(tokens)).astype(np.int32)
    leaves = rng.permutation(len(tokens)).astype(np.int32)
    at_once = CodeTrie.from_tokens(tokens, roots, leaves, ROOTS)
    one_by_one = CodeTrie(DEPTH, ROOTS)
    for root, row, leaf in zip(roots.tolist(), tokens, leaves.tolist(), strict=True):
        one_by_one.insert(root, row, leaf)
    assert content(at_once) == content(one_by_one)
    assert at_once.arrays().fanout == one_by_one.arrays().fanout


def test_tokens_too_wide_to_pack_are_sorted_all_the_same() -> None:
    wide = 2**31 - 1
    tokens = np.array([[wide, 0, wide], [0, wide, 0], [wide, wide, 5], [0, 0, wide]], dtype=np.int32)
    trie = CodeTrie.from_tokens(tokens, np.zeros(4, np.int32), np.arange(4, dtype=np.int32), 1)
    assert [trie.find(0, row) for row in tokens] == [0, 1, 2, 3]


def test_space_is_reused_under_churn() -> None:
    trie = CodeTrie(DEPTH, 1)
    for leaf in range(64):
        trie.insert(0, [leaf % 8, leaf // 8, 0], leaf)
    sizes = []
    for turn in range(40):
        for leaf in range(64):
            trie.delete(0, [leaf % 8, leaf // 8, turn])
            trie.insert(0, [leaf % 8, leaf // 8, turn + 1], leaf)
        sizes.append((len(trie.arrays().edge_token), len(trie.arrays().node_start)))
    assert sizes[0] == sizes[-1]


def test_a_new_root_is_a_new_domain() -> None:
    trie = built({(0, 1, 2, 3): 7})
    root = trie.add_root()
    assert trie.leaf_count(root) == 0
    trie.insert(root, [1, 2, 3], 8)
    assert (trie.find(root, [1, 2, 3]), trie.find(0, [1, 2, 3]), trie.leaf_count(root)) == (8, 7, 1)


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
            trie.insert(0, tokens, 9)
    with pytest.raises(InvalidInput, match="negative"):
        trie.insert(0, [1, 2, -4], 9)
    assert content(trie) == {(0, 1, 2, 3): 7}
