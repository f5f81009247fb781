"""A whole bundle whose semantic IDs hold no expert: exported with proof, verified, served, evaluated."""

from __future__ import annotations

from pathlib import Path

from http_server import serving
from tiny import NOUNS, evaluated_domains, tiny_stages

from service.bundle.files import Bundle
from service.settings import read_settings
from service.verifying import verify
from training.export.bundle import export_bundle
from training.tokenizer.configuration import stage_parameters


def test_a_tokenizer_without_a_router_serves_like_any_other(tmp_path: Path) -> None:
    values = {"kind": "rq-kmeans", "levels": 2, "codes": 16, "suffixes": 16, "threads": 1}
    stages = tiny_stages(tmp_path, stage_parameters(values, "test"))
    bundle = tmp_path / "bundle"
    export_bundle(stages.folders, bundle, stages.options)
    layout = Bundle.open(bundle).manifest.layout
    assert (layout.levels, layout.experts, layout.experts_per_item) == (2, 1, 0)
    assert [check.name for check in verify(bundle, threads=1)][-1] == "constraint"
    settings = read_settings(bundle=bundle, store=f"embedded:{tmp_path / 'store'}")
    with serving(settings) as (client, _):
        item = {"item_id": "new", "domain": "books", "title": "the old new atlas of the harbour"}
        said = client.post("/tokenize", json={"items": [item], "register": True}).json()["items"][0]
        assert said["semantic_id"]["experts"] == []
        assert [name[:3] for name in said["tokens"][:2]] == ["<a_", "<b_"]
        assert said["expert_weights"] == {"all": 1.0}
        history = [{"item_id": "new", "domain": "books"}, {"item_id": "games-4", "domain": "games"}]
        found = client.post("/recommend", json={"history": history, "k": 5, "domains": ["books", "tools"]}).json()
        assert found["unknown_history"] == []
        assert len({(one["domain"], one["item_id"]) for one in found["items"]}) == 5
    assert evaluated_domains(bundle, stages, tmp_path / "evaluation") == set(NOUNS)
