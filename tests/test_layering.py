"""The service needs nothing of the offline half, and docs/architecture.md names all that there is."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import service

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
OFFLINE = ("torch", "transformers", "training", "onnx", "onnxscript", "faiss", "accelerate", "safetensors")


def service_modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(service.__path__, "service.")]


def test_service_imports_nothing_of_the_offline_half() -> None:
    modules = service_modules()
    assert "service.app" in modules
    code = (
        f"import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {OFFLINE!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_is_quick_to_load_and_lists_every_stage() -> None:
    """`unitok --help` loads neither torch nor ONNX Runtime: people press it often."""
    code = (
        "import sys\n"
        "from service.cli.main import build\n"
        "app = build()\n"
        "print(sorted(command.name for command in app.registered_commands))\n"
        "print([name for name in ('torch', 'transformers', 'onnxruntime') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    commands, heavy = result.stdout.strip().splitlines()
    stages = ("prepare", "embed", "train-tokenizer", "train-recommender", "export", "evaluate", "verify", "serve")
    for stage in (*stages, "train-baseline", "backfill", "tokenize", "recommend", "sample"):
        assert f"'{stage}'" in commands
    assert heavy == "[]"


def places(heading: str) -> list[str]:
    """What the first column of the first table below a heading of docs/architecture.md names."""
    rows = re.search(r"(?:^\|.*\n)+", ARCHITECTURE.partition(f"# {heading}\n")[2], re.MULTILINE)
    assert rows is not None, heading
    return [name for row in rows[0].splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def sources(folder: Path) -> list[str]:
    files = (path for kind in ("*.py", "*.lua") for path in folder.rglob(kind) if path.name != "__init__.py")
    return sorted(path.relative_to(folder).as_posix() for path in files)


def test_the_architecture_names_every_file_of_the_service_once() -> None:
    assert sorted(places("Service")) == sources(ROOT / "service")


def test_the_architecture_names_every_place_of_the_training_once() -> None:
    there = {f"{name.split('/')[0]}/" if "/" in name else name for name in sources(ROOT / "training")}
    configured = {f"{path.relative_to(ROOT / 'training').parts[0]}/" for path in (ROOT / "training").rglob("*.toml")}
    assert sorted(places("Training")) == sorted(there | configured)
    assert sorted(places("Laboratory")) == sources(ROOT / "training" / "laboratory")
