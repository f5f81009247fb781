"""Figures as SVG files: equal numbers give equal bytes.

Knows nothing of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.stage import replacing

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "unitok",  # without it, the names of clip paths are random
    "svg.fonttype": "none",  # text stays text: small files that can be searched
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "path.simplify": True,
}


def panels(
    titles: Sequence[str], width: float = 4.2, height: float = 3.0, per_row: int = 3
) -> tuple[Figure, list[Axes]]:
    """A figure with one titled panel for each title, in rows."""
    columns = min(per_row, len(titles))
    rows = -(-len(titles) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
    axes: list[Axes] = list(grid.flat)
    for panel, title in zip(axes, titles, strict=False):
        panel.set_title(title)
    for unused in axes[len(titles) :]:
        unused.set_axis_off()
    return figure, axes[: len(titles)]


def legend_below(figure: Figure, axes: Sequence[Axes]) -> None:
    """One legend for all panels, each label once."""
    entries: dict[str, Artist] = {}
    for panel in axes:
        handles, labels = panel.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    if entries:
        figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=4, frameon=False)


def save(figure: Figure, path: Path) -> None:
    """Write the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE), replacing(path) as partial:
        # No date and no library version, which would change the bytes.
        figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})
