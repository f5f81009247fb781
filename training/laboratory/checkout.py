"""The commit of the running code. Knows nothing of what it is run for."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Root of the checkout, if the code runs from one."""


def commit() -> str:
    """Short hash of the checkout's commit, with a `+` if its code differs from it; `unknown` outside a checkout."""
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return "unknown"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "service", "training")
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    try:
        run = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607
            cwd=ROOT,
            check=False,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""
