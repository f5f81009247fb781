"""The stage `export`: what it writes, what it proves, and that nothing unproven is left behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import helper, numpy_helper
from tiny import NOUNS, TinyStages, write_recommender
from transformers import T5ForConditionalGeneration

from service.bundle.files import Bundle
from service.engine.engine import Engine
from service.errors import ConfigError, ModelError
from service.semantic_ids import TokenLayout
from service.verifying import verify
from training.embed import ENCODER
from training.export import bundle as bundle_module
from training.export import lists
from training.export.bundle import export_bundle
from training.graphs.recommender import export_recommender
from training.ids.table import read_ids
from training.networks.t5 import load_recommender
from training.stage import read_figures


@pytest.fixture(scope="module")
def second(stages: TinyStages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another recommender, of one domain and with a domain token."""
    folder = tmp_path_factory.mktemp("second") / "books_only"
    write_recommender(folder, stages.folders.tokenizer, ("books",), seed=5, domain_tokens=("books",))
    return folder


def test_a_bundle_of_two_recommenders_is_proven_and_complete(stages: TinyStages, second: Path, tmp_path: Path) -> None:
    folders = replace(stages.folders, recommenders=(*stages.folders.recommenders, second))
    torch.set_num_threads(2)
    figures = export_bundle(folders, tmp_path / "bundle", replace(stages.options, histories=30, threads=1))
    assert torch.get_num_threads() == 1
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    opened = Bundle.open(tmp_path / "bundle")
    manifest = opened.manifest
    assert (manifest.name, manifest.generation, manifest.catalogue.items) == ("tiny", 1, 300)
    assert [part.model for part in manifest.recommenders] == [
        "recommender_recommender.onnx",
        "recommender_books_only.onnx",
    ]
    assert [part.domains for part in manifest.recommenders] == [list(NOUNS), ["books"]]
    assert [part.domain_tokens for part in manifest.recommenders] == [[], ["books"]]
    assert manifest.figures["proof"] == figures["proof"]
    for proven in figures["proof"]["recommenders"].values():
        assert (proven["histories"], proven["domains"]) == (30, 3)
        assert proven["greatest_difference"] < 1e-4
    assert figures["proof"]["item_tokenizer"]["items"] == 300
    moved = [domain["items_moved"] for domain in read_figures(folders.tokenizer)["domains"].values()]
    assert figures["proof"]["item_tokenizer"]["moved_off_nearest_code"] == sum(moved) > 0
    assert Engine.open(opened, threads=1).recommender_for(["books"]).part.name == "books_only"
    assert [check.name for check in verify(tmp_path / "bundle", threads=1)][-1] == "constraint"


def test_the_catalogue_holds_the_ids_in_item_rows(stages: TinyStages, tmp_path: Path) -> None:
    options = replace(stages.options, domains=("tools", "books"), histories=4)
    export_bundle(stages.folders, tmp_path / "bundle", options)
    table = pl.read_parquet(tmp_path / "bundle" / "catalogue" / "items.parquet")
    assert table.columns == ["domain", "item_id", "title", "codes", "experts", "suffix"]
    assert table["domain"].unique(maintain_order=True).to_list() == ["tools", "books"]
    ids = read_ids(stages.folders.tokenizer)["tools"]
    tools = table.filter(pl.col("domain") == "tools")
    assert tools["item_id"].to_list() == list(ids.item_ids)
    assert tools["codes"].to_list() == ids.codes.tolist()
    assert tools["experts"].to_list() == ids.experts.tolist()
    assert tools["suffix"].to_list() == ids.suffix.tolist()
    assert tools["suffix"].max() > 0


