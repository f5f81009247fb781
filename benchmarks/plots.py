"""Plots of the file of rows: latency against load, and cost against catalogue size.

    python -m benchmarks.plots        # benchmarks/results.jsonl -> docs/plots/benchmarks/*.svg

Draws every row that is a point of a curve, the short form's and the full form's alike.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.rows import RESULTS, Row, read_records, row_of
from training.laboratory.curves import Curve
from training.laboratory.drawing import save
from training.laboratory.plots import line_plot

FOLDER = Path(__file__).parents[1] / "docs" / "plots" / "benchmarks"


@dataclass(frozen=True)
class Plot:
    """A plot of the curves of some benchmarks, a panel a unit.

    Attributes
    ----------
    benchmarks : pattern of their names
    logarithmic_x : whether steps of x are factors
    """

    file: str
    benchmarks: str
    x_label: str
    logarithmic_x: bool


PLOTS = (
    Plot("latency_against_load.svg", "http*", "requests a second", logarithmic_x=False),
    Plot("cost_against_items.svg", "[!h]*", "items in the catalogue", logarithmic_x=True),
)


def curves(plot: Plot, path: Path) -> list[Curve]:
    """The curves of a plot, each with its points in order."""
    points: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for record in read_records(path):
        row = row_of(record)
        if row.at is not None and fnmatchcase(record["benchmark"], plot.benchmarks):
            points[row.unit, row.curve].append(row)
    found = []
    for (unit, label), rows in sorted(points.items()):
        x, y = zip(*sorted((row.at or 0.0, row.ours) for row in rows), strict=True)
        found.append(Curve(unit, label, x, y))
    return found


def draw(results: Path, folder: Path) -> list[Path]:
    """Draw every plot that has a curve; the files."""
    drawn = []
    for plot in PLOTS:
        if not (found := curves(plot, results)):
            continue
        figure = line_plot(found, plot.x_label, "", logarithmic=True)
        for panel in figure.axes:
            if plot.logarithmic_x:
                panel.set_xscale("log")
            for line in panel.lines:
                line.set_marker(".")
        save(figure, folder / plot.file)
        drawn.append(folder / plot.file)
    return drawn


if __name__ == "__main__":
    print(*draw(RESULTS, FOLDER), sep="\n")
