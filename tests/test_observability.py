"""Dashboard and alert rules ask for nothing that the service does not say: names and labels against a real scrape."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from http_server import serving
from prometheus_client.parser import text_string_to_metric_families

from service.access.keys import KeyScope, new_key
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docker" / "observability"
SCRAPED = {"up": {"job"}}
"""What Prometheus itself says, and the labels that it adds to everything."""
ADDED = {"instance", "job"}
FUNCTIONS = {
    "sum", "max", "min", "by", "rate", "increase", "histogram_quantile", "and", "offset",
}  # fmt: skip


@pytest.fixture(scope="module")
def said(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every metric of a service that has done everything once, with its labels."""
    key = new_key("shop", [KeyScope.READ, KeyScope.REGISTER], 1e6)
    settings = Settings(
        bundle=tiny_bundle, store=f"embedded:{tmp_path_factory.mktemp('store')}", threads=1, api_keys=key.entry
    )
    with serving(settings) as (client, _):
        assert client.get("/domains").status_code == 401
        client.headers["Authorization"] = f"Bearer {key.secret}"
        assert client.put("/items/books/new", json={"title": "the new novel"}).status_code == 201
        history = [{"domain": "books", "item_id": "new"}]
        assert client.post("/recommend", json={"history": history}).status_code == 200
        text = client.get("/metrics").text
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / "grafana" / "dashboards" / "unitok.json").read_text())
    return content


def rules() -> list[dict[str, Any]]:
    content = yaml.safe_load((FOLDER / "alerts.yml").read_text())
    return [rule for group in content["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression with the name of its panel or alert."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        yield variable["name"], re.sub(r"label_values\((.*), (\w+)\)", r"sum by (\2) (\1)", variable["definition"])
    for rule in rules():
        yield rule["alert"], rule["expr"]


def check(expression: str, said: dict[str, set[str]]) -> None:
    """Fail where an expression names a metric or a label that nobody gives."""
    plain = re.sub(r'"(\\.|[^"])*"', '""', expression)
    plain = re.sub(r"\[[^]]*\]|\b\d+[smhd]\b", "", plain)
    grouped = {label for part in re.findall(r"\bby \(([^)]*)\)", plain) for label in part.replace(" ", "").split(",")}
    names = re.findall(r"[a-z_][a-z0-9_]*", re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", plain))
    metrics = [name for name in names if name not in FUNCTIONS]
    assert metrics, expression
    labels: set[str] = set()
    for metric in metrics:
        assert metric in said, f"{metric} of {expression!r} is not said by the service"
        labels |= said[metric]
    for metric, matchers in re.findall(r"([a-z_][a-z0-9_]*)\{([^}]*)\}", plain):
        used = set(re.findall(r"([a-z_]+)\s*[=!]~?", matchers))
        assert used <= said[metric] | ADDED, f"{metric} of {expression!r} has the labels {sorted(said[metric])}"
    assert grouped <= labels | ADDED, f"{expression!r} groups by {sorted(grouped)}, but there are {sorted(labels)}"


def test_every_metric_of_dashboard_and_alerts_is_said_by_the_service(said: dict[str, set[str]]) -> None:
    everything = said | SCRAPED
    asked = list(expressions())
    assert len(asked) > 35
    for _, expression in asked:
        check(expression, everything)


@pytest.mark.parametrize(
    "wrong", ["unitok_redy == 0", 'sum(unitok_ready{zone="a"})', "sum by (zone) (unitok_ready)", "unitok_requests > 1"]
)
def test_the_check_finds_what_is_not_there(said: dict[str, set[str]], wrong: str) -> None:
    with pytest.raises(AssertionError, match=r"not said|has the labels|groups by"):
        check(wrong, said | SCRAPED)


def test_every_metric_of_ours_is_on_the_dashboard(said: dict[str, set[str]]) -> None:
    shown = " ".join(expression for _, expression in expressions())
    ours = {re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in said if name.startswith("unitok_")}
    assert {name for name in ours if name not in shown} == set()


def test_legends_use_labels_that_their_expression_keeps() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", target["expr"])))) | {"instance"}
            assert used <= kept, panel["title"]


def test_every_alert_says_what_to_do() -> None:
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["for"]
        assert rule["annotations"]["summary"]
        assert f"| `{rule['alert']}` |" in documented


def test_the_pieces_are_wired_together() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    prometheus, grafana = compose["prometheus"], compose["grafana"]
    assert prometheus["profiles"] == grafana["profiles"] == ["observability"]
    for service in (prometheus, grafana):
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source
    scrape = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["job_name"] == "unitok"
    assert {name for config in job["dns_sd_configs"] for name in config["names"]} <= set(compose)
    assert scrape["rule_files"] == [prometheus["volumes"][1].split(":")[1]]
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["uid"] == dashboard()["panels"][1]["datasource"]["uid"]
    (provider,) = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/unitok.yml").read_text())["providers"]
    assert provider["options"]["path"] == grafana["volumes"][1].split(":")[1]
