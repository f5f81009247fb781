"""The same network and the same number of steps, searched without a constraint: any token may follow any other.

What the constrained graph takes beyond this one is the price of the constraint. Knows nothing of items.

Symbols: B batch, W beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from benchmarks.catalogues import LAYOUT
from benchmarks.recommenders import Histories
from service.engine.sessions import Runtime, open_session
from service.engine.signature import Tensor
from training.graphs.graph import Graph, Value
from training.graphs.t5_graph import T5Graph

INPUTS = [
    Tensor("history", "int64", ("B", "S")),
    Tensor("history_mask", "int64", ("B", "S")),
    Tensor("beam_slots", "int32", ("W",)),
]
OUTPUTS = [Tensor("written", "int64", ("B", "W", LAYOUT.depth)), Tensor("log_prob", "float32", ("B", "W"))]


def export_unconstrained(model: T5ForConditionalGeneration, path: Path) -> None:
    """Write a plain beam search over the whole vocabulary, as deep as the layout."""
    graph = Graph("unconstrained")
    history, mask, slots = (graph.input(each.name, each.dtype, each.shape) for each in INPUTS)
    network = T5Graph(graph, model.config, model.state_dict())
    encoded = network.encode(history, mask)
    width = slots.size(0)
    request = graph.op("Range", 0, graph.op("Squeeze", encoded.batch), 1).unsqueeze(1)
    tokens = graph.op("Expand", np.asarray([[0]]), graph.shape(encoded.batch, 1))
    score: Value = graph.op("Expand", 0.0, graph.shape(encoded.batch, 1))
    states = network.nothing_decoded(encoded)
    written: list[Value] = []
    for level in range(LAYOUT.depth):
        log_prob = network.step(tokens, states, encoded)
        beams = score.size(1)
        total = score.unsqueeze(2) + log_prob.reshape(encoded.batch, -1, LAYOUT.vocabulary)
        score, place = graph.top_k(total.reshape(0, -1), width)
        parent = place // LAYOUT.vocabulary
        token = place - parent * LAYOUT.vocabulary
        written = [earlier.take_along(parent, axis=1) for earlier in written] + [token]
        if level < LAYOUT.depth - 1:
            states = states.continued((request * beams + parent).reshape(-1))
        tokens = token.reshape(-1, 1)
    graph.output(graph.concat([token.unsqueeze(2) for token in written], axis=2), *_signature(OUTPUTS[0]))
    graph.output(score, *_signature(OUTPUTS[1]))
    graph.save(path)


def _signature(tensor: Tensor) -> tuple[str, str, tuple[int | str, ...]]:
    return tensor.name, tensor.dtype, tensor.shape


def unconstrained(path: Path, runtime: Runtime, asked: Histories, beams: int) -> Callable[[], object]:
    """A call that searches for all requests."""
    session = open_session(path, runtime, INPUTS, OUTPUTS)
    feeds: dict[str, NDArray[Any]] = {
        "history": asked.tokens,
        "history_mask": asked.mask,
        "beam_slots": np.arange(beams, dtype=np.int32),
    }
    return lambda: session.run(feeds)
