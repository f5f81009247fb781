"""Plots: lines in panels, a metric over a parameter, and the tree of a domain's IDs.

Knows nothing of where the numbers come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.laboratory.curves import Curve
from training.laboratory.drawing import legend_below, panels
from training.laboratory.id_tree import Branch
from training.laboratory.sensitivity import Response

COLOURS = "tab20"


def line_plot(curves: Sequence[Curve], x_label: str, y_label: str, *, logarithmic: bool = False) -> Figure:
    """Curves in their panels; one label has one colour throughout."""
    titles = list(dict.fromkeys(curve.panel for curve in curves))
    figure, axes = panels(titles)
    labels = list(dict.fromkeys(curve.label for curve in curves))
    for curve in curves:
        panel = axes[titles.index(curve.panel)]
        colour = _colour(labels.index(curve.label))
        panel.plot(curve.x, curve.y, label=curve.label, color=colour, linewidth=1.1, marker="." * (len(curve.x) < 2))
    for panel in axes:
        panel.set_xlabel(x_label)
        if logarithmic:
            panel.set_yscale("log")
    axes[0].set_ylabel(y_label)
    legend_below(figure, axes)
    return figure


def sensitivity_plot(responses: Sequence[Response]) -> Figure:
    """A metric over the values of one parameter, a panel a metric, a line a domain, bars for the spread over seeds."""
    metrics = list(dict.fromkeys(response.metric for response in responses))
    figure, axes = panels(metrics)
    lines = list(dict.fromkeys(response.label for response in responses))
    for response in responses:
        panel = axes[metrics.index(response.metric)]
        colour = _colour(lines.index(response.label))
        panel.errorbar(
            response.values,
            [figure.mean for figure in response.figures],
            yerr=[figure.deviation or 0.0 for figure in response.figures],
            label=response.label,
            color=colour,
            marker="o",
            markersize=3,
        )
        panel.set_xlabel(response.parameter)
    legend_below(figure, axes)
    return figure


def tree_plot(root: Branch, title: str) -> Figure:
    """An icicle: the domain's largest first codes on the left, on the right how the second level splits each.

    Heights follow the number of items within a column; a branch too low to be written in keeps its colour alone.
    """
    rows = sum(max(1, len(branch.children)) for branch in root.children)
    figure, (axes,) = panels([title], width=10.5, height=0.16 * rows + 0.8, per_row=1)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(rows, 0)
    top = 0.0
    for number, branch in enumerate(root.children):
        height = float(max(1, len(branch.children)))
        _box(axes, (0.0, top, 0.42, height), _colour(number), _named("a", branch, root))
        # Within a branch, heights are shares of its items, but none is lower than half a line.
        shares = [max(0.5 / height, child.items / branch.items) for child in branch.children]
        at = top
        for child, share in zip(branch.children, shares, strict=True):
            tall = height * share / sum(shares)
            _box(axes, (0.43, at, 0.57, tall), _colour(number, light=True), _named("b", child, branch))
            at += tall
        top += height
    return figure


def _named(letter: str, branch: Branch, parent: Branch) -> str:
    code = "the rest" if branch.code is None else f"{letter}_{branch.code}"
    share = f"{branch.items:,} items, {100 * branch.items / parent.items:.0f} %"
    return f"{code} ({share}): {', '.join(branch.words)}" if branch.words else f"{code} ({share})"


def _box(axes: Axes, box: tuple[float, float, float, float], colour: str, text: str) -> None:
    left, top, width, height = box
    axes.barh(top + height / 2, width, height=0.94 * height, left=left, color=colour, edgecolor="white", linewidth=0.5)
    if height >= 0.6:
        axes.text(left + 0.006, top + height / 2, text, va="center", ha="left", fontsize=7.0, clip_on=True)


def _colour(number: int, light: bool = False) -> str:
    """One of twenty colours as `#rrggbb`; light ones can be written on."""
    white = 0.75 if light else 0.0
    channels = colormaps[COLOURS](number % 20)[:3]
    return "#" + "".join(f"{round(255 * (value + (1 - value) * white)):02x}" for value in channels)
