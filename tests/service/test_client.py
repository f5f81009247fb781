"""The client against real servers: every endpoint, retries within their budget, errors with their problem details."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from dummy_engine import DummyEngine
from http_server import serving_dummy
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import Prepared, scripted

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.client import (
    AsyncUnitokClient,
    Busy,
    Content,
    Denied,
    HistoryEntry,
    ItemReference,
    ItemToTokenize,
    NotFound,
    RecommendRequest,
    RequestFailed,
    RetryPolicy,
    TokenizeRequest,
    UnitokClient,
    Unreachable,
    calls,
)
from service.client.retrying import Patience, read_retry_after
from service.errors import ConfigError
from service.http.app import create_app
from service.http.problems import Problem
from service.settings import Settings

CALLS: list[calls.Call[Any]] = [
    calls.tokenize(TokenizeRequest(items=[ItemToTokenize(domain="films", title="A")])),
    calls.recommend(RecommendRequest(history=[HistoryEntry(domain="films", title="A")])),
    calls.get_item("films", "a"),
    calls.put_item("films", "a", Content(title="A")),
    calls.delete_item("films", "a"),
    calls.explain("films", "a"),
    calls.domains(),
    calls.bundle(),
    calls.switch_generation(1),
    calls.livez(),
    calls.readyz(),
    calls.metrics(),
]
STRANGE_NAMES = ["a/b", "50% off", "a%2Fb", "wie geht's?", "träume #1", "a+b&c=d", "日本", "a b/../c", ".", "..", "..."]

Run = Callable[..., Any]
"""Runs one method of a client, by name, against an address."""


def run_blocking(address: str, method: str, *arguments: Any, **options: Any) -> Any:
    with UnitokClient(address, **options) as client:
        return getattr(client, method)(*arguments)


def run_asynchronous(address: str, method: str, *arguments: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncUnitokClient(address, **options) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())


@pytest.fixture(params=[run_blocking, run_asynchronous], ids=["blocking", "asynchronous"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server over an engine without networks."""
    folder = tmp_path_factory.mktemp("store")
    with serving_dummy(folder, Settings(store=f"embedded:{folder}")) as client:
        yield str(client.base_url)


def problem(status: int, detail: str = "no room") -> str:
    return Problem(
        type="urn:unitok:problem:overloaded", title="Full", status=status, detail=detail, instance="/", request_id="r7"
    ).model_dump_json()


def test_there_is_a_call_for_each_operation_of_the_document(tmp_path: Path) -> None:
    """In step with the server: a new endpoint, body or answer fails here until the client has it too."""
    engine = DummyEngine()
    store = EmbeddedStore(tmp_path, "dummy", 3, engine.layout)
    document = create_app(Settings(), engine=engine, catalogue=LiveCatalogue(store)).openapi()
    store.close()
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    ours = {(call.method, call.template): call for call in CALLS}
    assert {(method, path.replace("{item_id:path}", "{item_id}")) for method, path in operations} == set(ours)
    for place, operation in operations.items():
        call = ours[place]
        queried = {found["name"] for found in operation.get("parameters", []) if found["in"] == "query"}
        assert queried == {name for name, _ in call.query}, place
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        assert (body is None) == (call.body is None), place
        if call.body is not None:
            assert body == {"$ref": f"#/components/schemas/{type(call.body).__name__}"}
        status = "204" if call.answer is type(None) else "200"
        schema = operation["responses"][status].get("content", {}).get("application/json", {}).get("schema")
        if call.answer not in (str, type(None)):
            assert schema == {"$ref": f"#/components/schemas/{call.answer.__name__}"}, place
        else:
            assert not schema, place


def test_both_clients_have_every_call() -> None:
    for client in (UnitokClient, AsyncUnitokClient):
        public = {name for name in vars(client) if not name.startswith("_")} - {"close"}
        assert public <= set(vars(calls))
        assert len(public) == len(CALLS)


def test_every_endpoint_answers_with_its_model(run: Run, address: str) -> None:
    domain = run.__name__
    item = ItemToTokenize(domain=domain, item_id="one", title="one")
    stored = run(address, "tokenize", TokenizeRequest(items=[item], register=True)).items[0]
    put = run(address, "put_item", domain, "two", Content(title="two", categories=["a", "b"]))
    assert put.title == "two"
    found = run(address, "get_item", domain, "one")
    assert (found.semantic_id, found.tokens) == (stored.semantic_id, stored.tokens)
    assert [found.item_id for found in run(address, "explain", domain, "one", 1).alike] == ["two"]
    assert run(address, "explain", domain, "one", 0).alike == []
    request = RecommendRequest(
        history=[HistoryEntry(domain=domain, item_id="one")],
        k=5,
        domains=[domain],
        exclude=[ItemReference(domain=domain, item_id="none")],
    )
    assert [item.item_id for item in run(address, "recommend", request).items] == ["two"]
    assert {found.domain: found.items for found in run(address, "domains").domains}[domain] == 2
    assert run(address, "delete_item", domain, "two") is None
    with pytest.raises(NotFound, match="holds no item 'two'") as caught:
        run(address, "get_item", domain, "two")
    assert caught.value.problem.type == "urn:unitok:problem:item-not-found"
    assert caught.value.problem.request_id
    assert run(address, "bundle").bundle == "dummy"
    assert run(address, "switch_generation", 3).current == 3
    with pytest.raises(NotFound, match="dummy:4 is not in the store, or was dropped; the store has generations: 3"):
        run(address, "switch_generation", 4)
    assert run(address, "livez").status == "alive"
    assert run(address, "readyz").status == "ready"
    assert "unitok_requests_total" in run(address, "metrics")


