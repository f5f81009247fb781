"""Traces over real HTTP into a real collector: one request's way, batches of several, and nothing when it is off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import POISON, DummyEngine
from http_server import Event, metric, serving_dummy, until
from trace_collector import Collector, ReceivedSpan, collecting

from service.settings import Settings
from service.tracing import NOTHING, OFF, Tracing, open_tracing

CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traceparent(trace: str = CALLER_TRACE, sampled: bool = True) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER_SPAN}-0{int(sampled)}"}


@contextmanager
def serve(
    folder: Path, endpoint: str | None, log: list[Event] | None = None, **more: Any
) -> Iterator[tuple[httpx.Client, DummyEngine]]:
    engine = DummyEngine()
    with serving_dummy(folder, Settings(trace_endpoint=endpoint, **more), engine, log) as client:
        yield client, engine
        engine.text_encoder.go_on.set()


def of_trace(collector: Collector, trace: str = CALLER_TRACE) -> dict[str, ReceivedSpan]:
    found = [span for span in collector.spans if span.trace == trace]
    assert len({span.name for span in found}) == len(found)
    return {span.name: span for span in found}


def test_a_request_is_traced_from_the_caller_to_the_store(tmp_path: Path) -> None:
    log: list[Event] = []
    body = {"items": [{"item_id": name, "domain": "d", "title": f"private words {name}"} for name in "abc"]}
    with collecting() as collector:
        with serve(tmp_path, collector.url, log) as (client, _):
            headers = traceparent() | {"tracestate": "vendor=value"}
            assert client.post("/tokenize", json=body | {"register": True}, headers=headers).status_code == 200
        spans = of_trace(collector)
    above = {
        "POST /tokenize": None,
        "encode": "POST /tokenize",
        "encode.batch": "encode",
        "text_encode": "encode.batch",
        "tokenize": "encode.batch",
        "store": "POST /tokenize",
    }
    assert set(spans) == set(above)
    for name, parent in above.items():
        assert spans[name].parent == (CALLER_SPAN if parent is None else spans[parent].span), name
        assert spans[name].state == "vendor=value"
        assert not spans[name].failed
        if parent is not None:
            assert spans[parent].start <= spans[name].start <= spans[name].end
    assert spans["POST /tokenize"].attributes["http.response.status_code"] == 200
    assert spans["encode"].attributes["unitok.entries"] == spans["encode.batch"].attributes["unitok.batch.entries"] == 3
    (line,) = [event for event in log if event["event"] == "request" and event["path"] == "/tokenize"]
    assert line["trace_id"] == CALLER_TRACE
    assert b"private" not in collector.raw
    assert not [span for span in collector.spans if span.name.endswith(("/readyz", "/metrics"))]


def test_a_batch_of_several_requests_is_in_each_trace_and_linked(tmp_path: Path) -> None:
    traces = [f"{number:032x}" for number in range(1, 4)]
    with collecting() as collector:
        with serve(tmp_path, collector.url) as (client, engine):
            engine.text_encoder.hold()

            def ask(trace: str) -> int:
                body = {"items": [{"domain": "d", "title": trace}]}
                return client.post("/tokenize", json=body, headers=traceparent(trace)).status_code

            with ThreadPoolExecutor(4) as pool:
                plug = pool.submit(ask, "f" * 32)
                assert engine.text_encoder.entered.wait(20)
                asked = [pool.submit(ask, trace) for trace in traces]
                until(lambda: metric(client, "unitok_encode_queue_depth") == 3)
                engine.text_encoder.go_on.set()
                assert [future.result() for future in (plug, *asked)] == [200] * 4
        spans = [of_trace(collector, trace) for trace in traces]
    batches = [found["encode.batch"] for found in spans]
    (run,) = [batch for batch, found in zip(batches, spans, strict=True) if "text_encode" in found]
    for batch, found in zip(batches, spans, strict=True):
        assert batch.parent == found["encode"].span
        assert batch.attributes["unitok.batch.entries"] == 3
        if batch is not run:
            assert batch.links == [(run.trace, run.span)]
            assert (found["encode"].trace, found["encode"].span) in run.links
            assert batch.start == run.start
    assert len(run.links) == 2


def test_a_failure_is_marked_without_its_message(tmp_path: Path) -> None:
    with collecting() as collector:
        with serve(tmp_path, collector.url) as (client, _):
            body = {"items": [{"domain": "d", "title": f"private {POISON}"}]}
            assert client.post("/tokenize", json=body, headers=traceparent()).status_code == 500
        spans = of_trace(collector)
    assert spans["text_encode"].failed
    assert spans["text_encode"].attributes["error.type"] == "ModelError"
    assert spans["POST /tokenize"].failed
    assert sum(span.events for span in spans.values()) == 0
    assert b"private" not in collector.raw
    assert b"NaN" not in collector.raw


def test_the_caller_or_else_the_share_decides_what_is_traced(tmp_path: Path) -> None:
    with collecting() as collector:
        with serve(tmp_path, collector.url, trace_share=0.0) as (client, _):
            client.get("/domains")
            client.get("/domains", headers=traceparent(sampled=False))
            client.get("/domains", headers=traceparent())
        assert [(span.name, span.trace) for span in collector.spans] == [("GET /domains", CALLER_TRACE)]


def test_a_batch_that_serves_no_traced_caller_is_not_traced(tmp_path: Path) -> None:
    with collecting() as collector:
        with serve(tmp_path, collector.url) as (client, _):
            body = {"items": [{"domain": "d", "title": "x"}]}
            for _ in range(3):
                assert client.post("/tokenize", json=body, headers=traceparent(sampled=False)).status_code == 200
            client.get("/domains", headers=traceparent())
        # Besides that request there is the service's own first run of each network.
        others = [span for span in collector.spans if span.trace != CALLER_TRACE]
        assert len(collector.spans) == len(others) + 1
        assert {span.name for span in others if not span.parent} == {"encode", "search"}
        assert sum(span.name == "encode.batch" for span in others) == 2


def test_a_collector_that_is_away_disturbs_nobody(tmp_path: Path) -> None:
    with serve(tmp_path, "http://127.0.0.1:9/v1/traces") as (client, _):
        assert client.post("/tokenize", json={"items": [{"domain": "d", "title": "x"}]}).status_code == 200


def test_off_is_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_tracing(None, 1.0)[0] is OFF
    assert OFF.span("x", entries=1) is OFF.batch("x", [None]) is NOTHING
    assert OFF.here() is OFF.trace_id() is None
    assert Tracing().provider is None
    with collecting() as collector:
        # What the environment says to other programs does not switch it on.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.removesuffix("/v1/traces"))
        monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
        with serve(tmp_path, None) as (client, _):
            assert client.get("/domains", headers=traceparent()).status_code == 200
        assert collector.spans == []


def test_the_serving_set_without_the_extra_says_what_is_missing() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.exporter'] = None\n"
        "from service.errors import ConfigError\n"
        "from service.tracing import open_tracing\n"
        "open_tracing(None, 1.0)\n"
        "try: open_tracing('http://localhost:4318/v1/traces', 1.0)\n"
        "except ConfigError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs the extra 'trace'" in result.stdout
