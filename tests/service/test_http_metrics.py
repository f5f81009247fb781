"""What an operator sees: the health of the token space, the store's age, and that callers cannot make metrics grow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
from http_server import PATIENCE_SECONDS, serving, serving_dummy
from prometheus_client.parser import text_string_to_metric_families
from redis_server import RedisServer

from service.operations.token_space import MOST_DOMAINS
from service.settings import Settings

Samples = dict[tuple[str, ...], float]


def scrape(client: httpx.Client) -> Samples:
    """Every sample: (name, label values in the order of their names) -> value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


@contextmanager
def serve(bundle: Path, store: str) -> Iterator[httpx.Client]:
    settings = Settings(bundle=bundle, store=store, threads=1, refresh_seconds=0.02)
    with serving(settings) as (client, _):
        yield client


def test_the_health_of_the_token_space_is_shown_a_domain(tiny_bundle: Path, tmp_path: Path) -> None:
    catalogue = pl.read_parquet(tiny_bundle / "catalogue" / "items.parquet")
    with serve(tiny_bundle, f"embedded:{tmp_path}") as client:
        found = scrape(client)
        for domain in ("books", "games", "tools"):
            items = catalogue.filter(pl.col("domain") == domain)
            assert found["unitok_domain_items", domain] == len(items)
            assert found["unitok_domain_collided_items", domain] == (items["suffix"] > 0).sum() > 0
            shares = [value for name, value in found.items() if name[:2] == ("unitok_expert_share", domain)]
            assert sum(shares) == pytest.approx(1)
            for level in range(3):
                share = items["codes"].list.get(level).value_counts()["count"].to_numpy() / len(items)
                perplexity = float(np.exp(-(share * np.log(share)).sum()))
                assert found["unitok_code_perplexity", domain, str(level)] == pytest.approx(perplexity)

        # Items like those of training have the error of training; others do not.
        columns = ["title", "brand", "categories"]
        contents = (
            pl.read_parquet(tiny_bundle.parent / "dataset" / "tools" / "items.parquet").select(columns).to_dicts()
        )
        body = [{name: value for name, value in row.items() if value} | {"domain": "tools"} for row in contents]
        assert client.post("/tokenize", json={"items": body}).status_code == 200
        strange = [{"domain": "games", "embedding": [9.0] * 24}, {"domain": "never-registered", "title": "x"}]
        assert client.post("/tokenize", json={"items": strange}).status_code == 200
        found = scrape(client)

        def incoming(domain: str) -> float:
            count = found["unitok_quantization_error_count", domain]
            return found["unitok_quantization_error_sum", domain] / count

        assert found["unitok_quantization_error_count", "tools"] == 100
        assert incoming("tools") == pytest.approx(found["unitok_trained_quantization_error", "tools"], rel=1e-3)
        assert incoming("games") > 10 * found["unitok_trained_quantization_error", "games"]
        # The item of a domain without items, and the two that were tokenized before the service was ready.
        assert found["unitok_quantization_error_count", "other domains"] == 3
        assert found["unitok_index_bytes",] > 1000
        assert found["unitok_admission_capacity_items",] == 4096


def test_an_item_is_counted_when_it_comes_and_when_it_goes(tiny_bundle: Path, tmp_path: Path) -> None:
    with serve(tiny_bundle, f"embedded:{tmp_path}") as client:
        for name in "ab":
            client.put(f"/items/new/{name}", json={"title": "the same title"})
        found = scrape(client)
        assert (found["unitok_domain_items", "new"], found["unitok_domain_collided_items", "new"]) == (2, 1)
        assert found["unitok_code_perplexity", "new", "0"] == 1
        client.delete("/items/new/b")
        found = scrape(client)
        assert (found["unitok_domain_items", "new"], found["unitok_domain_collided_items", "new"]) == (1, 0)


def test_the_metrics_tell_when_the_store_is_away_and_when_it_is_back(tiny_bundle: Path, tmp_path: Path) -> None:
    def until(client: httpx.Client, reached: str) -> None:
        given_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            age = scrape(client)["unitok_store_age_seconds",]
            if {"away": age > 1, "back": age < 0.5}[reached]:
                return
            assert time.monotonic() < given_up, age

    with RedisServer(tmp_path / "redis") as server, serve(tiny_bundle, server.url) as client:
        until(client, "back")
        server.kill()
        until(client, "away")
        history = [{"domain": "books", "item_id": "books-1"}]
        assert client.post("/recommend", json={"history": history}).status_code == 200
        server.start()
        until(client, "back")


def test_callers_cannot_make_the_metrics_grow(tmp_path: Path) -> None:
    with serving_dummy(tmp_path) as client:
        items = [
            {"item_id": "a", "domain": f"domain-{number}", "title": str(number)} for number in range(MOST_DOMAINS + 20)
        ]
        items += [{"item_id": "b", "domain": "domain-119", "title": "makes it one of the largest"}]
        assert client.post("/tokenize", json={"items": items, "register": True}).status_code == 200
        assert client.post("/tokenize", json={"items": items}).status_code == 200
        found = scrape(client)
        shown = {name[1] for name in found if name[0] == "unitok_domain_items"}
        assert len(shown) == MOST_DOMAINS
        assert "domain-119" in shown
        counts = {name[1]: value for name, value in found.items() if name[0] == "unitok_quantization_error_count"}
        assert set(counts) == shown | {"other domains"}
        assert sum(counts.values()) >= 2 * len(items)
