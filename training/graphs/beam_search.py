"""The whole constrained beam search as graph operations, unrolled over the positions of a semantic ID.

Every step gathers the children of each beam's node from the constraint index, adds their log-probabilities to the
beam's score, takes the best, and reorders the decoder's cache. The index is an input, so that items come and go
without a new export. Scores are sums of log-probabilities over the whole vocabulary, masked after the log-softmax,
with no length penalty; a head over items adds its score of each prefix of an ID, and finally of the whole ID.
Knows nothing of how the index is built.

Symbols: those of `beams`, and V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from service.semantic_ids import PAD_TOKEN
from training.graphs.beams import NO_SCORE, NOTHING, Beams, Found, Paths, SearchInputs, Standing, Written
from training.graphs.continuations import Continuations
from training.graphs.decoded_states import DecodedStates, OwnStates
from training.graphs.graph import Graph, Value
from training.graphs.t5_graph import EncodedHistory, T5Graph
from training.networks.token_tables import head_rows_of_written, shift_after

ZERO, NONE, PAD = np.int32(0), np.int32(-1), np.int32(PAD_TOKEN)

AHEAD = 3
"""With at most so many positions left, and more than one, the decoder reads all of them at once if that is few rows:
usually the last code, the expert and the suffix. Before that nearly every beam has choices."""

_Results = tuple[Value, ...]
RESULTS = ("int32", "float32", "int32", "float32")
"""The fields of `Found`, and their element types."""


@dataclass(frozen=True)
class _Progress:
    """A search after some of its steps.

    Attributes
    ----------
    standing : where its beams are
    tokens : int32 or int64 [B * P, 1], the newest token of each
    states : of the last step; None where no decoder runs
    rows : int64 [B * W], which of those states each beam continues; None before the first step
    steps : what each step has chosen
    health : as `_health`, of all steps
    """

    standing: Standing
    tokens: Value
    states: DecodedStates | None
    rows: Value | None
    steps: tuple[Beams, ...]
    health: Value


class BeamSearch:
    """Adds the search to a graph.

    Parameters
    ----------
    graph : where to add it
    network : gives log-probabilities of what may follow, and scores it where it has a head over items
    inputs : the constraint index and the limits of a request
    """

    def __init__(self, graph: Graph, network: T5Graph, inputs: SearchInputs) -> None:
        self._graph = graph
        self._network, self._scoring = network, network.scoring
        self._inputs = inputs
        self._depth, self._width = len(inputs.child_slots), inputs.beam_slots.size(0)
        self._padding = graph.concat([inputs.roots.size(0), self._width], axis=0)

    def search(self, encoded: EncodedHistory) -> Found:
        """All steps, from encoded histories to leaves."""
        graph = self._graph
        # One beam and one decoder state a request, from which all its roots begin.
        tokens = graph.op("Expand", np.asarray([[PAD_TOKEN]]), graph.shape(encoded.batch, 1))
        node = self._inputs.roots
        score = graph.where(node >= ZERO, 0.0, NOTHING)
        states = self._network.nothing_decoded(encoded) if self._network.writes else None
        health = graph.constant(0.0)
        written: Written | None = None
        if self._scoring is not None and encoded.state is not None:
            places, guide = graph.op("Shape", node), self._scoring.guide(encoded.state)
            hashes, prospect, shift = (graph.op("Expand", zero, places) for zero in (0, 0.0, ZERO))
            written = Written(hashes, prospect, shift, guide, encoded.state)
            health = self._health(guide, encoded.batch)
        return Found(
            *self._search(encoded, _Progress(Standing(node, score, written), tokens, states, None, (), health))
        )

    def _search(self, encoded: EncodedHistory, progress: _Progress) -> _Results:
        """All further steps: in one pass of the decoder where few items are left, else one by one."""
        if (
            isinstance(progress.states, OwnStates)
            and progress.rows is not None
            and 1 < self._depth - len(progress.steps) <= AHEAD
        ):
            states, rows = progress.states, progress.rows
            ahead = Continuations(self._graph, self._inputs, len(progress.steps), progress.standing)
            return self._graph.either(
                ahead.fit,
                lambda: self._at_once(encoded, progress, ahead, states, rows),
                lambda: self._step(encoded, progress),
                *RESULTS,
            )
        return self._step(encoded, progress)

    def _step(self, encoded: EncodedHistory, progress: _Progress) -> _Results:
        """One step of the decoder, and whatever follows."""
        states, health, log_prob = progress.states, progress.health, None
        if states is not None:
            states = states if progress.rows is None else states.continued(progress.rows)
            log_prob = self._network.step(progress.tokens, states, encoded)
            health = health + self._health(log_prob, encoded.batch)
        level = len(progress.steps)
        beams = self._advance(level, log_prob, progress.standing)
        steps = (*progress.steps, beams)
        if len(steps) == self._depth:
            return self._results(steps, health)
        standing, rows = Standing(beams.node, beams.score, beams.written), self._state_rows(level, beams)
        return self._search(encoded, _Progress(standing, beams.token.reshape(-1, 1), states, rows, steps, health))

    def _at_once(
        self, encoded: EncodedHistory, progress: _Progress, ahead: Continuations, states: OwnStates, rows: Value
    ) -> _Results:
        """One pass of the decoder over all continuations of the beams, and the steps that look up what it returned."""
        graph, batch, level, steps, standing = (
            self._graph,
            encoded.batch,
            len(progress.steps),
            progress.steps,
            progress.standing,
        )
        descent, beam = ahead.descent()
        read = [progress.tokens.reshape(batch, -1).take_along(beam, axis=1), *descent]
        tokens = graph.concat([each.unsqueeze(2) for each in read], axis=2).reshape(-1, ahead.left)
        rows = rows.reshape(batch, -1).take_along(beam, axis=1).reshape(-1)
        log_prob = self._network.step(tokens, states.continued(rows, ahead.left), encoded)
        health = progress.health + self._health(log_prob, batch)
        places = ahead.beams()
        for position in range(ahead.left):
            beams = self._advance(level + position, log_prob.take(ahead.rows(position, places)), standing)
            steps, standing = (*steps, beams), Standing(beams.node, beams.score, beams.written)
            if len(steps) < self._depth:
                places = ahead.after(position, places, beams)
        return self._results(steps, health)

    def _results(self, steps: Sequence[Beams], health: Value) -> _Results:
        """Tokens, scores, leaves and scores by level, as `Found` has them."""
        graph, score = self._graph, steps[-1].score
        score = graph.where(score > NOTHING, score, NO_SCORE)
        score = graph.where(graph.op("IsNaN", health), float("nan"), score)
        paths, alive = self._paths(steps), (score > NO_SCORE).unsqueeze(2)
        tokens = graph.where(alive, graph.concat(paths.tokens, axis=2), PAD)
        gained = [paths.scores[0], *(after - before for before, after in pairwise(paths.scores))]
        levels = graph.where(alive, graph.concat(gained, axis=2), score.unsqueeze(2))
        return tokens, score, steps[-1].node, levels

    @staticmethod
    def _paths(steps: Sequence[Beams]) -> Paths:
        """The way to each of the last beams, followed back from child to parent."""
        tokens, scores = [steps[-1].token], [steps[-1].score]
        ancestor: Value | None = None
        for step, after in zip(steps[-2::-1], steps[:0:-1], strict=True):
            ancestor = after.parent if ancestor is None else after.parent.take_along(ancestor, axis=1)
            tokens.append(step.token.take_along(ancestor, axis=1))
            scores.append(step.score.take_along(ancestor, axis=1))
        return Paths([token.unsqueeze(2) for token in tokens[::-1]], [score.unsqueeze(2) for score in scores[::-1]])

    def _health(self, log_prob: Value, batch: Value) -> Value:
        """float32 [B, 1]: NaN if the network returned NaN for any beam of a request.

        NaN compares false with everything, so the search would silently drop such beams and return an empty list. A NaN
        fills its whole row, after a log-softmax as after a product with a state, so checking one column is enough.
        """
        first = log_prob.take(self._graph.constant(np.asarray([0])), axis=1).reshape(batch, -1)
        return self._graph.op("ReduceSum", first, np.asarray([1]), keepdims=1)

    def _advance(self, level: int, log_prob: Value | None, standing: Standing) -> Beams:
        """One level down: the best W children, not blocked, of all nodes at which a request stands.

        Parameters
        ----------
        log_prob : float32 [B or B * W, V], of what may follow each decoder state; None where the head scores alone
        """
        graph, inputs, slots = self._graph, self._inputs, self._inputs.child_slots[level]
        node, score = standing.node, standing.score
        alive = score > NOTHING
        here = graph.where(alive, node, ZERO)
        start, count = inputs.node_start.take(here), graph.where(alive, inputs.node_count.take(here), ZERO)
        exists = slots < count.unsqueeze(2)
        # Never read outside the arrays or in their slack: slots without a child read edge 0 and get no score.
        edge = graph.where(exists, start.unsqueeze(2) + slots, ZERO)
        tokens, shape = inputs.edge_token.take(edge), graph.op("Shape", edge)
        gained = graph.constant(0.0)
        if log_prob is not None:
            # As many rows as there are decoder states: the roots of a request share one.
            gained = log_prob.take_along(tokens.reshape(log_prob.size(0), -1), axis=1).reshape(shape)
        scoring, written = self._scoring, standing.written
        if scoring is not None and written is not None:
            rows = head_rows_of_written(scoring.layout, level, tokens, written.shift.unsqueeze(2)).reshape(0, -1)
            hashes = (written.hashes.unsqueeze(2) + scoring.parts(tokens)).reshape(0, -1)
            prospect = scoring.prospect(written.state, hashes, level)
            scored = (written.guide.take_along(rows, axis=1) + prospect).reshape(shape)
            gained = gained * (1.0 - scoring.item_share) + scored - written.prospect.unsqueeze(2)
            written = replace(written, hashes=hashes, prospect=prospect)
        total = graph.where(exists, score.unsqueeze(2) + gained, NOTHING).reshape(0, -1)
        # Beams that do not exist fill up to W where there are fewer candidates.
        total = graph.concat([total, graph.op("Expand", NOTHING, self._padding)], axis=1)
        kept, place = graph.top_k(self._unblocked(total, start, count, slots), self._width)
        alive = kept > NOTHING
        place = graph.where(alive, place, 0)
        edge, parent = edge.reshape(0, -1).take_along(place, axis=1), place // slots.size(0)
        token = graph.where(alive, inputs.edge_token.take(edge), PAD)
        if scoring is not None and written is not None:
            hashes, prospect = (each.take_along(place, axis=1) for each in (written.hashes, written.prospect))
            written = replace(written, hashes=hashes, prospect=prospect)
            if scoring.layout.expert_first:
                shift = shift_after(scoring.layout, level, token, written.shift.take_along(parent, axis=1))
                # Rows of beams that do not exist are not used, but must be valid, so none may be negative.
                written = replace(written, shift=graph.op("Max", shift, ZERO))
        return Beams(
            score=kept,
            token=token,
            edge=edge,
            node=graph.where(alive, inputs.edge_child.take(edge), NONE),
            parent=parent,
            written=written,
        )

    def _unblocked(self, total: Value, start: Value, count: Value, slots: Value) -> Value:
        """Scores of candidates, float32 [B, P * C + W] (the last is padding), with blocked edges masked out.

        A blocked edge is located by the range of child edges of each node, `start` and `count` int32 [B, P], and not
        searched for among the candidates: X * P comparisons, however many children there are.
        """
        graph, blocked = self._graph, self._inputs.blocked.unsqueeze(2)
        beam = graph.op("Range", 0, graph.op("Squeeze", start.size(1)), 1)
        begins = (beam * slots.size(0)).cast("int32") - start
        under = (blocked >= start.unsqueeze(1)) & (blocked < (start + count).unsqueeze(1))
        # The place of an edge that is under no beam is -1: the last.
        place = graph.where(under, blocked + (begins + np.int32(1)).unsqueeze(1), ZERO)
        place = graph.op("ReduceSum", place, np.asarray([2]), keepdims=0) - np.int32(1)
        return graph.op("ScatterElements", total, place, graph.op("Expand", NOTHING, graph.op("Shape", place)), axis=1)

    def _state_rows(self, level: int, beams: Beams) -> Value:
        """int64 [B * W]: row of the decoder state that each beam continues; at the first level a request has one."""
        graph, width = self._graph, self._inputs.beam_slots.size(0)
        request = graph.op("Range", 0, graph.op("Squeeze", beams.score.size(0)), 1).unsqueeze(1)
        if level == 0:
            return graph.op("Expand", request, graph.op("Shape", beams.score)).reshape(-1)
        return (request * width + beams.parent).reshape(-1)
