"""Inputs of the search in a graph, the state between its steps, and its results: named tensors.

Knows nothing of how they are computed.

Symbols: B batch, W beams asked for, R roots, X blocked edges, C children looked at (at least the index's largest
fan-out at that level), P beams a request has at a step (R at the first, which share a decoder state, W after it), H
rows of the head's table, M model width; depth = L + N + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.graphs.graph import Value

NOTHING = -1e30
"""Score of a beam that does not exist, below that of any real one. Inside the graph it is not -inf: the CUDA provider's
TopK pads its blocks with the lowest finite number, which would then win over such a beam."""
NO_SCORE = float("-inf")
"""Score of such a beam in the results."""


@dataclass(frozen=True)
class SearchInputs:
    """The constraint index and the limits of a request.

    Attributes
    ----------
    node_start, node_count : int32 [nodes], where a node's children lie among the edges, and how many they are
    edge_token, edge_child : int32 [edges], an edge's token, and the node (at the last level: the leaf) behind it
    roots : int32 [B, R], nodes at which beams start, padded with -1
    blocked : int32 [B, X], X >= 1, positions of edges that must not be taken, padded with -1
    beam_slots : int32 [W], 0..W-1: its length says how many beams to keep
    child_slots : by level, int32 [C], 0..C-1: its length says how many children to look at
    """

    node_start: Value
    node_count: Value
    edge_token: Value
    edge_child: Value
    roots: Value
    blocked: Value
    beam_slots: Value
    child_slots: Sequence[Value]


@dataclass(frozen=True)
class Found:
    """Results of a search.

    Attributes
    ----------
    tokens : int32 [B, W, depth]
    log_prob : float32 [B, W], -inf where there is no result; NaN: broken weights
    leaf : int32 [B, W]
    log_prob_by_level : float32 [B, W, depth], what each token of a result adds to its `log_prob`; where that is -inf or
        NaN, the same at every level
    """

    tokens: Value
    log_prob: Value
    leaf: Value
    log_prob_by_level: Value


@dataclass(frozen=True)
class Written:
    """The prefixes that beams have written, as the head over items scores them.

    Attributes
    ----------
    hashes : int64 [B, P]
    prospect : float32 [B, P], what the head expects the rest of the ID to add
    shift : int32 [B, P], offset of the head's rows for the codes to come, by the expert that was written
    guide : float32 [B, H], score of each row of the head's table
    state : float32 [B, M or 2 M], the vector that scores items
    """

    hashes: Value
    prospect: Value
    shift: Value
    guide: Value
    state: Value


@dataclass(frozen=True)
class Beams:
    """W beams of every request after a step, best first.

    Attributes
    ----------
    score : float32 [B, W], `NOTHING` where there is no beam
    token : int32 [B, W], the newest token; `PAD_TOKEN` where there is no beam
    edge : int32 [B, W], where among the index's edges the one to that token is; any where there is no beam
    node : int32 [B, W], where in the index it stands (after the last step: its leaf); -1 where there is no beam
    parent : int64 [B, W], the beam before this step that it comes from
    written : their prefixes, as the head over items scores them; None without a head
    """

    score: Value
    token: Value
    edge: Value
    node: Value
    parent: Value
    written: Written | None


@dataclass(frozen=True)
class Standing:
    """Where a request's beams are before a step: nodes int32 [B, R or W], scores float32 of the same shape."""

    node: Value
    score: Value
    written: Written | None


@dataclass(frozen=True)
class Paths:
    """What W beams went through, by level: int32 [B, W, 1] tokens, and float32 [B, W, 1] scores up to there."""

    tokens: list[Value]
    scores: list[Value]
