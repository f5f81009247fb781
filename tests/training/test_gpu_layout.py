"""Graphs laid out for a GPU: the lists of those laid out for a processor, and no size that histories decide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from beam_twin import LAYOUT, SMALL, random_items, random_model, whole_histories
from tiny import tiny_stages

from service.bundle.manifest import RecommenderPart
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.ranked_lists import compare_lists
from service.verifying import verify
from training.export.bundle import export_bundle
from training.export.recommender import GRAPH, export_recommender
from training.networks.t5 import T5Settings

PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
ITEMS = SMALL.model_copy(update={"history": "items", "item_head": 0.6, "likeness": True})
SETTINGS = {"tokens": SMALL, "items": ITEMS, "the head alone": ITEMS.model_copy(update={"item_head": 1.0})}
SIZED = {"Range": (0, 1, 2), "Expand": (1,), "Reshape": (1,), "TopK": (1,), "Slice": (1, 2, 4)}
"""Operands that decide how large a result is."""


def exported(settings: T5Settings, folder: Path) -> list[Path]:
    """One network, laid out for a processor and for a GPU."""
    known = random_items(1, (120,)).tokens[::2] if settings.history == "items" else None
    model, paths = random_model(1, settings, LAYOUT, known), [folder / "cpu.onnx", folder / "gpu.onnx"]
    for path, for_gpu in zip(paths, (False, True), strict=True):
        export_recommender(model, LAYOUT, path, for_gpu=for_gpu)
    return paths


@pytest.mark.parametrize("beams", [1, 5, 8, 30])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_both_layouts_rank_alike(settings: T5Settings, beams: int, tmp_path: Path) -> None:
    items, (tokens, mask) = random_items(1, (80, 40)), whole_histories(1, (7, 1, 20, 4))
    domains = np.asarray([[0, 1], [1, -1], [0, -1], [0, 1]])
    roots = np.where(domains < 0, -1, items.trie.arrays().roots[domains]).astype(np.int32)
    found = [
        Recommender.open(path, PART, LAYOUT, Runtime(threads=1)).search(
            tokens, mask, items.trie.arrays(), roots, roots[:, :0], beams
        )
        for path in exported(settings, tmp_path)
    ]
    lists = (each for side in found for each in (side.tokens, side.log_prob))
    compared = [compare_lists(*each) for each in zip(*lists, strict=True)]
    assert [each.problem for each in compared if each.problem] == []
    np.testing.assert_allclose(found[1].log_prob_by_level, found[0].log_prob_by_level, atol=1e-4)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_no_size_follows_from_what_histories_hold(settings: T5Settings, tmp_path: Path) -> None:
    assert settings.history == "tokens" or deciding_inputs(exported(settings, tmp_path)[0])
    assert deciding_inputs(exported(settings, tmp_path)[1]) == set()


def test_a_bundle_for_a_gpu_is_proven(tmp_path: Path) -> None:
    stages = tiny_stages(tmp_path)
    export_bundle(stages.folders, tmp_path / "bundle", replace(stages.options, gpu=True))
    assert deciding_inputs(tmp_path / "bundle" / GRAPH) == set()
    assert [check.name for check in verify(tmp_path / "bundle", threads=1)][-1] == "constraint"


def deciding_inputs(path: Path) -> set[str]:
    """Inputs of a graph whose content, and not whose sizes alone, decides the size of a result."""
    graph = onnx.load(path).graph
    makers, given = {name: node for node in graph.node for name in node.output}, {each.name for each in graph.input}
    found, waiting, seen = set[str](), [], set[str]()
    for node in graph.node:
        # Of ONNX's operators that read sizes off their data, only those above are used.
        assert node.op_type not in {"NonZero", "Unique", "Compress", "GatherND", "Loop", "If"}
        waiting.extend(node.input[place] for place in SIZED.get(node.op_type, ()) if place < len(node.input))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in given:
            found.add(name)
        elif name in makers and makers[name].op_type != "Shape":
            waiting.extend(makers[name].input)
    return found
