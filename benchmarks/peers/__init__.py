"""Peers that would move versions that we pin, and so run in an environment of their own: `make peers`.

What runs there imports nothing of this project, but for `semantic_id_quality.py`.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[2] / ".venv-peers" / "bin"


def program_of_peers(name: str) -> Path:
    """A program of that environment.

    Raises
    ------
    RuntimeError : it is not installed
    """
    path = FOLDER / name
    if not path.exists():
        raise RuntimeError(f"{path}: no such file; `make peers` installs the peers")
    return path
