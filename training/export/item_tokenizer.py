"""Export of a trained tokenizer as an ONNX graph, and the proof that graph and network agree.

Symbols: B batch, D embedding width, L levels, T codes, K experts, N experts chosen, d latent width. The signature is
the one that `service/engine/item_tokenizer.py` checks when it opens the file. Knows nothing of bundles.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

from service.bundle.manifest import ItemTokenizerPart
from service.engine.item_tokenizer import INPUTS, OUTPUTS, ItemTokenizer
from service.engine.tokenized_items import TokenizedItems
from service.errors import ModelError
from training.encoders.graphs import OPSET, quiet_exporter, write_graph
from training.networks.tokenized import TokenizerNetwork
from training.tokenizer.interface import CHUNK, Tokenizer

TOLERANCE = 1e-4
"""Greatest difference of a float output, and of two scores that count as a tie, relative to their magnitude."""
GATE_MARGIN = 4
"""The gate may also differ by this many times the network's own rounding error, measured against float64. Domains of
little spread are separated by large logits, and a gate between two such domains shows the rounding of these."""


class _Graph(nn.Module):
    """Inference of the network, with outputs in the order of the signature."""

    def __init__(self, network: TokenizerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        tokenized = self.network(embedding)
        return tuple(getattr(tokenized, tensor.name) for tensor in OUTPUTS)


def export_item_tokenizer(tokenizer: Tokenizer, path: Path) -> ItemTokenizerPart:
    """Write the graph and return its part of a manifest; only the batch size is dynamic.

    Raises
    ------
    ModelError : torch cannot export the network
    """
    example = torch.zeros(3, tokenizer.shape.embedding_width)
    with quiet_exporter():
        program = torch.onnx.export(
            _Graph(tokenizer.network).eval(),
            (example,),
            input_names=[tensor.name for tensor in INPUTS],
            output_names=[tensor.name for tensor in OUTPUTS],
            dynamic_shapes=({0: Dim("B")},),
            dynamo=True,
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch.onnx.export returned no graph for the item tokenizer")
    write_graph(program.model_proto, path)
    return _part(tokenizer, path)


@dataclass(frozen=True)
class Proof:
    """Agreement of graph and network on a catalogue.

    Attributes
    ----------
    items : number of items compared
    ties : items whose codes or experts differ because two candidates score equal within rounding; each one is checked
    differences : greatest absolute difference of each float output, without ties
    """

    items: int
    ties: int
    differences: dict[str, float]


def prove_item_tokenizer(tokenizer: Tokenizer, path: Path, embeddings: NDArray[Any]) -> Proof:
    """Run graph and network on embeddings float [n, D] and compare every output.

    Raises
    ------
    ModelError : a tensor differs by more than rounding; names it, the row and the greatest difference
    """
    graph = ItemTokenizer.open(path, _part(tokenizer, path)).tokenize(embeddings)
    network = tokenizer.encode(embeddings)
    gate_allowed = max(TOLERANCE, GATE_MARGIN * _gate_rounding(tokenizer, embeddings, network.gate))
    _compare("latent", network.latent, graph.latent)
    _compare("gate", network.gate, graph.gate, gate_allowed)
    differ = (network.experts != graph.experts).any(axis=1) | (network.codes != graph.codes).any(axis=1)
    for row in np.flatnonzero(differ):
        prove_tie(tokenizer.network, network, graph, int(row), gate_allowed)
    same = ~differ
    _compare("quantization_error", network.quantization_error[same], graph.quantization_error[same])
    differences = {
        name: float(np.abs(getattr(network, name)[same] - getattr(graph, name)[same]).max(initial=0.0))
        for name in ("latent", "gate", "quantization_error")
    }
    return Proof(len(differ), int(differ.sum()), differences)


def _gate_rounding(tokenizer: Tokenizer, embeddings: NDArray[Any], gate: NDArray[np.float32]) -> float:
    """Greatest difference between the network's gate, float32 [n, K], and the gate computed in float64."""
    exact = deepcopy(tokenizer.network).double()
    rows = torch.split(torch.from_numpy(np.asarray(embeddings, dtype=np.float32)), CHUNK)
    with torch.no_grad():
        parts = [np.abs(exact(each.double()).gate.numpy() - gate[at * CHUNK :][:CHUNK]) for at, each in enumerate(rows)]
    return max(float(part.max(initial=0.0)) for part in parts)


def _compare(
    name: str, expected: NDArray[np.float32], found: NDArray[np.float32], allowed: float | None = None
) -> None:
    difference = np.abs(expected - found)
    if allowed is None:
        allowed = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if difference.max(initial=0.0) > allowed:
        row = int(np.unravel_index(int(difference.argmax()), difference.shape)[0])
        raise ModelError(
            f"exported {name}: differs from the network by up to {difference.max():.3g} (row {row}), "
            f"but at most {allowed:.3g} is rounding"
        )


def prove_tie(
    network: TokenizerNetwork,
    expected: TokenizedItems,
    found: TokenizedItems,
    row: int,
    gate_allowed: float = TOLERANCE,
) -> None:
    """Check that the first choice in which the two differ was a tie, i.e. between candidates of equal score in float64.

    Parameters
    ----------
    gate_allowed : greatest difference between gates that count as equal

    Raises
    ------
    ModelError : one candidate was better than the other by more than rounding
    """
    for place, (one, other) in enumerate(zip(expected.experts[row], found.experts[row], strict=True)):
        if one != other:
            gate = expected.gate[row].astype(np.float64)
            _require_tie("experts", row, place, abs(gate[one] - gate[other]), gate_allowed)
            if place == 0:
                return  # Another first expert has other codebooks, so all later choices may differ.
    expert = int(expected.experts[row, 0]) if expected.experts.shape[1] else 0
    latent, codes = expected.latent[row].astype(np.float64), expected.codes[row].tolist()
    for level, (one, other) in enumerate(zip(codes, found.codes[row].tolist(), strict=True)):
        if one != other:
            distances = network.distances(latent, expert, codes[:level], (one, other))
            _require_tie("codes", row, level, abs(distances[0] - distances[1]), TOLERANCE * np.square(latent).sum())
            return


def _require_tie(name: str, row: int, place: int, gap: float, allowed: float) -> None:
    if gap > allowed:
        raise ModelError(
            f"exported {name}: row {row}, position {place} differs from the network, and the two candidates are no "
            f"tie: their scores are {gap:.3g} apart, but at most {allowed:.3g} is rounding"
        )


def _part(tokenizer: Tokenizer, path: Path) -> ItemTokenizerPart:
    return ItemTokenizerPart(
        model=path.name,
        embedding_width=tokenizer.shape.embedding_width,
        latent_width=tokenizer.shape.latent_width,
        expert_names=list(tokenizer.expert_names),
    )
