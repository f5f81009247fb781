"""The Kubernetes manifests follow the schemas of the API, and fit the settings, paths and metrics that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dummy_engine import DummyEngine

from service.catalogue.embedded import EmbeddedStore
from service.catalogue.live import LiveCatalogue
from service.http.app import create_app
from service.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docker" / "kubernetes"
VERSIONS = ("1.28.0", "1.37.0")
NOT_OF_THE_API = frozenset({"kustomization.yaml", "adapter-values.yaml"})


def documents(name: str) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all((FOLDER / name).read_text()) if found]


RESOURCES = {
    (found["kind"], found["metadata"]["name"]): found
    for file in sorted(FOLDER.glob("*.yaml"))
    if file.name not in NOT_OF_THE_API
    for found in documents(file.name)
}
KUSTOMIZATION = documents("kustomization.yaml")[0]
POD: dict[str, Any] = RESOURCES["Deployment", "unitok"]["spec"]["template"]
CONTAINER: dict[str, Any] = POD["spec"]["containers"][0]
ENVIRONMENT: dict[str, dict[str, Any]] = {found["name"]: found for found in CONTAINER["env"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], str]:
    """Paths and metrics of a real service."""
    engine = DummyEngine()
    store = EmbeddedStore(tmp_path_factory.mktemp("store"), "dummy", 3, engine.layout)
    app = create_app(Settings(), engine=engine, catalogue=LiveCatalogue(store))
    store.close()
    return set(app.openapi()["paths"]), app.state.service.metrics.text().decode()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "resource", RESOURCES.values(), ids=lambda found: f"{found['kind']}-{found['metadata']['name']}"
)
def test_every_resource_follows_the_schema(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_would_find_a_field_that_does_not_exist() -> None:
    wrong = {**RESOURCES["Deployment", "unitok"]}
    wrong["spec"] = {**wrong["spec"], "minReplicas": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_kustomization_names_every_file_and_no_other() -> None:
    named = set(KUSTOMIZATION["resources"])
    assert named | NOT_OF_THE_API == {file.name for file in FOLDER.glob("*.yaml")}
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {CONTAINER["image"]}


def test_no_secret_is_written_down_and_every_one_that_is_used_is_asked_for() -> None:
    generated = {secret["name"]: secret for secret in KUSTOMIZATION["secretGenerator"]}
    example = (FOLDER / "secrets.example.env").read_text().splitlines()
    asked = {line.partition("=")[0] for line in example if not line.startswith("#")}
    assert all(line.startswith("#") or line.endswith("=") for line in example)
    assert "/docker/kubernetes/secrets.env" in (ROOT / ".gitignore").read_text().splitlines()
    for kind, name in (("Deployment", "unitok"), ("StatefulSet", "redis")):
        for container in RESOURCES[kind, name]["spec"]["template"]["spec"]["containers"]:
            for variable in container["env"]:
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["name"] in generated
                    assert reference["key"] in asked
                assert "valueFrom" in variable or variable["name"] not in {"REDIS_PASSWORD", "UNITOK_API_KEYS"}
    # Kubernetes puts the value in only where the variable it names stands before.
    assert list(ENVIRONMENT).index("REDIS_PASSWORD") < list(ENVIRONMENT).index("UNITOK_STORE")


def test_settings_are_ones_that_the_service_has(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: found.get("value", "") for name, found in ENVIRONMENT.items() if name.startswith(PREFIX)}
    values = {name.removeprefix(PREFIX).lower(): value for name, value in ours.items()}
    assert set(values) <= set(Settings.model_fields)
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    assert Settings().threads == int(CONTAINER["resources"]["requests"]["cpu"])


def test_variables_that_kubernetes_adds_for_services_stay_out() -> None:
    """A Service `unitok` would bring UNITOK_PORT=tcp://..., which the service takes for a setting."""
    assert POD["spec"]["enableServiceLinks"] is False


def test_a_pod_has_time_to_drain() -> None:
    notice, drain = (float(ENVIRONMENT[f"UNITOK_DRAIN{part}SECONDS"]["value"]) for part in ("_NOTICE_", "_"))
    readiness = CONTAINER["readinessProbe"]
    assert notice >= 2 * readiness["periodSeconds"] * readiness["failureThreshold"]
    assert POD["spec"]["terminationGracePeriodSeconds"] >= notice + 2 * drain
    assert RESOURCES["Deployment", "unitok"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_probes_and_scrapes_ask_for_paths_that_exist(served: tuple[set[str], str]) -> None:
    paths, _ = served
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in paths
    annotations = POD["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] in paths
    assert int(annotations["prometheus.io/port"]) == ports["http"] == Settings.model_fields["port"].default


def test_the_autoscaler_asks_for_metrics_that_exist(served: tuple[set[str], str]) -> None:
    _, metrics = served
    scaler = RESOURCES["HorizontalPodAutoscaler", "unitok"]["spec"]
    names = {found["pods"]["metric"]["name"] for found in scaler["metrics"] if found["type"] == "Pods"}
    assert len(names) == 2
    rule = documents("adapter-values.yaml")[0]["rules"]["custom"][0]
    pattern = re.search(r'__name__=~"([^"]+)"', rule["seriesQuery"])
    assert pattern is not None
    for name in names:
        assert f"\n{name} " in metrics
        assert re.fullmatch(pattern[1], name)
    target = RESOURCES["Deployment", "unitok"]
    assert scaler["scaleTargetRef"]["name"] == target["metadata"]["name"]
    # A fixed number would undo the autoscaler's with every apply; a second replica lets one leave without a gap.
    assert "replicas" not in target["spec"]
    assert scaler["minReplicas"] >= 2


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_pods_have_no_rights(kind: str) -> None:
    spec = next(found for (found_kind, _), found in RESOURCES.items() if found_kind == kind)["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_the_pod_runs_as_the_user_of_the_image() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "docker" / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    context = POD["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))


def test_selectors_find_the_pods_they_mean() -> None:
    pods = {
        name: RESOURCES[kind, name]["spec"]["template"]["metadata"]["labels"].items()
        for kind, name in (("Deployment", "unitok"), ("StatefulSet", "redis"))
    }
    for (kind, name), resource in RESOURCES.items():
        spec = resource.get("spec", {})
        selector = spec.get("podSelector", spec.get("selector"))
        if kind in {"Service", "PodDisruptionBudget", "NetworkPolicy", "Deployment", "StatefulSet"}:
            wanted = selector.get("matchLabels", selector)
            assert wanted.items() <= pods[name], (kind, name)
    egress = RESOURCES["NetworkPolicy", "unitok"]["spec"]["egress"][0]
    assert egress["to"][0]["podSelector"]["matchLabels"].items() <= pods["redis"]
    ingress = RESOURCES["NetworkPolicy", "redis"]["spec"]["ingress"][0]
    assert ingress["from"][0]["podSelector"]["matchLabels"].items() <= pods["unitok"]
    assert ENVIRONMENT["UNITOK_STORE"]["value"].endswith("@redis:6379/0")
    assert RESOURCES["Service", "redis"]["spec"]["ports"][0]["port"] == egress["ports"][0]["port"] == 6379


def test_redis_syncs_before_it_answers() -> None:
    command = RESOURCES["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"][0]["command"][-1]
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction", "--requirepass"):
        assert option in command