@pytest.mark.parametrize("name", STRANGE_NAMES)
def test_names_arrive_as_they_are(run: Run, address: str, name: str) -> None:
    put = run(address, "put_item", "names", name, Content(title=name))
    assert put.item_id == name
    assert run(address, "get_item", "names", name).item_id == name


def test_a_wrong_request_says_which_field(run: Run, address: str) -> None:
    request = TokenizeRequest(items=[ItemToTokenize(domain="films", embedding=[1.0, 2.0])])
    with pytest.raises(RequestFailed) as caught:
        run(address, "tokenize", request)
    assert caught.value.problem.status == 422
    assert [wrong.field for wrong in caught.value.problem.errors] == ["items[0].embedding"]


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(run: Run, status: int) -> None:
    busy = Prepared(status, problem(status), {"Retry-After": "0"})
    ready = Prepared(200, '{"bundle": "b", "generation": 1, "domains": []}')
    with scripted(busy, busy, ready) as script:
        assert run(script.address, "domains").bundle == "b"
        assert len(script.asked) == 3


def test_a_wait_beyond_the_budget_is_not_begun(run: Run) -> None:
    with scripted(Prepared(503, problem(503, "the store is away"), {"Retry-After": "3600"})) as script:
        with pytest.raises(Busy, match="the store is away") as caught:
            run(script.address, "domains", retry=RetryPolicy(budget_seconds=5))
        assert caught.value.retry_after == 3600
        assert caught.value.problem.request_id == "r7"
        assert len(script.asked) == 1


def test_attempts_are_bounded(run: Run) -> None:
    with scripted(*[Prepared(429, problem(429))] * 3) as script:
        with pytest.raises(Busy):
            run(script.address, "domains", retry=RetryPolicy(attempts=3, pause_seconds=0))
        assert len(script.asked) == 3


def test_a_broken_connection_is_repaired_unless_that_could_do_something_twice(run: Run) -> None:
    ready = Prepared(200, '{"bundle": "b", "generation": 1, "domains": []}')
    retry = RetryPolicy(pause_seconds=0)
    with scripted(Prepared(0), ready) as script:
        assert run(script.address, "domains", retry=retry).bundle == "b"
    with scripted(Prepared(0), Prepared(204)) as script:
        with pytest.raises(Unreachable, match="DELETE /items/films/a: no answer"):
            run(script.address, "delete_item", "films", "a", retry=retry)
        assert len(script.asked) == 1
    with pytest.raises(Unreachable, match="ConnectError"):
        run(script.address, "domains", retry=retry)


def test_a_deletion_is_sent_again_only_where_it_was_not_begun(run: Run) -> None:
    """A 429 comes before any work; a 503 may come in the midst of it, and then the item may be gone."""
    retry = RetryPolicy(pause_seconds=0)
    with scripted(Prepared(429, problem(429)), Prepared(503, problem(503)), Prepared(204)) as script:
        with pytest.raises(Busy):
            run(script.address, "delete_item", "films", "a", retry=retry)
        assert len(script.asked) == 2


def test_not_ready_is_an_answer_and_not_an_error(run: Run) -> None:
    with scripted(Prepared(503, '{"status": "draining", "checks": {"tokenize": "ok"}}')) as script:
        assert run(script.address, "readyz").status == "draining"


def test_an_answer_of_something_else_is_told_apart(run: Run) -> None:
    with scripted(Prepared(502, "<html>bad gateway</html>"), Prepared(200, "<html>welcome</html>")) as script:
        with pytest.raises(RequestFailed, match="bad gateway") as caught:
            run(script.address, "domains")
        assert (caught.value.problem.status, caught.value.problem.type) == (502, "about:blank")
        with pytest.raises(Unreachable, match="not a DomainsResponse"):
            run(script.address, "domains")
    with scripted(Prepared(500, "x" * 10_000)) as script:
        with pytest.raises(RequestFailed) as caught:
            run(script.address, "domains")
        assert caught.value.problem.detail == "x" * 200
    with scripted(Prepared(200, "{}", {"Content-Encoding": "gzip"})) as script:
        with pytest.raises(Unreachable, match="GET /domains: no answer: DecodingError"):
            run(script.address, "domains")
        assert len(script.asked) == 1
    with scripted(Prepared(302, "", {"Location": "/login"})) as script, pytest.raises(RequestFailed):
        run(script.address, "delete_item", "films", "a")


