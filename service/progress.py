"""Progress bars with the time left, for long work; silent if standard error is not a terminal.

Knows nothing of what is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[..., None]
"""`advance(steps, note)`: count some steps as done and show a short note beside the bar."""


@contextmanager
def progress(title: str, total: int | None) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs.

    Parameters
    ----------
    title : name of the work
    total : number of steps, None if unknown
    """
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=total, note="")

        def advance(steps: int = 1, note: str | None = None) -> None:
            if note is None:
                bars.update(task, advance=steps)
            else:
                bars.update(task, advance=steps, note=note)

        yield advance
