"""A trained tokenizer as an ONNX graph, and the proof that the graph does what the network does.

Symbols: B batch, D embedding width, L levels, T codes, K experts, N experts chosen, d latent width. The signature is
the one that `service/engine/item_tokenizer.py` checks when it opens the file. Knows nothing of bundles.
"""

from __future__ import annotations

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
from training.tokenizer.interface import Tokenizer

TOLERANCE = 1e-4
"""Greatest difference of a float output, and of two scores that count as a tie, relative to the numbers' size."""


class _Graph(nn.Module):
    """The network's inference with its outputs in the order of the signature."""

    def __init__(self, network: TokenizerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        tokenized = self.network(embedding)
        return tuple(getattr(tokenized, tensor.name) for tensor in OUTPUTS)


def export_item_tokenizer(tokenizer: Tokenizer, path: Path) -> ItemTokenizerPart:
    """Write the graph and return its part of a manifest; only the batch size stays open.

    Raises
    ------
    ModelError : torch makes no graph of the network
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
    """How far the graph and the network agree on a catalogue.

    Attributes
    ----------
    items : compared
    ties : items whose codes or experts differ because two candidates score equal within rounding; each one checked
    differences : greatest absolute difference of each float output, ties aside
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
    _compare("latent", network.latent, graph.latent)
    _compare("gate", network.gate, graph.gate)
    differ = (network.experts != graph.experts).any(axis=1) | (network.codes != graph.codes).any(axis=1)
    for row in np.flatnonzero(differ):
        prove_tie(tokenizer.network, network, graph, int(row))
    same = ~differ
    _compare("quantization_error", network.quantization_error[same], graph.quantization_error[same])
    differences = {
        name: float(np.abs(getattr(network, name)[same] - getattr(graph, name)[same]).max(initial=0.0))
        for name in ("latent", "gate", "quantization_error")
    }
    return Proof(len(differ), int(differ.sum()), differences)


def _compare(name: str, expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    difference = np.abs(expected - found)
    allowed = TOLERANCE * max(1.0, float(np.abs(expected).max(initial=0.0)))
    if difference.max(initial=0.0) > allowed:
        row = int(np.unravel_index(int(difference.argmax()), difference.shape)[0])
        raise ModelError(
            f"exported {name}: differs from the network by up to {difference.max():.3g} (row {row}), "
            f"but at most {allowed:.3g} is rounding"
        )


def prove_tie(network: TokenizerNetwork, expected: TokenizedItems, found: TokenizedItems, row: int) -> None:
    """Pass if the first choice in which the two differ was between candidates of equal score, in float64.

    Raises
    ------
    ModelError : one candidate was better than the other by more than rounding
    """
    for place, (one, other) in enumerate(zip(expected.experts[row], found.experts[row], strict=True)):
        if one != other:
            gate = expected.gate[row].astype(np.float64)
            _require_tie("experts", row, place, abs(gate[one] - gate[other]), 1.0)
            if place == 0:
                return  # Another first expert has other codebooks: all that follows may differ.
    expert = int(expected.experts[row, 0]) if expected.experts.shape[1] else 0
    latent, codes = expected.latent[row].astype(np.float64), expected.codes[row].tolist()
    for level, (one, other) in enumerate(zip(codes, found.codes[row].tolist(), strict=True)):
        if one != other:
            distances = network.distances(latent, expert, codes[:level], (one, other))
            _require_tie("codes", row, level, abs(distances[0] - distances[1]), np.square(latent).sum())
            return


def _require_tie(name: str, row: int, place: int, gap: float, scale: float) -> None:
    if gap > TOLERANCE * scale:
        raise ModelError(
            f"exported {name}: row {row}, position {place} differs from the network, and the two candidates are no "
            f"tie: their scores are {gap:.3g} apart, but at most {TOLERANCE * scale:.3g} is rounding"
        )


def _part(tokenizer: Tokenizer, path: Path) -> ItemTokenizerPart:
    return ItemTokenizerPart(
        model=path.name,
        embedding_width=tokenizer.shape.embedding_width,
        latent_width=tokenizer.shape.latent_width,
        expert_names=list(tokenizer.expert_names),
    )
