"""The service needs nothing of the offline half: proven in a fresh interpreter, module by module."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import service

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