@pytest.mark.parametrize("status", [401, 403])
def test_the_key_is_sent_and_a_refusal_does_not_repeat_it(run: Run, status: int) -> None:
    with scripted(Prepared(status, problem(status, "an API key is needed"))) as script:
        with pytest.raises(Denied) as caught:
            run(script.address, "domains", api_key="utk_secret")
        assert script.asked[0].headers["Authorization"] == "Bearer utk_secret"
        assert "secret" not in str(caught.value)


def test_the_end_of_a_line_is_no_part_of_a_key(run: Run) -> None:
    with scripted(Prepared(200, '{"bundle": "b", "generation": 1, "domains": []}')) as script:
        run(script.address, "domains", api_key="utk_secret\n")
        assert script.asked[0].headers["Authorization"] == "Bearer utk_secret"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "http://", "http://127.0.0.1:abc", "http://[::1"])
def test_what_is_no_address_is_refused(run: Run, address: str) -> None:
    with pytest.raises(ValueError, match=r"must be http://HOST\[:PORT\]"):
        run(address, "domains")


@pytest.mark.parametrize("key", ["utk_secret\u20ac", "utk_secr\net", "utk_secret\x7f", "\n"])
def test_what_no_header_can_carry_is_refused_and_not_repeated(run: Run, key: str) -> None:
    with pytest.raises(ConfigError, match=r"^api_key: an API key is letters") as caught:
        run("http://127.0.0.1:1", "domains", api_key=key)
    assert "utk_" not in str(caught.value)


def test_only_fields_that_were_given_are_sent(run: Run) -> None:
    answer = '{"bundle": "b", "generation": 1, "items": []}'
    with scripted(Prepared(200, answer)) as script:
        run(script.address, "tokenize", TokenizeRequest(items=[ItemToTokenize(domain="d", title="t")], register=True))
        assert script.asked[0].body == b'{"items":[{"title":"t","domain":"d"}],"register":true}'


@given(
    st.builds(
        RetryPolicy,
        attempts=st.integers(1, 9),
        budget_seconds=st.floats(0, 100),
        pause_seconds=st.floats(0, 10),
        longest_pause_seconds=st.floats(0, 10),
    ),
    st.lists(st.none() | st.floats(0, 50), min_size=9, max_size=9),
)
def test_pauses_keep_to_the_policy(policy: RetryPolicy, asked: list[float | None]) -> None:
    patience = Patience(policy)
    pauses: list[float] = []
    for retry_after in asked:
        pause = patience.next_pause(retry_after)
        if pause is None:
            break
        assert pause >= (retry_after or 0)
        pauses.append(pause)
    assert len(pauses) < policy.attempts
    assert sum(pauses) <= policy.budget_seconds * (1 + 1e-9)


def test_pauses_double_up_to_the_longest_and_are_spread() -> None:
    policy = RetryPolicy(attempts=7, budget_seconds=1000.0, pause_seconds=0.5, longest_pause_seconds=4.0)
    drawn = []
    for _ in range(50):
        patience = Patience(policy)
        drawn.append([patience.next_pause(None) or 0.0 for _ in range(6)])
    for least, *pauses in zip([0.5, 1.0, 2.0, 4.0, 4.0, 4.0], *drawn, strict=True):
        assert least <= min(pauses) < max(pauses) <= 1.5 * least


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"budget_seconds": -1.0}, {"pause_seconds": -0.1}, {"longest_pause_seconds": -0.1}]
)
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="attempts must be at least 1, and no time below 0"):
        RetryPolicy(**wrong)
    RetryPolicy(attempts=1, budget_seconds=0.0, pause_seconds=0.0, longest_pause_seconds=0.0)


@pytest.mark.parametrize("zone", ["GMT", "-0000", "+0200"])
def test_retry_after_may_be_a_date(zone: str) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    local = moment + timedelta(hours=2) if zone == "+0200" else moment
    before = datetime.now(UTC)
    seconds = read_retry_after(format_datetime(local, usegmt=True).replace("GMT", zone))
    after = datetime.now(UTC)
    assert seconds is not None
    assert moment - after <= timedelta(seconds=seconds) <= moment - before
    assert read_retry_after("7") == 7
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert [read_retry_after(value) for value in (None, "soon", "nan", "inf")] == [None] * 4
    assert read_retry_after("Fri, 01 Jan 99999999999999999999 00:00:00 GMT") is None


def test_the_client_needs_no_engine() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['onnxruntime', 'tokenizers', 'polars', 'redis']))\n"
        "import service.client\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
