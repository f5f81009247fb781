"""Export of a trained recommender as one ONNX graph: the encoder and the whole constrained beam search.

The signature is the one that `service/engine/recommender.py` checks when it opens the file. Knows nothing of items or
of a bundle's other files.
"""

from __future__ import annotations

from pathlib import Path

from transformers import T5ForConditionalGeneration

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import recommender_inputs, recommender_outputs
from service.errors import ModelError
from service.semantic_ids import TokenLayout
from training.graphs.beam_search import BeamSearch
from training.graphs.beams import SearchInputs
from training.graphs.graph import Graph
from training.graphs.scoring_graph import ScoringGraph
from training.graphs.t5_graph import T5Graph
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import TrainedRecommender
from training.networks.word_vectors import plain_state

GRAPH = "recommender.onnx"
"""File name of a bundle's only recommender."""


def recommender_part(trained: TrainedRecommender, name: str, model: str) -> RecommenderPart:
    """The part of a manifest for a recommender whose graph is the file `model`."""
    return RecommenderPart(
        name=name,
        model=model,
        domains=list(trained.trained_on),
        domain_tokens=list(trained.layout.domains),
        max_history=trained.max_history,
        repeats=dict(trained.repeats),
    )


def export_recommender(
    model: T5ForConditionalGeneration,
    layout: TokenLayout,
    path: Path,
    *,
    half: bool = False,
    for_gpu: bool = False,
) -> None:
    """Write the graph; all sizes except the vocabulary and the depth are dynamic.

    Parameters
    ----------
    model : weights and shape
    layout : its depth is that of the search; its vocabulary must be the model's
    path : the file to write
    half : implies `for_gpu`, with weights and results of the network in half precision; scores are summed and ranked
        in float32, and the signature is the same
    for_gpu : laid out for a GPU: a request's beams share the states decoded before, and no size depends on the contents
        of histories, so that a search can be replayed; gives the same lists, but is slower on a CPU

    Raises
    ------
    ModelError : model and layout do not fit, or the graph does not support this kind of network
    """
    if model.config.vocab_size != layout.vocabulary:
        raise ModelError(
            f"the recommender has {model.config.vocab_size} tokens, but the layout has {layout.vocabulary}"
        )
    for_gpu = for_gpu or half
    graph = Graph("recommender")
    inputs = [graph.input(each.name, each.dtype, each.shape) for each in recommender_inputs(layout.depth)]
    history, history_mask, node_start, node_count, edge_token, edge_child, roots, blocked, beam_slots, *slots = inputs
    state = plain_state(model)
    scoring = None
    if isinstance(model, SemanticT5):
        scoring = ScoringGraph(graph, state, layout, model.item_share, half=half, room=for_gpu)
    network = T5Graph(graph, model.config, state, scoring, half=half, shared=for_gpu)
    limits = SearchInputs(node_start, node_count, edge_token, edge_child, roots, blocked, beam_slots, slots)
    found = BeamSearch(graph, network, limits).search(network.encode(history, history_mask))
    values = (found.tokens, found.log_prob, found.leaf, found.log_prob_by_level)
    for value, each in zip(values, recommender_outputs(layout.depth), strict=True):
        graph.output(value, each.name, each.dtype, each.shape)
    graph.save(path)
