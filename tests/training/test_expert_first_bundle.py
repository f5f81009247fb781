"""A whole bundle whose recommenders write the expert before the codes: exported with proof, verified, served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from http_server import serving
from tiny import NOUNS, TinyStages, evaluated_domains, write_recommender

from service.bundle.files import Bundle
from service.errors import ConfigError
from service.settings import Settings, read_settings
from service.verifying import verify
from training.export.bundle import export_bundle


@pytest.fixture(scope="module")
def first(stages: TinyStages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recommender of all domains that reads and writes the expert first."""
    folder = tmp_path_factory.mktemp("first") / "expert_first"
    write_recommender(folder, stages.folders.tokenizer, tuple(NOUNS), seed=3, expert_first=True)
    return folder


def chosen(bundle: Path, tmp_path: Path) -> Settings:
    """A service over a store and a folder of saved indexes that later ones find again."""
    return read_settings(bundle=bundle, store=f"embedded:{tmp_path / 'store'}", index_folder=tmp_path / "indexes")


def test_it_serves_like_any_other(stages: TinyStages, first: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export_bundle(replace(stages.folders, recommenders=(first,)), bundle, stages.options)
    assert Bundle.open(bundle).manifest.layout.expert_first
    assert [check.name for check in verify(bundle, threads=1)][-1] == "constraint"
    with serving(chosen(bundle, tmp_path)) as (client, _):
        item = {"item_id": "new", "domain": "books", "title": "the old new atlas of the harbour"}
        said = client.post("/tokenize", json={"items": [item], "register": True}).json()["items"][0]
        levels, expert = len(said["semantic_id"]["codes"]), said["semantic_id"]["experts"][0]
        assert said["tokens"][0] == f"<{'abcdef'[levels]}_{expert}>"
        assert said["tokens"][1] == f"<a_{said['semantic_id']['codes'][0]}>"
        body = {
            "history": [{"item_id": "new", "domain": "books"}],
            "k": 5,
            "domains": ["books", "tools"],
            "explain": True,
        }
        found = client.post("/recommend", json=body).json()
        assert found["unknown_history"] == []
        assert len({(one["domain"], one["item_id"]) for one in found["items"]}) == 5
        for one in found["items"]:
            identity = one["semantic_id"]
            gained = {each["token"]: each["log_prob"] for each in one["score_by_level"]}
            assert next(iter(gained)) == f"<{'abcdef'[levels]}_{identity['experts'][0]}>"
            assert list(gained)[1:-1] == [f"<{'abcdef'[level]}_{code}>" for level, code in enumerate(identity["codes"])]
            assert sum(gained.values()) == pytest.approx(one["score"], abs=1e-4)
    assert evaluated_domains(bundle, stages, tmp_path / "evaluation") == set(NOUNS)


def test_a_saved_index_of_the_other_order_is_not_searched(stages: TinyStages, first: Path, tmp_path: Path) -> None:
    found = []
    for name, recommender in (("plain", stages.folders.recommenders[0]), ("first", first)):
        export_bundle(replace(stages.folders, recommenders=(recommender,)), tmp_path / name, stages.options)
    for name in ("plain", "plain", "first", "first"):
        with serving(chosen(tmp_path / name, tmp_path)) as (client, parts):
            body = {"history": [{"item_id": "books-4", "domain": "books"}], "k": 5, "domains": ["books"]}
            items = client.post("/recommend", json=body).json()["items"]
            found.append((parts.catalogue.rebuilt, [one["item_id"] for one in items]))
    reasons = [reason for reason, _ in found]
    assert (reasons[1], reasons[3]) == (None, None)
    assert reasons[2] is not None
    assert found[0][1] == found[1][1]
    assert found[2][1] == found[3][1]
    assert len(found[2][1]) == 5


def test_recommenders_of_one_bundle_have_one_order(stages: TinyStages, first: Path, tmp_path: Path) -> None:
    folders = replace(stages.folders, recommenders=(*stages.folders.recommenders, first))
    with pytest.raises(ConfigError, match=r"expert_first: trained with expert_first, the other recommenders without"):
        export_bundle(folders, tmp_path / "bundle", stages.options)
    assert not (tmp_path / "bundle").exists()
