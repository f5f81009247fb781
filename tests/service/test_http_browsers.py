"""What browsers meet: inert answers, no other site's pages by default, and those that are named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import POISON
from http_server import serving_dummy

from service.access.keys import KeyScope, new_key
from service.errors import ConfigError
from service.settings import PREFIX, Settings, read_settings

SHOP, STRANGER = "https://shop.example", "https://stranger.example"
KEY = new_key("shop", [KeyScope.READ])


@contextmanager
def serve(folder: Path, **more: Any) -> Iterator[httpx.Client]:
    with serving_dummy(folder, Settings(**more)) as client:
        yield client


def test_every_answer_is_inert_in_a_browser(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        poison = {"items": [{"domain": "d", "title": POISON}]}
        answers = [client.get("/domains"), client.get("/none"), client.post("/tokenize", json=poison)]
        answers += [client.post("/tokenize", content=b"x"), client.get("/livez"), client.get("/docs")]
        assert [answer.status_code for answer in answers] == [200, 404, 500, 415, 200, 200]
        for answer in answers:
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "Server" not in answer.headers or answer.headers["Server"] == "uvicorn"
        assert "script-src" not in answers[0].headers["Content-Security-Policy"]


class Loads(HTMLParser):
    """What a page loads, and whether it has a script or a style within it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.within = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [address for name in ("src", "href") if (address := given.get(name)) is not None]
        self.within |= tag == "style" or (tag == "script" and "src" not in given) or "style" in given


def test_the_documentation_loads_nothing_of_another_host_and_asks_for_no_key(tmp_path: Path) -> None:
    with serve(tmp_path, api_keys=KEY.entry) as client:
        page = client.get("/docs")
        assert page.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in page.headers["Content-Security-Policy"].split(";"))
        assert {source for sources in policy.values() for source in sources.split()} == {"'none'", "'self'", "data:"}
        loads = Loads()
        loads.feed(page.text)
        assert len(loads.addresses) == 4
        assert not loads.within
        kinds = {".js": "text/javascript", ".css": "text/css", ".png": "image/png"}
        found = {}
        for address in loads.addresses:
            answer = client.get(page.url.join(address))
            assert (answer.url.host, answer.status_code) == (page.url.host, 200), address
            assert answer.headers["Content-Type"].partition(";")[0] == kinds[Path(address).suffix]
            found[Path(address).name] = answer
        assert "SwaggerUIBundle" in found["swagger-ui-bundle.js"].text
        assert found["favicon-32x32.png"].content.startswith(b"\x89PNG")
        loaded_by_style = re.findall(r"@import[^;]*|url\([^)]*\)", found["swagger-ui.css"].text)
        assert [source for source in loaded_by_style if not source.strip("url(\"'").startswith("data:")] == []
        (document,) = re.findall(r'url: "([^"]+)"', found["start.js"].text)
        assert client.get(page.url.join(document)).json()["info"]["title"] == "UniTok"
        key = {"Authorization": f"Bearer {KEY.secret}"}
        assert client.get("/redoc", headers=key).status_code == 404
        assert client.get("/docs/none.js", headers=key).status_code == 404


def preflight(client: httpx.Client, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return client.options("/recommend", headers=headers | {"Access-Control-Request-Headers": "authorization"})


def test_no_other_site_may_read_answers_by_default(tmp_path: Path) -> None:
    with serve(tmp_path) as client:
        assert preflight(client, SHOP).status_code == 405
        answer = client.get("/domains", headers={"Origin": SHOP})
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_named_sites_may_also_before_they_send_a_key(tmp_path: Path) -> None:
    with serve(tmp_path, cors_origins=(SHOP,), api_keys=KEY.entry) as client:
        allowed = preflight(client, SHOP)
        assert allowed.status_code == 200
        assert allowed.headers["Access-Control-Allow-Origin"] == SHOP
        assert "authorization" in allowed.headers["Access-Control-Allow-Headers"].lower()
        assert "Access-Control-Allow-Credentials" not in allowed.headers
        assert preflight(client, STRANGER).status_code == 400
        key = {"Authorization": f"Bearer {KEY.secret}"}
        for headers, status in (({}, 401), (key, 200)):
            answer = client.get("/domains", headers={"Origin": SHOP} | headers)
            assert answer.status_code == status
            assert answer.headers["Access-Control-Allow-Origin"] == SHOP
            assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        strange = client.get("/domains", headers={"Origin": STRANGER} | key)
        assert "Access-Control-Allow-Origin" not in strange.headers


def test_origins_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "CORS_ORIGINS", f"{SHOP}, http://localhost:3000,")
    assert read_settings().cors_origins == (SHOP, "http://localhost:3000")
    for wrong in ("*", "shop.example", SHOP + "/", f"{SHOP} {STRANGER}"):
        monkeypatch.setenv(PREFIX + "CORS_ORIGINS", wrong)
        with pytest.raises(ConfigError, match=r"UNITOK_CORS_ORIGINS: .* is no origin"):
            read_settings()
