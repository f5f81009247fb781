"""The HTTP contract with an engine without networks: what the endpoints answer when the request is right."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import DummyEngine, DummyRecommender
from http_server import running, serving_dummy, until, wait_until_ready

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.catalogue.records import NewItem
from service.errors import ModelError, Overloaded
from service.http.app import create_app
from service.lifecycle import PROBE, Service, State
from service.semantic_ids import UNKNOWN_DOMAIN_TOKEN
from service.settings import Settings

FILMS = [f"film {number}" for number in range(30)]
GAMES = [f"game {number}" for number in range(12)]


@pytest.fixture
def engine() -> DummyEngine:
    return DummyEngine()


@pytest.fixture
def catalogue(engine: DummyEngine, tmp_path: Path) -> Iterator[LiveCatalogue]:
    store = EmbeddedStore(tmp_path, "dummy", 3, engine.layout)
    store.finish_seed()
    yield LiveCatalogue(store)
    store.close()


@pytest.fixture
def client(engine: DummyEngine, catalogue: LiveCatalogue) -> Iterator[httpx.Client]:
    with running(create_app(Settings(), engine=engine, catalogue=catalogue)) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture
def stocked(client: httpx.Client) -> httpx.Client:
    items = [
        {"item_id": title.replace(" ", "-"), "domain": domain, "title": title}
        for domain, titles in (("films", FILMS), ("games", GAMES))
        for title in titles
    ]
    assert client.post("/tokenize", json={"items": items, "register": True}).status_code == 200
    return client


def ref(item: dict[str, Any]) -> tuple[str, str]:
    return item["domain"], item["item_id"]


def film(number: int) -> dict[str, str]:
    return {"domain": "films", "item_id": f"film-{number}"}


def test_tokenize_answers_as_the_contract_says(client: httpx.Client) -> None:
    item = {"item_id": "B00A3QO45M", "domain": "office", "title": "Stapler", "brand": "Acme", "categories": ["Tools"]}
    response = client.post("/tokenize", json={"items": [item | {"description": "Staples.", "price": 3.5}]})
    assert response.status_code == 200
    body = response.json()
    assert (body["bundle"], body["generation"]) == ("dummy", 3)
    answer = body["items"][0]
    assert set(answer) == {"item_id", "domain", "semantic_id", "tokens", "quantization_error", "expert_weights"}
    assert ref(answer) == ("office", "B00A3QO45M")
    codes, experts = answer["semantic_id"]["codes"], answer["semantic_id"]["experts"]
    assert answer["semantic_id"]["suffix"] == 0
    assert answer["tokens"] == [
        *(f"<{letter}_{code}>" for letter, code in zip("abc", codes, strict=True)),
        f"<d_{experts[0]}>",
    ]
    assert answer["expert_weights"] in ({"films": 1.0, "games": 0.0}, {"films": 0.0, "games": 1.0})


def test_tokenizing_alone_stores_nothing(client: httpx.Client) -> None:
    client.post("/tokenize", json={"items": [{"item_id": "a", "domain": "new", "title": "A"}]})
    assert client.get("/items/new/a").status_code == 404
    assert client.get("/domains").json()["domains"] == []


def test_an_embedding_stands_in_for_the_text(client: httpx.Client) -> None:
    item = {"domain": "d", "embedding": [0.5, 0.25, 0.0, 1e-3]}
    (answer,) = client.post("/tokenize", json={"items": [item]}).json()["items"]
    assert answer["semantic_id"]["codes"] == [4, 2, 0]
    with_text = client.post("/tokenize", json={"items": [item | {"title": "ignored"}]}).json()["items"][0]
    assert with_text == answer


def test_categories_that_repeat_or_are_empty_change_no_id(client: httpx.Client) -> None:
    lists = [["Toys", "Kids"], ["Toys", " Kids", "", "Toys"]]
    items = [{"domain": "d", "title": "A thing", "categories": categories} for categories in lists]
    one, other = client.post("/tokenize", json={"items": items}).json()["items"]
    assert one == other


def test_a_batch_gives_what_its_singles_give(client: httpx.Client) -> None:
    items = [{"domain": "d", "item_id": str(number), "title": "word " * (number % 9 + 1)} for number in range(40)]
    batch = client.post("/tokenize", json={"items": items}).json()["items"]
    with ThreadPoolExecutor(8) as pool:
        singles = pool.map(lambda item: client.post("/tokenize", json={"items": [item]}).json()["items"][0], items)
    assert batch == list(singles)


def test_a_registered_item_is_recommendable_when_the_call_returns(stocked: httpx.Client) -> None:
    item = {"item_id": "late", "domain": "films", "title": "a late film"}
    registered = stocked.post("/tokenize", json={"items": [item], "register": True}).json()["items"][0]
    body = {"history": [film(1)], "allow": [{"item_id": "late", "domain": "films"}]}
    (found,) = stocked.post("/recommend", json=body).json()["items"]
    assert (found["item_id"], found["title"]) == ("late", "a late film")
    assert found["semantic_id"] == registered["semantic_id"]


def test_equal_items_get_suffixes_and_keep_their_published_id(client: httpx.Client) -> None:
    items = [{"item_id": name, "domain": "d", "title": "the same"} for name in "abc"]
    first = client.post("/tokenize", json={"items": items, "register": True}).json()["items"]
    assert [item["semantic_id"]["suffix"] for item in first] == [0, 1, 2]
    assert first[2]["tokens"][-1] == "<s_2>"
    # Tokenized again, even with other content, a known item reports its published ID.
    again = client.post("/tokenize", json={"items": [items[2] | {"title": "something else"}]}).json()["items"][0]
    assert again["semantic_id"] == first[2]["semantic_id"]
    repeated = client.post("/tokenize", json={"items": items, "register": True}).json()["items"]
    assert repeated == first


def test_a_full_group_is_a_conflict_that_leaves_the_others_registered(client: httpx.Client) -> None:
    items = [{"item_id": str(number), "domain": "d", "title": "the same"} for number in range(5)]
    response = client.post(
        "/tokenize", json={"items": [*items, {"item_id": "x", "domain": "d", "title": "x"}], "register": True}
    )
    assert response.status_code == 409
    problem = response.json()
    assert problem["type"].endswith("suffix-exhausted")
    assert "items[4] ('4')" in problem["detail"]
    assert "the other 5 items were registered" in problem["detail"]
    assert client.get("/items/d/4").status_code == 404
    assert client.get("/items/d/x").status_code == 200
    assert client.put("/items/d/4", json={"title": "the same"}).status_code == 409


def test_every_item_of_a_full_group_is_named_by_its_index(client: httpx.Client) -> None:
    """Five of them were named, and nobody could tell which of the others were registered."""
    items = [{"item_id": str(number), "domain": "d", "title": "the same"} for number in range(16)]
    problem = client.post("/tokenize", json={"items": items, "register": True}).json()
    assert [error["field"] for error in problem["errors"]] == [f"items[{number}]" for number in range(4, 16)]
    assert problem["errors"][3]["message"] == "'7' was not registered: no semantic ID is left for it"
    assert "and 7 more" in problem["detail"]
    more = [{"item_id": f"more {number}", "domain": "d", "title": "the same"} for number in range(30)]
    problem = client.post("/tokenize", json={"items": more, "register": True}).json()
    assert [error["field"] for error in problem["errors"]] == [f"items[{number}]" for number in range(20)]
    assert "and 25 more" in problem["detail"]
    assert "errors" not in client.put("/items/d/alone", json={"title": "the same"}).json()


def test_recommend_answers_as_the_contract_says(stocked: httpx.Client) -> None:
    response = stocked.post("/recommend", json={"history": [film(1)], "k": 7})
    assert response.status_code == 200
    body = response.json()
    assert set(body) == {"bundle", "generation", "items", "unknown_history"}
    assert body["unknown_history"] == []
    items = body["items"]
    assert len(items) == len({ref(item) for item in items}) == 7
    assert set(items[0]) == {"item_id", "domain", "score", "semantic_id", "title"}
    assert all(item["domain"] == "films" and item["item_id"] != "film-1" for item in items)
    assert [item["score"] for item in items] == sorted((item["score"] for item in items), reverse=True)
    for item in items:
        stored = stocked.get(f"/items/films/{item['item_id']}").json()
        assert (stored["semantic_id"], stored["title"]) == (item["semantic_id"], item["title"])


def test_a_recommendation_is_explained_token_by_token_if_asked_for(stocked: httpx.Client) -> None:
    twin = {"item_id": "twin", "domain": "films"}
    assert stocked.put("/items/films/twin", json={"title": FILMS[3]}).json()["semantic_id"]["suffix"] == 1
    body = {"history": [film(1)], "k": 40}
    plain = stocked.post("/recommend", json=body).json()["items"]
    explained = stocked.post("/recommend", json=body | {"explain": True}).json()["items"]
    assert "score_by_level" not in plain[0]
    assert plain == [{name: found[name] for name in plain[0]} for found in explained]
    assert ref(twin) in {ref(found) for found in explained}
    for found in explained:
        parts, levels = found["semantic_id"], found["score_by_level"]
        assert [level["token"] for level in levels] == [
            *(f"<{letter}_{code}>" for letter, code in zip("abc", parts["codes"], strict=True)),
            f"<d_{parts['experts'][0]}>",
            f"<s_{parts['suffix']}>",
        ]
        shares = [level["log_prob"] / found["score"] for level in levels]
        assert shares == pytest.approx([1 / 15, 2 / 15, 3 / 15, 4 / 15, 5 / 15], rel=1e-5)


@pytest.mark.parametrize("excluded", [0, 1, 12, 29])
def test_k_results_come_out_whenever_k_qualify(stocked: httpx.Client, excluded: int) -> None:
    body = {"history": [film(0)], "exclude": [film(number) for number in range(1, 1 + excluded)], "k": 30}
    items = stocked.post("/recommend", json=body).json()["items"]
    assert {ref(item) for item in items} == {("films", f"film-{number}") for number in range(1 + excluded, 30)}


def test_history_is_excluded_unless_asked_for(stocked: httpx.Client) -> None:
    history = [film(number) for number in range(8)]
    everything = {("films", f"film-{number}") for number in range(30)}
    body: dict[str, Any] = {"history": history, "k": 40}
    found = {ref(item) for item in stocked.post("/recommend", json=body).json()["items"]}
    # All 8, though the recommender reads only the last 5.
    assert found == everything - {ref(item) for item in history}
    found = {ref(item) for item in stocked.post("/recommend", json=body | {"exclude_history": False}).json()["items"]}
    assert found == everything


def test_an_item_of_the_history_that_is_registered_meanwhile_is_excluded_too(
    stocked: httpx.Client, engine: DummyEngine, catalogue: LiveCatalogue
) -> None:
    history = [film(0), film(77), {"domain": "films", "item_id": "late", "title": "late"}]
    engine.text_encoder.hold()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stocked.post, "/recommend", json={"history": history, "k": 40, "domains": ["films"]})
        assert engine.text_encoder.entered.wait(20)
        catalogue.register([NewItem("films", item["item_id"], (7, 7, 7), (0,)) for item in history[1:]])
        engine.text_encoder.go_on.set()
        found = asked.result().json()
    names = {ref(item)[1] for item in found["items"]}
    assert names == {f"film-{number}" for number in range(1, 30)}
    assert [item["item_id"] for item in found["unknown_history"]] == ["film-77"]


def test_allow_restricts_and_unknown_items_cannot_come_out(stocked: httpx.Client) -> None:
    allow = [film(3), film(4), film(5), {"domain": "games", "item_id": "game-1"}, film(999)]
    body: dict[str, Any] = {"history": [film(3)], "allow": allow}
    found = {ref(item) for item in stocked.post("/recommend", json=body).json()["items"]}
    assert found == {("films", "film-4"), ("films", "film-5"), ("games", "game-1")}
    found = {ref(item) for item in stocked.post("/recommend", json=body | {"domains": ["games"]}).json()["items"]}
    assert found == {("games", "game-1")}
    assert stocked.post("/recommend", json=body | {"allow": []}).json()["items"] == []
    assert stocked.post("/recommend", json=body | {"allow": [film(999)]}).json()["items"] == []


def test_domains_default_to_those_of_the_history_that_hold_items(stocked: httpx.Client) -> None:
    def domains_after(*history: dict[str, str], **more: Any) -> set[str]:
        body = {"history": list(history), "k": 100, **more}
        return {item["domain"] for item in stocked.post("/recommend", json=body).json()["items"]}

    game = {"domain": "games", "title": "any game"}
    assert domains_after(film(1)) == {"films"}
    assert domains_after(film(1), game) == {"films", "games"}
    assert domains_after(film(1), {"domain": "nowhere", "title": "x"}) == {"films"}
    assert domains_after({"domain": "nowhere", "title": "x"}) == {"films", "games"}
    assert domains_after(film(1), domains=["games"]) == {"games"}


def test_of_many_unknown_items_some_are_named_and_the_rest_counted(client: httpx.Client) -> None:
    """A thousand names of 250 letters made an answer of 1 MB."""
    history = [{"domain": "films", "item_id": f"{number:0250}"} for number in range(1000)]
    response = client.post("/recommend", json={"history": history})
    assert response.status_code == 422
    detail = response.json()["detail"]
    assert detail.count(" of 'films'") == 20
    assert "of 'films' and 980 more; register them, or send their content" in detail
    two = client.post("/recommend", json={"history": [history[0], film(1), history[0]]}).json()["detail"]
    assert "'film-1' of 'films'; register them" in two
    assert two.count(history[0]["item_id"]) == 1


def test_unknown_history_is_reported_and_content_makes_it_readable(stocked: httpx.Client, engine: DummyEngine) -> None:
    unknown = {"domain": "films", "item_id": "never-seen"}
    body = stocked.post("/recommend", json={"history": [film(1), unknown, unknown]}).json()
    assert body["unknown_history"] == [unknown]
    assert len(body["items"]) == 10
    body = stocked.post("/recommend", json={"history": [film(1), unknown | {"title": "film 2"}]}).json()
    assert body["unknown_history"] == []
    tokens = [stocked.get(f"/items/films/film-{number}").json()["semantic_id"] for number in (1, 2)]
    read = engine.layout.tokens(
        engine.layout.join(
            *(
                [[part[name] for part in tokens] for name in ("codes", "experts")]  # type: ignore[arg-type]
            ),
            [0, 0],  # type: ignore[arg-type]
        )
    )
    assert engine.recommenders[0].histories[-1].tolist() == read[:, :-1].reshape(-1).tolist()


def test_a_long_history_keeps_the_most_recent_readable_entries(stocked: httpx.Client, engine: DummyEngine) -> None:
    unknown = {"domain": "films", "item_id": "never-seen"}
    history = [{"domain": "films", "title": "too old to be tokenized"}, *(film(number) for number in range(6)), unknown]
    assert stocked.post("/recommend", json={"history": history}).status_code == 200
    with_five = engine.recommenders[0].histories[-1]
    assert stocked.post("/recommend", json={"history": [film(number) for number in range(1, 6)]}).status_code == 200
    assert with_five.tolist() == engine.recommenders[0].histories[-1].tolist()
    assert not any("too old to be tokenized" in text for batch in engine.text_encoder.batches for text in batch)


def test_concurrent_recommendations_equal_those_asked_alone(stocked: httpx.Client) -> None:
    bodies = [
        {"history": [film(number % 30)], "k": 5 + number % 3, "exclude": [film((number + 1) % 30)]}
        for number in range(40)
    ]
    alone = [stocked.post("/recommend", json=body).json() for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda body: stocked.post("/recommend", json=body).json(), bodies))
    assert together == alone


def test_the_recommender_and_its_domain_token_follow_the_domains(tmp_path: Path) -> None:
    engine = DummyEngine(
        [
            {"name": "films-only", "domains": ["films"], "domain_tokens": ["films"]},
            {"name": "both", "domains": ["films", "games"], "domain_tokens": ["films", "games"]},
        ]
    )
    films_only, both = engine.recommenders
    with serving_dummy(tmp_path, engine=engine) as client:
        for domain in ("films", "games"):
            client.put(f"/items/{domain}/a", json={"title": "A"})

        def leading_token(recommender: DummyRecommender, last: str, *domains: str) -> int:
            asked = len(recommender.histories)
            history = [{"domain": "films", "item_id": "a"}, {"domain": last, "title": "B"}]
            response = client.post("/recommend", json={"history": history, "domains": domains})
            assert response.status_code == 200
            assert len(recommender.histories) == asked + 1
            return int(recommender.histories[-1][0])

        assert leading_token(films_only, "games", "films") == films_only.layout.domain_token("films")
        assert leading_token(both, "films", "games") == both.layout.domain_token("games")
        assert leading_token(both, "films", "films", "games") == both.layout.domain_token("films")
        assert leading_token(both, "games", "films", "games") == both.layout.domain_token("games")
        assert leading_token(both, "elsewhere", "games", "films") == both.layout.domain_token("films")
        client.put("/items/new/a", json={"title": "A"})
        assert leading_token(both, "elsewhere", "games") == both.layout.domain_token("games")
        assert leading_token(both, "new", "games", "new") == UNKNOWN_DOMAIN_TOKEN


def test_items_can_be_put_read_and_deleted(stocked: httpx.Client) -> None:
    created = stocked.put("/items/films/a%2Fb%20c", json={"title": "with a slash"})
    assert created.status_code == 201
    assert created.json()["item_id"] == "a/b c"
    renewed = stocked.put("/items/films/a%2Fb%20c", json={"title": "another title"})
    assert renewed.status_code == 200
    assert renewed.json()["semantic_id"] == created.json()["semantic_id"]
    read = stocked.get("/items/films/a%2Fb%20c")
    assert (read.status_code, read.json()["title"]) == (200, "another title")
    assert read.json()["tokens"] == created.json()["tokens"]
    assert stocked.delete("/items/films/a%2Fb%20c").status_code == 204
    assert stocked.get("/items/films/a%2Fb%20c").status_code == 404
    assert stocked.delete("/items/films/a%2Fb%20c").status_code == 404


def test_a_deleted_item_is_never_recommended_and_gets_its_own_id_back(stocked: httpx.Client) -> None:
    before = stocked.get("/items/films/film-7").json()
    stocked.delete("/items/films/film-7")
    body = {"history": [film(1)], "k": 100}
    assert "film-7" not in {item["item_id"] for item in stocked.post("/recommend", json=body).json()["items"]}
    stocked.put("/items/films/film-7", json={"title": FILMS[7]})
    assert stocked.get("/items/films/film-7").json() == before
    assert "film-7" in {item["item_id"] for item in stocked.post("/recommend", json=body).json()["items"]}


def test_domains_and_bundle_say_what_is_served(stocked: httpx.Client) -> None:
    assert stocked.get("/domains").json() == {
        "bundle": "dummy",
        "generation": 3,
        "domains": [{"domain": "films", "items": 30}, {"domain": "games", "items": 12}],
    }
    bundle = stocked.get("/bundle").json()
    assert (bundle["bundle"], bundle["generation"], bundle["items"]) == ("dummy", 3, 42)
    assert bundle["layout"]["levels"] == 3
    assert bundle["recommenders"] == [{"name": "all", "domains": [], "max_history": 5}]


def test_readiness_comes_from_a_real_tokenize_and_recommend(engine: DummyEngine, tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, "dummy", 3, engine.layout)
    store.finish_seed()
    engine.text_encoder.hold()
    app = create_app(Settings(), engine=engine, catalogue=LiveCatalogue(store))
    with running(app) as client:
        assert client.get("/livez").json() == {"status": "alive"}
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.json() == {
            "status": "starting",
            "checks": {"tokenize": "not run yet", "recommend": "not run yet", "store": "ok"},
        }
        engine.text_encoder.go_on.set()
        wait_until_ready(client)
        checks = {"tokenize": "ok", "recommend": "ok", "store": "ok"}
        assert client.get("/readyz").json() == {"status": "ready", "checks": checks}
        assert len(engine.recommenders[0].histories) == 1
    assert app.state.service.state is State.STOPPING
    store.close()


def test_a_service_becomes_ready_however_many_requests_hold_its_places(
    engine: DummyEngine, catalogue: LiveCatalogue
) -> None:
    """One 429 while it warmed up, and it never was."""

    async def main(service: Service) -> None:
        with service.admission.enter(service.admission.capacity):
            with pytest.raises(Overloaded):
                await service.tokenizing.tokenize([PROBE])
            await service.warm_up()
            assert service.checks == {"tokenize": "ok", "recommend": "ok", "store": "ok"}
            assert service.state is State.READY
        await service.close()

    asyncio.run(main(Service(Settings(), engine, catalogue)))


@pytest.mark.parametrize("error", [ModelError("the graph fails"), ValueError("a bug")], ids=["expected", "a bug"])
def test_a_readiness_check_that_fails_is_said_and_logged(
    engine: DummyEngine, catalogue: LiveCatalogue, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(texts: list[str]) -> None:
        raise error

    monkeypatch.setattr(engine.text_encoder, "encode", fail)
    log: list[Any] = []
    with running(create_app(Settings(), engine=engine, catalogue=catalogue), log) as client:
        until(lambda: client.get("/readyz").json()["checks"]["tokenize"] == f"failed: {error}")
        assert client.get("/readyz").status_code == 503
    assert [line["check"] for line in log if line["event"] == "readiness check failed"] == ["tokenize"]
    assert "stopped" in [line["event"] for line in log]


def test_metrics_count_phases_batches_and_requests(stocked: httpx.Client) -> None:
    stocked.post("/recommend", json={"history": [film(1), {"domain": "films", "title": "raw"}]})
    stocked.get("/items/films/no-such-item")
    text = stocked.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines["unitok_index_items"] == "42.0"
    assert lines['unitok_generation{bundle="dummy"}'] == "3.0"
    assert lines['unitok_items_total{what="registered"}'] == "42.0"
    assert lines["unitok_admitted_items"] == lines["unitok_encode_queue_depth"] == "0.0"
    assert lines['unitok_requests_total{method="POST",route="/recommend",status="200"}'] == "1.0"
    item_route = 'unitok_requests_total{method="GET",route="/items/{domain}/{item_id}",status="404"}'
    assert lines[item_route] == "1.0"
    for phase in ("queue_wait", "text_encode", "tokenize", "beam", "store"):
        assert float(lines[f'unitok_phase_seconds_count{{phase="{phase}"}}']) >= 1
    assert float(lines['unitok_batch_entries_count{queue="search"}']) >= 1


def test_request_ids_are_kept_if_sane_and_made_otherwise(client: httpx.Client) -> None:
    assert client.get("/livez", headers={"X-Request-ID": "mine-1"}).headers["X-Request-ID"] == "mine-1"
    for insane in ("a b", "x" * 200, "a\tb", ""):
        made = client.get("/livez", headers={"X-Request-ID": insane}).headers["X-Request-ID"]
        assert made != insane
        assert len(made) == 32
    missing = client.get("/items/d/none", headers={"X-Request-ID": "mine-2"})
    assert missing.json()["request_id"] == missing.headers["X-Request-ID"] == "mine-2"


def test_the_documentation_lists_every_endpoint_with_its_examples(stocked: httpx.Client) -> None:
    assert stocked.get("/docs").status_code == 200
    schema = stocked.get("/openapi.json").json()
    assert set(schema["paths"]) == {
        "/tokenize", "/recommend", "/items/{domain}/{item_id}", "/explain/{domain}/{item_id}", "/domains", "/bundle",
        "/generations/current", "/livez", "/readyz", "/metrics",
    }  # fmt: skip
    problem = schema["paths"]["/tokenize"]["post"]["responses"]["422"]["content"]
    assert list(problem) == ["application/problem+json"]
    for path, name in (("/tokenize", "TokenizeRequest"), ("/recommend", "RecommendRequest")):
        (example,) = schema["components"]["schemas"][name]["examples"]
        example["domains"] = ["films"]
        if path == "/tokenize":
            del example["domains"]
        assert stocked.post(path, json=example).status_code == 200
