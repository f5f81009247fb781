"""Recommenders in half precision: their graphs, the twins that round as a GPU does, and what is proven of both."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from beam_twin import LAYOUT, SMALL, random_items, random_model, whole_histories
from numpy.typing import NDArray
from tiny import TinyStages
from transformers import T5ForConditionalGeneration

from service.bundle.files import hash_files, read_manifest, write_manifest
from service.bundle.manifest import RecommenderPart
from service.bundle.sample import SAMPLE, ProvenSample
from service.engine.recommender import BeamResult, Recommender
from service.engine.sessions import Runtime, open_session
from service.engine.signature import Tensor
from service.errors import ModelError
from service.ranked_lists import compare_best
from service.semantic_ids import TokenLayout
from service.verifying import verify
from training.export import bundle as bundle_module
from training.export import proof as proof_module
from training.export.bundle import export_bundle
from training.export.half import open_twin, prove_half_lists, write_twin
from training.export.lists import ProvenLists
from training.export.reference import AllowedTokens, generate_lists
from training.graphs.graph import HALF_LIMIT, Graph
from training.graphs.recommender import export_recommender
from training.networks.t5 import T5Settings

PART = RecommenderPart(name="all", model="recommender.onnx", domains=[], domain_tokens=[], max_history=20)
GATED = SMALL.model_copy(update={"feed_forward": "gated-gelu"})
ITEMS = SMALL.model_copy(update={"history": "items", "item_head": 0.6, "likeness": True})
HEAD_ALONE = ITEMS.model_copy(update={"item_head": 1.0, "likeness": False})
BEAMS = 20


@pytest.mark.parametrize("settings", [SMALL, GATED, ITEMS, HEAD_ALONE], ids=["relu", "gated", "items", "head alone"])
def test_lists_are_nearly_those_of_generate(settings: T5Settings, tmp_path: Path) -> None:
    items, layout = random_items(1, (120,)), LAYOUT
    known = items.tokens[np.arange(120) % 3 > 0] if settings.history == "items" else None
    model, (history, mask) = random_model(1, settings, layout, known), whole_histories(1, (2, 8, 1, 5))
    path = tmp_path / "recommender.onnx"
    export_recommender(model, layout, path, half=True)
    expected = generate_lists(model, history, mask, AllowedTokens(items.tokens), BEAMS)
    graph = Recommender.open(path, PART, layout, Runtime(threads=1))
    roots = np.zeros((4, 1), dtype=np.int32)

    def scores(recommender: Recommender) -> NDArray[np.float32]:
        found: BeamResult = recommender.search(history, mask, items.trie.arrays(), roots, roots[:, :0], BEAMS)
        lists = zip(expected.tokens, expected.log_prob, found.tokens, found.log_prob, strict=True)
        compared = [compare_best(*each) for each in lists]
        assert sum(each.kept for each in compared) >= 0.9 * sum(each.best for each in compared)
        assert max(each.difference for each in compared) < 0.1
        np.testing.assert_allclose(found.log_prob_by_level.sum(axis=2), found.log_prob, atol=1e-4)
        return found.log_prob

    assert not np.array_equal(scores(graph), scores(open_twin(path, graph, 1)))


def test_what_a_network_multiplies_by_is_stored_in_half_precision(tmp_path: Path) -> None:
    model = random_model(2, HEAD_ALONE, LAYOUT, random_items(2, (60,)).tokens)
    export_recommender(model, LAYOUT, tmp_path / "recommender.onnx", half=True)
    graph = onnx.load(tmp_path / "recommender.onnx").graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    multiplied = {node.input[1] for node in graph.node if node.op_type == "MatMul"} & set(kinds)
    assert len(multiplied) > 5
    assert {kinds[name] for name in multiplied | {"item_head.weight", "item_own.weight"}} == {onnx.TensorProto.FLOAT16}
    assert [each.type.tensor_type.elem_type for each in graph.output].count(onnx.TensorProto.FLOAT) == 2


def test_a_twin_rounds_every_result(tmp_path: Path) -> None:
    """As NumPy does in float16, which ONNX Runtime on a processor does not."""
    rng = np.random.default_rng(0)
    x, table = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((5, 8)).astype(np.float32)
    graph = Graph("rounded")
    half = graph.in_half()
    given, rows = graph.input("x", "float32", ["a", 8]), graph.input("i", "int32", ["a"])
    summed = (half.adopt(given) + half.constant(table, "table").take(rows)) * half.constant(table[0], "scale")
    graph.output(graph.adopt(summed), "y", "float32", ["a", 8])
    graph.save(tmp_path / "half.onnx")
    write_twin(tmp_path / "half.onnx", tmp_path / "twin.onnx")
    inputs = [Tensor("x", "float32", ("a", 8)), Tensor("i", "int32", ("a",))]
    session = open_session(tmp_path / "twin.onnx", Runtime(threads=1), inputs, [Tensor("y", "float32", ("a", 8))])
    places = np.asarray([4, 0, 2], dtype=np.int32)
    narrow, narrow_table = x.astype(np.float16), table.astype(np.float16)
    expected = (narrow + narrow_table[places]) * narrow_table[0]
    np.testing.assert_array_equal(session.run({"x": x, "i": places})["y"], expected.astype(np.float32))


@pytest.fixture(scope="module")
def stages(stages: TinyStages) -> TinyStages:
    return replace(stages, options=replace(stages.options, half=True))


@pytest.fixture(scope="module")
def exported(stages: TinyStages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half") / "bundle"
    export_bundle(stages.folders, folder, stages.options)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def seal(folder: Path) -> None:
    """Make the manifest's hashes those of the files as they are now."""
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": hash_files(folder)}))


