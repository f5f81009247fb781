"""Runs the recommender graph: histories and a constraint index -> ranked leaves.

Hides how sizes (beam width, children to look at) are passed to the graph, and the corner cases of an empty index.
Independent of items, the catalogue and HTTP: a leaf is a number.

Symbols: B batch, S sequence, W beams, R roots, X blocked edges, C children looked at; depth = L + N + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.manifest import RecommenderPart
from service.engine.fixed_searches import FixedSearches
from service.engine.history_tokens import history_tokens, require_room
from service.engine.resident import ResidentIndexes, sent_along
from service.engine.sessions import Feed, Runtime, Session, open_session
from service.engine.signature import Tensor
from service.errors import BundleError, GraphFailed, InvalidInput, ModelError
from service.index.trie import CodeTrie, TrieArrays
from service.semantic_ids import IntArray, TokenLayout


def child_slots_name(level: int) -> str:
    """Name of the input whose length is the number of children looked at on one level."""
    return f"child_slots_{level}"


def recommender_inputs(depth: int) -> list[Tensor]:
    """Inputs of `recommender.onnx`, in the exporter's order.

    `beam_slots` and `child_slots_*` hold 0, 1, 2, ...: the graph reads W and C from their lengths.
    """
    return [
        Tensor("history", "int64", ("B", "S")),
        Tensor("history_mask", "int64", ("B", "S")),
        Tensor("node_start", "int32", ("nodes",)),
        Tensor("node_count", "int32", ("nodes",)),
        Tensor("edge_token", "int32", ("edges",)),
        Tensor("edge_child", "int32", ("edges",)),
        Tensor("roots", "int32", ("B", "R")),
        Tensor("blocked", "int32", ("B", "X")),
        Tensor("beam_slots", "int32", ("W",)),
        *(Tensor(child_slots_name(level), "int32", (f"C{level}",)) for level in range(depth)),
    ]


def recommender_outputs(depth: int) -> list[Tensor]:
    """Outputs of `recommender.onnx`."""
    return [
        Tensor("semantic_id", "int32", ("B", "W", depth)),
        Tensor("log_prob", "float32", ("B", "W")),
        Tensor("leaf", "int32", ("B", "W")),
        Tensor("log_prob_by_level", "float32", ("B", "W", depth)),
    ]


@dataclass(frozen=True, slots=True)
class BeamResult:
    """Ranked results of B requests, best first; if there are fewer than W, the rest holds the values named below.

    Attributes
    ----------
    tokens : int32 [B, W, L + N + 1], vocabulary numbers; 0 where there is no result
    log_prob : float32 [B, W], -inf where there is no result
    leaf : int32 [B, W], -1 where there is no result
    log_prob_by_level : float32 [B, W, L + N + 1], what each token adds to `log_prob`; -inf where there is no result
    """

    tokens: IntArray
    log_prob: NDArray[np.float32]
    leaf: IntArray
    log_prob_by_level: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recommender:
    """One `recommender.onnx`.

    Attributes
    ----------
    part : its entry in the manifest: name, domains, longest history
    layout : the tokens it reads and writes
    for_gpu : whether the graph is laid out for a GPU, and so accepts only histories of complete items
    """

    part: RecommenderPart
    layout: TokenLayout
    _session: Session
    _resident: ResidentIndexes | None
    _fixed: FixedSearches | None = None
    for_gpu: bool = False

    @classmethod
    def open(
        cls,
        path: Path,
        part: RecommenderPart,
        layout: TokenLayout,
        runtime: Runtime,
        resident: ResidentIndexes | None = None,
        *,
        captured: bool = False,
        for_gpu: bool = False,
    ) -> Recommender:
        """Open the graph; check its signature and that its vocabulary has every token of the layout.

        Parameters
        ----------
        path : the file
        part, layout : see the class
        runtime : how it runs
        resident : device copies of the indexes, which several recommenders may share; None: indexes are passed from the
            host's memory
        captured : whether recurring sizes get sessions of fixed sizes, which a GPU replays
        for_gpu : see the class; no file says which networks read items, so it is set for all networks of such a bundle

        Raises
        ------
        BundleError : the file is not a recommender of this layout
        """
        inputs, outputs = recommender_inputs(layout.depth), recommender_outputs(layout.depth)
        file = _identity(path)
        session = open_session(path, runtime, inputs, outputs)
        # The index of this check is used once, so it is sent with the call and needs no device copy.
        cls(part, layout, session, None)._require_tokens()
        if not captured:
            return cls(part, layout, session, resident, for_gpu=for_gpu)

        def opened(fixed: Mapping[str, int]) -> Session:
            session = open_session(path, runtime, inputs, outputs, fixed=fixed)
            # Opened while requests are served: if the file was replaced meanwhile, it is another recommender.
            if _identity(path) != file:
                raise BundleError(f"{path}: is no longer the file that was opened")
            return session

        return cls(part, layout, session, resident, FixedSearches(runtime, outputs, opened), for_gpu)

    def search(  # noqa: PLR0917  the order of docs/architecture.md
        self,
        history: NDArray[np.int64],
        history_mask: NDArray[np.int64],
        index: TrieArrays,
        roots: IntArray,
        blocked: IntArray,
        beams: int,
    ) -> BeamResult:
        """Find the W best leaves of every request.

        Parameters
        ----------
        history, history_mask : int64 [B, S] tokens, right-padded, and 1 where a token is
        index : the trie; only edges from a node's start to start + count are read; must stay alive during the call
        roots : int32 [B, R], nodes at which a request's beams start, padded with -1
        blocked : int32 [B, X], positions of edges whose leaves are excluded, padded with -1; X may be 0
        beams : W

        Blocked leaves take no beam from others: with W >= k, the search returns k results whenever k exist.

        Raises
        ------
        InvalidInput : an array has the wrong shape, a token is outside the vocabulary, a root or edge is outside the
            index, or items are incomplete and a graph laid out for a GPU has no room for them
        ModelError : the network returned NaN, or could not run
        """
        if beams < 1:
            raise InvalidInput(f"beams is {beams}, but must be at least 1")
        self._check_history(history, history_mask)
        self._check_index(len(history), index, roots, blocked)
        if blocked.shape[1] == 0:
            blocked = np.full((len(blocked), 1), -1, dtype=np.int32)
        feeds: dict[str, Feed] = {
            "history": np.ascontiguousarray(history, dtype=np.int64),
            "history_mask": np.ascontiguousarray(history_mask, dtype=np.int64),
            **(sent_along(index) if self._resident is None else self._resident.feeds(index)),
            "roots": np.ascontiguousarray(roots, dtype=np.int32),
            "blocked": np.ascontiguousarray(blocked, dtype=np.int32),
            "beam_slots": np.arange(beams, dtype=np.int32),
        }
        for level, children in enumerate(index.fanout):
            feeds[child_slots_name(level)] = np.arange(max(1, children), dtype=np.int32)
        found = None if self._fixed is None else self._fixed.run(feeds, index.journal)
        if found is None:
            found = self._session.run(feeds)
        if np.isnan(found["log_prob"]).any():
            raise ModelError(f"{self._session.path}: output 'log_prob' holds NaN; the weights cannot be used")
        return BeamResult(found["semantic_id"], found["log_prob"], found["leaf"], found["log_prob_by_level"])

    def _require_tokens(self) -> None:
        """Refuse a network whose vocabulary is smaller than the layout's, before an item needs a missing token.

        The graph does not state its vocabulary size, so this runs a search with the last token of each position.

        Raises
        ------
        BundleError : the search fails on these tokens
        """
        last = np.asarray([self.layout.position_sizes], dtype=np.int32) - 1
        nothing, tokens = np.zeros(1, dtype=np.int32), self.layout.tokens(last)
        index = CodeTrie.from_tokens(tokens, nothing, nothing, root_count=1).arrays()
        leading = np.asarray([self.layout.vocabulary - 1]) if self.layout.domains else None
        history = history_tokens(self.layout, last, np.asarray([0, 1]), 1, leading)
        try:
            self.search(history.tokens, history.mask, index, index.roots[None], np.empty((1, 0), dtype=np.int32), 1)
        except GraphFailed as error:
            raise BundleError(
                f"{self._session.path}: cannot search with the last of the {self.layout.vocabulary} tokens that the "
                f"manifest's layout and domain_tokens say it has: {error}"
            ) from error
        except ModelError:
            # The graph ran, so it has the tokens. NaN weights are reported by every search.
            return

    def has_further_tokens(self) -> bool:
        """Whether the network has tokens beyond the layout's. Call it on a CPU: a GPU reads beyond the end of a table
        without an error."""
        further = replace(self.layout, domains=(*self.layout.domains, ""))
        try:
            replace(self, layout=further, _session=replace(self._session, quiet=True))._require_tokens()
        except BundleError:
            return False
        return True

    def _check_history(self, history: NDArray[np.int64], history_mask: NDArray[np.int64]) -> None:
        """Refuse tokens outside the vocabulary, and more items than the graph reads."""
        if history.ndim != 2 or 0 in history.shape or history.shape != history_mask.shape:
            raise InvalidInput(
                f"history {list(history.shape)} and history_mask {list(history_mask.shape)} must both be [B, S] "
                "with at least one token"
            )
        if history.min() < 0 or history.max() >= self.layout.vocabulary:
            raise InvalidInput(f"history holds a token that is not within 0..{self.layout.vocabulary - 1}")
        if self.for_gpu:
            require_room(self.layout, history, history_mask)

    def _check_index(self, batch: int, index: TrieArrays, roots: IntArray, blocked: IntArray) -> None:
        """Refuse arguments that would make the graph read outside the index."""
        for name, array, limit in (("roots", roots, len(index.node_start)), ("blocked", blocked, 2**31 - 1)):
            if array.ndim != 2 or len(array) != batch:
                raise InvalidInput(f"{name} has shape {list(array.shape)}, but must be [{batch}, any]")
            if array.size and (array.min() < -1 or array.max() >= limit):
                raise InvalidInput(f"{name} holds a number that is not within -1..{limit - 1}")
        if roots.shape[1] < 1:
            raise InvalidInput("roots is empty, but every request needs at least one column (-1: none)")
        if len(index.fanout) != self.layout.depth:
            raise InvalidInput(
                f"the index has {len(index.fanout)} levels, but the recommender writes {self.layout.depth}"
            )


def _identity(path: Path) -> tuple[int, ...] | None:
    """Values that change if the file is replaced by another; None: there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
