"""The engine on the tiny bundle: what opens, what is refused, and which recommender answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_graphs import write_text_encoder

from service.bundle.files import Bundle, hash_files, read_manifest, write_manifest
from service.bundle.manifest import RecommenderPart
from service.engine.engine import Engine, ItemParts
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from service.errors import BundleError, InvalidInput, ModelError
from service.index.trie import CodeTrie
from service.items import TEXT_RECIPE
from service.semantic_ids import TokenLayout


@pytest.fixture(scope="module")
def engine(tiny_bundle: Path) -> Engine:
    return Engine.open(Bundle.open(tiny_bundle), threads=1)


def arguments(recommender: Recommender) -> dict[str, Any]:
    values = np.asarray([[1, 2, 3, 0, 0], [1, 2, 4, 1, 0]], dtype=np.int32)
    tokens, leaves = recommender.layout.tokens(values), np.asarray([40, 41], dtype=np.int32)
    return {
        "history": tokens[:1].astype(np.int64),
        "history_mask": np.ones((1, 5), dtype=np.int64),
        "index": CodeTrie.from_tokens(tokens, np.zeros(2, np.int32), leaves, 1).arrays(),
        "roots": np.zeros((1, 1), dtype=np.int32),
        "blocked": np.zeros((1, 0), dtype=np.int32),
        "beams": 3,
    }


def test_texts_go_all_the_way_to_items(engine: Engine) -> None:
    tokenized = engine.item_tokenizer.tokenize(engine.text_encoder.encode(["the red novel", "the old saw"]))
    assert tokenized.codes.shape == (2, engine.layout.levels)
    assert tokenized.gate.shape == (2, engine.layout.experts)
    recommender = engine.recommender_for([])
    found = recommender.search(**arguments(recommender))
    assert sorted(found.leaf[0].tolist()) == [-1, 40, 41]
    assert found.log_prob[0, 0] > found.log_prob[0, 1] > found.log_prob[0, 2] == -np.inf
    np.testing.assert_allclose(found.log_prob_by_level[0].sum(axis=1), found.log_prob[0], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beams": 0}, "beams is 0"),
        ({"history": np.full((1, 5), 10_000)}, r"history holds a token that is not within 0\.\."),
        ({"history": np.full((1, 5), -1)}, r"history holds a token that is not within 0\.\."),
        ({"history": np.zeros((1, 0), np.int64), "history_mask": np.zeros((1, 0), np.int64)}, "at least one token"),
        ({"history_mask": np.ones((1, 4), np.int64)}, r"history \[1, 5\] and history_mask \[1, 4\]"),
        ({"roots": np.asarray([[99]])}, r"roots holds a number that is not within -1\.\."),
        ({"roots": np.asarray([[-2]])}, r"roots holds a number that is not within -1\.\."),
        ({"roots": np.zeros((1, 0), np.int32)}, "roots is empty"),
        ({"roots": np.zeros((2, 1), np.int32)}, r"roots has shape \[2, 1\], but must be \[1, any\]"),
        ({"blocked": np.asarray([[-7]])}, r"blocked holds a number that is not within -1\.\."),
        ({"index": CodeTrie(3, 1).arrays()}, "the index has 3 levels, but the recommender writes 5"),
    ],
)
def test_what_would_read_outside_an_array_is_refused(engine: Engine, change: dict[str, Any], message: str) -> None:
    recommender = engine.recommender_for([])
    with pytest.raises(InvalidInput, match=message):
        recommender.search(**(arguments(recommender) | change))


@pytest.mark.parametrize("rows", [slice(None), slice(-16, None)], ids=["every token", "the suffixes alone"])
def test_weights_that_are_not_numbers_are_a_model_error(engine: Engine, rows: slice, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "recommender.onnx"
    model = onnx.load(engine.bundle.path("recommender.onnx"))
    for tensor in model.graph.initializer:
        if tensor.name == "to_logits":
            broken = onnx.numpy_helper.to_array(tensor).copy()
            broken[:, rows] = np.nan
            tensor.CopyFrom(onnx.numpy_helper.from_array(broken, tensor.name))
    onnx.save(model, path)
    part = engine.recommenders[0].part
    recommender = Recommender.open(path, part, engine.recommenders[0].layout, Runtime(threads=1))
    with pytest.raises(ModelError, match="output 'log_prob' holds NaN"):
        recommender.search(**arguments(recommender))


def test_a_recommender_of_another_depth_does_not_open(engine: Engine) -> None:
    layout = TokenLayout(levels=4, codes=16, experts=3, experts_per_item=1, suffixes=16)
    with pytest.raises(BundleError, match="child_slots_5"):
        Recommender.open(engine.bundle.path("recommender.onnx"), engine.recommenders[0].part, layout, Runtime())


@pytest.mark.parametrize(
    "more",
    [{"suffixes": 17}, {"codes": 17}, {"domains": ("books",)}, {"suffixes": 1, "domains": tuple("abcdefghijklmnop")}],
    ids=",".join,
)
def test_a_recommender_with_fewer_tokens_than_the_layout_does_not_open(engine: Engine, more: dict[str, Any]) -> None:
    layout = replace(engine.layout, **more)
    with pytest.raises(BundleError, match=rf"recommender\.onnx: .* the last of the {layout.vocabulary} tokens"):
        Recommender.open(engine.bundle.path("recommender.onnx"), engine.recommenders[0].part, layout, Runtime())


def test_an_item_tokenizer_that_is_not_the_layouts_does_not_open(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["layout"]["levels"] = 4
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"writes L, K, N = \(3, 3, 1\), but the manifest says \(4, 3, 1\)"):
        Engine.open(Bundle.open(folder), threads=1)


@pytest.mark.parametrize("opens", [Engine.open, lambda bundle: ItemParts.open(bundle, Runtime(threads=1))])
def test_a_text_encoder_of_another_width_than_the_item_tokenizer_reads_does_not_open(
    tiny_bundle: Path, tmp_path: Path, opens: Callable[[Bundle], Any]
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    write_text_encoder(folder)
    manifest = read_manifest(folder)
    write_manifest(folder, manifest.model_copy(update={"files": hash_files(folder)}))
    message = r"text_encoder\.onnx: writes 6 values a text, but .*item_tokenizer\.onnx reads embeddings of 24"
    with pytest.raises(BundleError, match=message):
        opens(Bundle.open(folder))


@pytest.mark.parametrize("opens", [Engine.open, lambda bundle: ItemParts.open(bundle, Runtime(threads=1))])
def test_texts_of_another_recipe_are_refused(engine: Engine, opens: Callable[[Bundle], Any]) -> None:
    manifest = engine.bundle.manifest
    text_encoder = manifest.text_encoder.model_copy(update={"recipe": "title-alone"})
    other = Bundle(engine.bundle.folder, manifest.model_copy(update={"text_encoder": text_encoder}))
    with pytest.raises(BundleError, match=rf"text_encoder\.recipe is 'title-alone', but .* by '{TEXT_RECIPE}'"):
        opens(other)


@dataclass
class Named:
    """As much of a recommender as the choice looks at."""

    part: RecommenderPart


def with_recommenders(engine: Engine, **domains: list[str]) -> Engine:
    parts = [
        RecommenderPart(name=name, model="m", domains=trained_on, domain_tokens=[], max_history=5)
        for name, trained_on in domains.items()
    ]
    recommenders: Any = [Named(part) for part in parts]
    return Engine(engine.bundle, engine.text_encoder, engine.item_tokenizer, recommenders)


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        (["books"], "books"),
        (["games"], "both"),
        (["books", "games"], "both"),
        (["books", "tools"], "everything"),
        (["unseen"], "everything"),
        ([], "books"),
    ],
)
def test_the_recommender_with_the_fewest_domains_that_covers_the_request_answers(
    engine: Engine, asked: list[str], answers: str
) -> None:
    several = with_recommenders(engine, both=["books", "games"], books=["books"], everything=[])
    assert several.recommender_for(asked).part.name == answers


def test_where_none_covers_the_request_the_one_that_covers_most_of_it_answers(engine: Engine) -> None:
    several = with_recommenders(engine, books=["books"], both=["games", "tools"])
    assert several.recommender_for(["books", "games", "tools"]).part.name == "both"
    assert several.recommender_for(["unseen"]).part.name == "books"