def test_a_bundle_in_half_precision_is_proven_and_verified(bundle: Path) -> None:
    proven = read_manifest(bundle).figures["proof"]["recommenders"]["recommender"]
    assert (proven["precision"], proven["histories"], proven["beams"]) == ("float16", 60, 10)
    assert 0.99 <= proven["best_kept"] <= 1
    sample = ProvenSample.load(bundle / SAMPLE)
    assert (sample.tolerance == np.float32(2 * proven["greatest_difference"])).all()
    checks = {check.name: check.what for check in verify(bundle, threads=1)}
    assert "lists of 10 keep 100.0% of their 10 best" in checks["recommender recommender"]
    # Where every result is rounded, as on a GPU, the bundle passes too.
    write_twin(bundle / "recommender.onnx", bundle / "recommender.onnx")
    seal(bundle)
    assert [check.name for check in verify(bundle, threads=1)][-1] == "constraint"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("log_prob", r"stored history 0: log_prob: differs by up to 1, but at most 0\.\d+ is rounding"),
        ("tokens", r"semantic_id: \d+\.\d% of the 10 best of its stored lists are found, but at least 95% must be"),
    ],
)
def test_what_half_precision_does_not_explain_is_refused(bundle: Path, changed: str, message: str) -> None:
    sample = ProvenSample.load(bundle / SAMPLE)
    # The other lists are those of the next history: few of the best items are the same.
    other = {"log_prob": sample.log_prob - np.float32(1), "tokens": np.roll(sample.tokens, 1, axis=0)}[changed]
    tolerance = sample.tolerance if changed == "log_prob" else np.full_like(sample.tolerance, 100)
    replace(sample, **{changed: other}, tolerance=tolerance).save(bundle)
    seal(bundle)
    with pytest.raises(ModelError, match=message):
        list(verify(bundle, threads=1))


def test_half_precision_that_changes_too_many_lists_fails_the_export(
    stages: TinyStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_coarse(model: T5ForConditionalGeneration, layout: TokenLayout, path: Path, **options: bool) -> None:
        coarse = copy.deepcopy(model)
        with torch.no_grad():
            for weights in coarse.parameters():
                weights.copy_(weights.to(torch.float8_e4m3fn).float())
        export_recommender(coarse, layout, path, **options)

    monkeypatch.setattr(bundle_module, "export_recommender", too_coarse)
    with pytest.raises(ModelError, match=r"recommender recommender: in half precision \d+\.\d+% of the 10 best items"):
        export_bundle(stages.folders, tmp_path / "bundle", stages.options)
    assert not (tmp_path / "bundle").exists()


def test_each_recommender_needs_a_list_that_can_be_stored(
    stages: TinyStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Path(shutil.copytree(stages.folders.recommenders[0], tmp_path / "second"))
    folders = replace(stages.folders, recommenders=(*stages.folders.recommenders, second))

    def none_of_the_second(recommender: Recommender, *rest: Any, **options: Any) -> ProvenLists:
        return prove_half_lists(recommender, *rest, **options | {"keep": 0 if recommender.part.name == "second" else 1})

    monkeypatch.setattr(proof_module, "prove_half_lists", none_of_the_second)
    with pytest.raises(ModelError, match="recommender second: none of 60 ranked lists is clear enough"):
        export_bundle(folders, tmp_path / "bundle", stages.options)


def test_the_sum_of_two_masks_is_a_number() -> None:
    assert np.isfinite(np.float16(-HALF_LIMIT) + np.float16(-HALF_LIMIT))


def test_lists_of_bundles_without_tolerances_are_exact(bundle: Path) -> None:
    with np.load(bundle / SAMPLE) as arrays:
        older = {name: arrays[name] for name in arrays.files if name != "tolerance"}
    np.savez_compressed(bundle / SAMPLE, **older)
    assert (ProvenSample.load(bundle / SAMPLE).tolerance == 0).all()
