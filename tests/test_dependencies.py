"""Every install is the one that was tested: pins are exact, none is missing, and what is installed agrees with them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OF_CUDA = ("nvidia-", "cuda-", "triton")
"""Brought by GPU builds: torch pins its own exactly, `docker/constraints-gpu.txt` those of ONNX Runtime."""
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][0-9A-Za-z.+!]*)")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(name: str) -> Distribution:
    """A package in the environment; Ray, once imported, adds folders to the path that hold copies of others.

    Raises
    ------
    PackageNotFoundError : it is not there
    """
    for found in distributions(name=name, path=[sysconfig.get_path("purelib")]):
        return found
    raise PackageNotFoundError(name)


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = [PIN.fullmatch(line) for line in lines]
    assert [line for line, match in zip(lines, found, strict=True) if match is None] == []
    names = [canonical(match[1]) for match in found if match]
    assert sorted(names) == sorted(set(names))
    return {canonical(match[1]): match[2] for match in found if match}


def test_what_is_installed_is_what_is_pinned(pins: dict[str, str]) -> None:
    wrong = {}
    for name, pinned in pins.items():
        try:
            found = installed(name).version
        except PackageNotFoundError:
            continue  # of an extra that excludes one of those here
        if found.split("+")[0] != pinned:
            wrong[name] = (found, pinned)
    assert wrong == {}


def test_every_package_we_ask_for_is_pinned_with_all_that_it_brings(pins: dict[str, str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(name for names in project["optional-dependencies"].values() for name in names)]
    waiting, seen = [_name(requirement) for requirement in asked], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith(OF_CUDA):
            continue
        seen.add(name)
        try:
            needed = installed(name).requires or []
        except PackageNotFoundError:
            assert name in pins, name
            continue
        assert name in pins, name
        waiting += [_name(requirement) for requirement in needed if _is_installed(requirement)]


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return canonical(match[0])


def _is_installed(requirement: str) -> bool:
    """Whether a dependency is wanted here: of no extra, and not of another platform, where it is not installed."""
    try:
        installed(_name(requirement))
    except PackageNotFoundError:
        return False
    return "extra ==" not in requirement


VULNERABLE = {"name": "leaky", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}
HARMLESS = {"name": "sound", "version": "2.0", "vulns": []}
UNKNOWN = {"name": "private", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        (
            [VULNERABLE, HARMLESS, UNKNOWN],
            1,
            ("leaky 1.0: PYSEC-1, mended in 1.1", "1 known vulnerabilities in 2 of 3"),
        ),
        ([HARMLESS, UNKNOWN], 0, ("0 known vulnerabilities in 1 of 2", "advisories of 1 could not be reached")),
        (None, 0, ("nothing was audited",)),
    ],
)
def test_ci_fails_for_a_known_vulnerability_and_says_what_nobody_looked_at(
    packages: list[dict[str, object]] | None, status: int, said: tuple[str, ...], tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    if packages is not None:
        report.write_text(json.dumps({"dependencies": packages}))
    done = subprocess.run([sys.executable, ROOT / ".ci" / "audit", report], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert all(text in done.stdout for text in said), done.stdout
