"""Every example of docs/api.md does what the page says, against a real server with the sample bundle."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from http_server import serving

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```(sh|json|python)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DOCUMENTED = "localhost:8000"
OPEN_ENDED = frozenset({"figures", "expert_weights", "layout"})
"""Fields whose keys are the bundle's own."""
EXACT = frozenset({"item_id", "title", "codes", "experts", "suffix", "tokens", "shared", "agrees"})
"""Fields whose values are shown as they are."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    store = f"embedded:{tmp_path_factory.mktemp('store')}"
    settings = Settings(bundle=ROOT / "models" / "sample", store=store, threads=1)
    with serving(settings) as (client, _):
        yield f"{client.base_url.host}:{client.base_url.port}"


def ask(command: str, address: str) -> httpx.Response:
    """Send what a curl line says; curl itself may be missing where the tests run."""
    words = shlex.split(command.replace(DOCUMENTED, address))
    assert words[:2] == ["curl", "-s"]
    method, headers, body, url = "", {}, None, ""
    rest = iter(words[2:])
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-H":
            headers.update([next(rest).split(": ", 1)])
        elif word == "-d":
            body = next(rest)
        else:
            assert not url, f"curl option {word} is not known here"
            url = word
    return httpx.request(method or ("POST" if body else "GET"), f"http://{url}", headers=headers, content=body)


def shape(value: Any) -> Any:
    """Which fields an answer has: the values depend on the bundle, and lists on what was registered."""
    if isinstance(value, dict):
        return {name: None if name in OPEN_ENDED else shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return type(value)


def named(value: Any) -> list[Any]:
    """Names and semantic IDs in an answer, in order: with the sample bundle they are always the same."""
    if isinstance(value, list):
        return [each for part in value for each in named(part)]
    if not isinstance(value, dict):
        return []
    exact = [(name, part) for name, part in sorted(value.items()) if name in EXACT]
    return exact + [each for _, part in sorted(value.items()) for each in named(part)]


def test_every_curl_line_gets_what_the_page_shows(address: str) -> None:
    pairs = [
        (block, answer[1] if answer[0] == "json" else None)
        for (language, block), answer in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
        if language == "sh"
    ]
    assert len(pairs) >= 10
    for command, shown in pairs:
        answer = ask(command, address)
        expected = json.loads(shown) if shown else {}
        if "request_id" in expected:
            assert answer.status_code == expected["status"], command
        else:
            assert answer.is_success, (command, answer.text)
        assert shown is None or shape(answer.json()) == shape(expected), command
        assert shown is None or "status" in expected or named(answer.json()) == named(expected), command


def test_the_python_examples_run_as_one_session(address: str) -> None:
    session = "\n".join(block for language, block in BLOCKS if language == "python").replace(DOCUMENTED, address)
    result = subprocess.run([sys.executable, "-c", session], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "Toy Story (1995)" in result.stdout
    assert "domain 'movies' holds no item 'none'" in result.stdout
    assert "alive" in result.stdout


def test_every_endpoint_has_an_example_in_both(address: str) -> None:
    document = httpx.get(f"http://{address}/openapi.json").json()
    titles = [line for line in PAGE.splitlines() if line.startswith("## ")]
    for path, methods in document["paths"].items():
        for method in methods:
            name = path.replace("{item_id:path}", "{item_id}")
            assert any(method.upper() in title and name in title for title in titles), f"{method} {name}"


def test_the_examples_of_the_openapi_document_work_on_the_sample_bundle(address: str) -> None:
    """As tools send them that fill every parameter and body with its own example; removing the item comes last."""
    document = httpx.get(f"http://{address}/openapi.json").json()
    calls = [(method, path) for path, methods in document["paths"].items() for method in methods]
    sent = 0
    for method, path in sorted(calls, key=lambda call: call[0] == "delete"):
        operation, url, body = document["paths"][path][method], path, None
        for parameter in operation.get("parameters", ()):
            if parameter["required"]:
                (example,) = parameter["schema"]["examples"]
                url = url.replace("{" + parameter["name"] + "}", example)
                sent += 1
        if "requestBody" in operation:
            body = example_of(operation["requestBody"]["content"]["application/json"]["schema"], document)
            sent += 1
        answer = httpx.request(method, f"http://{address}{url}", json=body)
        assert answer.is_success, (method, url, body, answer.text)
    assert sent == 4 * 2 + 4


def test_no_example_of_an_item_mixes_text_and_a_made_up_embedding(address: str) -> None:
    schemas = httpx.get(f"http://{address}/openapi.json").json()["components"]["schemas"]
    for name in ("Content", "ItemToTokenize", "HistoryEntry"):
        (example,) = schemas[name]["examples"]
        assert "title" in example
        assert "embedding" not in example
        assert ("domain" in example) == ("domain" in schemas[name]["properties"])


def example_of(schema: dict[str, Any], document: dict[str, Any]) -> Any:
    """The one example of a schema, or one made of the examples of its required fields."""
    schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    if "examples" in schema:
        (example,) = schema["examples"]
        return example
    return {name: example_of(schema["properties"][name], document) for name in schema["required"]}