def test_a_search_that_differs_from_the_network_fails_the_export(
    stages: TinyStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_wrong(model: torch.nn.Module, layout: object, path: Path, **_: object) -> None:
        other = load_recommender(stages.folders.recommenders[0]).model
        with torch.no_grad():
            other.decoder.block[0].layer[0].layer_norm.weight[0] += 0.05
        export_recommender(other, layout, path)  # type: ignore[arg-type]

    monkeypatch.setattr(bundle_module, "export_recommender", slightly_wrong)
    with pytest.raises(ModelError, match=r"recommender recommender, \w+: (log_prob|semantic_id): at rank \d+"):
        export_bundle(stages.folders, tmp_path / "bundle", stages.options)
    assert not (tmp_path / "bundle").exists()


def test_an_export_without_a_list_to_keep_says_what_would_help(
    stages: TinyStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "narrowest_choice", lambda *_: 0.0)
    with pytest.raises(ModelError, match=r"none of 20 ranked lists .* more histories, or with fewer beams than 10"):
        export_bundle(stages.folders, tmp_path / "bundle", replace(stages.options, histories=20))
    assert not (tmp_path / "bundle").exists()


def test_levels_that_differ_from_those_of_generate_fail_the_export(
    stages: TinyStages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def levels_turned_round(model: T5ForConditionalGeneration, layout: TokenLayout, path: Path, **_: object) -> None:
        export_recommender(model, layout, path)
        graph = onnx.load(path)
        (last,) = (node for node in graph.graph.node if "log_prob_by_level" in node.output)
        last.op_type = "Gather"
        last.input.append("backwards")
        last.attribute.append(helper.make_attribute("axis", 2))
        graph.graph.initializer.append(numpy_helper.from_array(np.arange(layout.depth)[::-1].copy(), "backwards"))
        onnx.save(graph, path)

    monkeypatch.setattr(bundle_module, "export_recommender", levels_turned_round)
    with pytest.raises(ModelError, match=r"recommender recommender, \w+: log_prob_by_level: differs by"):
        export_bundle(stages.folders, tmp_path / "bundle", stages.options)


def copied(folder: Path, to: Path) -> Path:
    """A copy whose files may be changed."""
    to.mkdir()
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(folder)).write_bytes(path.read_bytes())
    return to


def test_ids_of_another_tokenizer_are_refused(stages: TinyStages, tmp_path: Path) -> None:
    tokenizer = copied(stages.folders.tokenizer, tmp_path / "tokenizer")
    table = pl.read_parquet(tokenizer / "ids.parquet")
    table.with_columns(pl.col("codes").list.eval((pl.element() + 1) % 16)).write_parquet(tokenizer / "ids.parquet")
    # It may even have been trained on them.
    write_recommender(tmp_path / "recommender", tokenizer, tuple(NOUNS))
    folders = replace(stages.folders, tokenizer=tokenizer, recommenders=(tmp_path / "recommender",))
    with pytest.raises(ModelError, match="codes: 300 items have a published ID that the tokenizer does not give them"):
        export_bundle(folders, tmp_path / "bundle", stages.options)
    assert not (tmp_path / "bundle").exists()


def test_a_moved_id_is_refused_unless_the_repair_moves_it_there(stages: TinyStages, tmp_path: Path) -> None:
    tokenizer = copied(stages.folders.tokenizer, tmp_path / "tokenizer")
    figures = read_figures(tokenizer)
    figures["parameters"]["repair"] = False
    (tokenizer / "figures.json").write_text(json.dumps(figures))
    moved = sum(domain["items_moved"] for domain in figures["domains"].values())
    with pytest.raises(ModelError, match=f"codes: {moved} items have a published ID that the tokenizer does not give"):
        export_bundle(replace(stages.folders, tokenizer=tokenizer), tmp_path / "bundle", stages.options)


def test_embeddings_of_another_encoder_are_refused(stages: TinyStages, tmp_path: Path) -> None:
    embeddings = copied(stages.folders.embeddings, tmp_path / "embeddings")
    vocabulary = embeddings / ENCODER / "tokenizer.json"
    vocabulary.write_text(vocabulary.read_text().replace('"garden"', '"gardens"'))
    with pytest.raises(ModelError, match="sentence_embedding: the vector of item"):
        export_bundle(replace(stages.folders, embeddings=embeddings), tmp_path / "bundle", stages.options)


def test_an_existing_folder_is_kept_unless_it_is_a_bundle_that_may_be_replaced(
    stages: TinyStages, tmp_path: Path
) -> None:
    out, options = tmp_path / "bundle", replace(stages.options, histories=3)
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    for allowed in (False, True):
        with pytest.raises(ConfigError, match="exists already"):
            export_bundle(stages.folders, out, replace(options, replace=allowed))
    (out / "precious.txt").unlink()
    out.rmdir()
    export_bundle(stages.folders, out, options)
    with pytest.raises(ConfigError, match="exists already"):
        export_bundle(stages.folders, out, options)
    export_bundle(stages.folders, out, replace(options, generation=2, replace=True))
    assert Bundle.open(out).manifest.generation == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_parts_that_do_not_fit_are_named(stages: TinyStages, second: Path, tmp_path: Path) -> None:
    folders, options, out = stages.folders, stages.options, tmp_path / "bundle"
    with pytest.raises(
        ConfigError, match="no domain 'films' with items and semantic IDs; there are books, games, tools"
    ):
        export_bundle(folders, out, replace(options, domains=("films",)))
    with pytest.raises(ConfigError, match="no recommender"):
        export_bundle(replace(folders, recommenders=()), out, options)
    with pytest.raises(ConfigError, match="two recommenders are in folders called 'books_only'"):
        export_bundle(replace(folders, recommenders=(second, second)), out, options)
    unfinished = copied(folders.tokenizer, tmp_path / "tokenizer")
    (unfinished / "figures.json").unlink()
    with pytest.raises(ConfigError, match=r"no figures\.json"):
        export_bundle(replace(folders, tokenizer=unfinished), out, options)
    assert not out.exists()
