"""The command line `unitok` as a whole, whatever the subcommand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A module that is None there is one that Python says is missing, as torch is where only what serves is installed.
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from service.cli.main import main; main()"


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.mark.parametrize(
    "command", [["train-tokenizer", "dataset", "embeddings", "--out", "out"], ["sample", "--out", "out"]]
)
def test_a_command_whose_packages_are_missing_says_how_to_get_them(tmp_path: Path, command: list[str]) -> None:
    for name in ("dataset", "embeddings"):
        (tmp_path / name).mkdir()
    result = run(tmp_path, *command)
    assert result.returncode == 1
    assert result.stderr.startswith("unitok: this command needs the Python package 'torch'")
    assert "make install" in result.stderr
    assert result.stderr.count("\n") == 1


def test_what_serves_does_without_them(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    result = run(tmp_path, "verify", str(root / "models" / "sample"))
    assert result.returncode == 0, result.stderr
