"""The container files are well-formed, and keep the promises the documentation makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return content


def test_compose_file_follows_the_schema() -> None:
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dockerfile_passes_hadolint() -> None:
    result = subprocess.run([BIN / "hadolint", ROOT / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_service_runs_without_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["user"] not in {"root", "0", "0:0"}, name


def test_our_containers_have_a_read_only_root(compose: dict[str, Any]) -> None:
    for name in ("service", "service-gpu", "backfill"):
        assert compose["services"][name]["read_only"] is True, name


def test_profiles_select_gpu_and_backfill(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert "profiles" not in services["service"]
    assert services["service-gpu"]["profiles"] == ["gpu"]
    assert services["backfill"]["profiles"] == ["backfill"]


def test_no_secret_stands_in_the_compose_file(compose: dict[str, Any]) -> None:
    assert "${REDIS_PASSWORD:?" in compose["services"]["service"]["environment"]["UNITOK_STORE"]
    assert "${REDIS_PASSWORD:?" in compose["services"]["redis"]["environment"]["REDIS_PASSWORD"]
    example = (ROOT / "docker" / "example.env").read_text()
    assert "# Letters and digits only: it stands in an address.\nREDIS_PASSWORD=\n" in example


def test_image_does_not_run_as_root() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert users[-1].split(":")[0] not in {"root", "0"}


def test_everything_the_image_copies_is_in_its_build_context() -> None:
    """The build context is empty but for what `.dockerignore` lets in, so a forgotten line breaks the build."""
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = [
        line.split()[1:-1]
        for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY ") and "--from" not in line
    ]
    sources = [source for copy in copies for source in copy]
    assert "service" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source in allowed, source


def test_cuda_libraries_are_pinned_apart_from_everything_else() -> None:
    """A build of torch for CUDA pins its own, so the constraints of every install must not name any."""
    pins = (ROOT / "docker" / "constraints-gpu.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in pins if not line.startswith("#")}
    assert names
    assert all(name.startswith("nvidia-") for name in names)
    assert "nvidia-" not in (ROOT / "constraints.txt").read_text()
