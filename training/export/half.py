"""Proof of graphs in half precision: how much of real ranked lists remains when a GPU rounds every result.

ONNX Runtime has almost no half-precision operators for CPUs: there it computes in float32 between the weights, so the
lists of such a graph tell little about a GPU's. The proof therefore runs a twin, a float32 graph that rounds wherever a
GPU does.

Symbols: B histories, S sequence, W beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnx import TensorProto, helper

from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import ModelError
from service.progress import Advance
from service.ranked_lists import BEST, TIE, compare_best
from training.export.lists import Histories, ProvenLists, batches, one_root, search_all
from training.export.reference import AllowedTokens, generate_lists
from training.networks.t5 import TrainedRecommender

KEPT = 0.99
"""Least share of the top ten items of real histories that must stay in the top ten."""
MARGIN = 2.0
"""Factor by which the error of a GPU's scores may exceed the twin's."""
_MOVES = frozenset(("Concat", "Expand", "Gather", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that only move values, which are rounded already."""


def write_twin(path: Path, twin: Path) -> None:
    """Write the twin of a graph: it computes in float32 and rounds all values that are half precision in the graph."""
    model = onnx.load(path)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    halves = {value.name for value in inferred if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, to: str, kind: int) -> None:
        nodes.append(helper.make_node("Cast", [name], [to], to=kind))

    for weights in model.graph.initializer:
        if weights.data_type == TensorProto.FLOAT16:
            name, weights.name = weights.name, f"{weights.name}_stored"
            cast(weights.name, name, TensorProto.FLOAT)
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type in _MOVES:
            continue
        for place, name in enumerate(node.output):
            if name in halves:
                node.output[place] = f"{name}_exact"
                cast(f"{name}_exact", f"{name}_rounded", TensorProto.FLOAT16)
                cast(f"{name}_rounded", name, TensorProto.FLOAT)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, twin)


def open_twin(path: Path, recommender: Recommender, threads: int) -> Recommender:
    """Open the twin of a recommender whose graph is the file `path`."""
    with TemporaryDirectory() as folder:
        twin = Path(folder) / path.name
        write_twin(path, twin)
        return Recommender.open(twin, recommender.part, recommender.layout, Runtime(threads=threads))


def prove_half_lists(
    recommender: Recommender,
    twin: Recommender,
    trained: TrainedRecommender,
    drawn: Sequence[Histories],
    *,
    beams: int,
    advance: Advance,
    keep: int = 0,
) -> ProvenLists:
    """Compare the twin with `generate`, domain by domain: how many of each history's top ten items stay.

    Parameters
    ----------
    recommender, twin : the graph in half precision, and its twin
    beams : W of the searches
    keep : number of lists to keep, spread over the domains, among those that twin and graph rank alike

    Raises
    ------
    ModelError : the share that stays is less than `KEPT`
    """
    proven = ProvenLists([], [], [], [], [], {})
    lists, best, kept, greatest = 0, 0, 0, 0.0
    for histories in drawn:
        name, tokens = histories.domain.data.name, trained.layout.tokens(histories.domain.values)
        index, allowed = one_root(tokens), AllowedTokens(tokens)
        wanted = -(-keep // len(drawn))
        for batch in batches(histories, trained):
            found, rounded = (search_all(each, batch, index, beams) for each in (recommender, twin))
            expected = generate_lists(trained.model, batch.tokens, batch.mask, allowed, beams)
            for row in range(len(batch.tokens)):
                compared = compare_best(
                    expected.tokens[row], expected.log_prob[row], rounded.tokens[row], rounded.log_prob[row]
                )
                best, kept, greatest = best + compared.best, kept + compared.kept, max(greatest, compared.difference)
                if wanted > 0 and (found.tokens[row] == rounded.tokens[row]).all():
                    wanted -= 1
                    proven.keep(name, batch, found, row)
            lists += len(batch.tokens)
            advance(len(batch.tokens))
    if kept < KEPT * best:
        raise ModelError(
            f"recommender {recommender.part.name}: in half precision {kept / best:.2%} of the {BEST} best items of "
            f"{lists} histories stay, but at least {KEPT:.0%} must; export it without --half"
        )
    figures = {
        "precision": "float16",
        "histories": lists,
        "domains": len(drawn),
        "beams": beams,
        "best_kept": kept / best,
        "greatest_difference": greatest,
    }
    return replace(proven, figures=figures, tolerance=max(MARGIN * greatest, TIE))
