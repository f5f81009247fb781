"""The service needs nothing of the offline half, and docs/architecture.md names all that there is."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import service

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SERVICE = {
    "bundle": set[str](),
    "index": set[str](),
    "overload": set[str](),
    "access": {"catalogue"},
    "engine": {"bundle", "index"},
    "catalogue": {"bundle", "index"},
    "backfill": {"bundle", "catalogue", "engine"},
    "operations": {"bundle", "catalogue", "engine", "overload"},
    "verifying": {"bundle", "catalogue", "engine", "index"},
    "opening": {"bundle", "catalogue", "engine"},
    "lifecycle": {"catalogue", "engine", "operations", "overload"},
}
"""Which packages of the service each of them, and each module beside them, may import. `http`, `client` and `cli` may
import all; modules that are not named are shared, and import none."""
TRAINING = {
    "data": set[str](),
    "learning": set[str](),
    "ids": {"data"},
    "measures": {"data"},
    "encoders": {"data"},
    "networks": {"data"},
    "graphs": {"networks"},
    "tokenizer": {"data", "encoders", "ids", "networks"},
    "baselines": {"data", "learning", "measures", "networks"},
    "recommender": {"baselines", "data", "encoders", "graphs", "ids", "learning", "measures", "networks"},
    "export": {"data", "encoders", "graphs", "ids", "measures", "networks", "recommender", "tokenizer"},
    "evaluation": {"data", "export", "graphs", "ids", "measures", "networks", "recommender"},
    "embed": {"data", "encoders"},
}
"""The same of the offline half, where `laboratory`, `sample` and `commands` may import all of them."""
HTTP = {"fastapi", "httptools", "httpx", "starlette", "uvicorn"}
OFFLINE = ("torch", "transformers", "training", "onnx", "onnxscript", "faiss", "accelerate", "safetensors")


def service_modules() -> list[str]:
    return [module.name for module in pkgutil.walk_packages(service.__path__, "service.")]


def test_service_imports_nothing_of_the_offline_half() -> None:
    modules = service_modules()
    assert "service.http.app" in modules
    code = (
        f"import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {OFFLINE!r} if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    named = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    sources = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    return named | {f"{node.module}.{name.name}" for node in sources for name in node.names}


def against(half: str, uses: dict[str, set[str]], free: set[str]) -> list[str]:
    """Imports within one half that `uses` does not allow.

    Packages in `free`, and the half's command line, may import all packages; none of the others may import these.
    """
    folder = ROOT / half
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    modules = {path.stem for path in folder.glob("*.py")}
    assert packages <= {*uses, *free} <= packages | modules
    found = []
    for path in folder.rglob("*.py"):
        own = path.relative_to(folder).parts[0].removesuffix(".py")
        allowed = packages if own in {*free, "cli"} else {own} | uses.get(own, set())
        for name in imported(path):
            first, _, rest = name.partition(".")
            package = rest.partition(".")[0]
            is_package = first == half and package in packages
            if (is_package and package not in allowed) or (half == "service" and own not in free and first in HTTP):
                found.append(f"{path.relative_to(ROOT)} imports {name}")
    return found


def test_imports_go_one_way() -> None:
    """Nothing below the routes knows HTTP, and no two packages of the offline half import each other."""
    assert against("service", SERVICE, {"http", "client", "cli"}) == []
    assert against("training", TRAINING, {"laboratory", "sample", "commands"}) == []


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
