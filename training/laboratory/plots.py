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
LINE = 0.17
"""Height of a line of text in a tree, in inches."""


def line_plot(curves: Sequence[Curve], x_label: str, y_label: str, *, logarithmic: bool = False) -> Figure:
    """Curves in their panels; a label has the same colour in all panels."""
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
    """Metrics over the values of one parameter: one panel per metric, one line per label, error bars over seeds."""
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
    """The domain's largest first codes on the left; on the right, how the second level splits each of them.

    Each branch has a bar whose length shows its number of items: on the left relative to the largest first code, on the
    right relative to its parent.
    """
    lines = [max(1, len(branch.children)) for branch in root.children]
    figure, (axes,) = panels([title], width=10.5, height=LINE * sum(lines) + 0.8, per_row=1)
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(sum(lines), 0)
    largest = max(branch.items for branch in root.children if branch.code is not None)
    top = 0.0
    for number, (branch, height) in enumerate(zip(root.children, lines, strict=True)):
        share = min(1.0, branch.items / largest)
        _bar(axes, (0.0, 0.44, top, float(height)), share, number, _named("a", branch, root))
        for line, child in enumerate(branch.children):
            share = child.items / branch.items
            _bar(axes, (0.46, 0.54, top + line, 1.0), share, number, _named("b", child, branch))
        top += height
    return figure


def _named(letter: str, branch: Branch, parent: Branch) -> str:
    code = "the rest" if branch.code is None else f"{letter}_{branch.code}"
    share = f"{branch.items:,} {'item' if branch.items == 1 else 'items'}, {100 * branch.items / parent.items:.0f} %"
    return f"{code} ({share}): {', '.join(branch.words)}" if branch.words else f"{code} ({share})"


def _bar(axes: Axes, box: tuple[float, float, float, float], share: float, number: int, text: str) -> None:
    """A bar that fills a share of its box (left, width, top, height), with a label."""
    left, width, top, height = box
    middle, tall = top + height / 2, 0.9 * height
    axes.barh(middle, width, height=tall, left=left, color=_colour(number, white=0.85))
    axes.barh(middle, width * share, height=tall, left=left, color=_colour(number, white=0.5))
    axes.text(left + 0.006, middle, text, va="center", ha="left", fontsize=7.0)


def _colour(number: int, white: float = 0.0) -> str:
    """One of twenty colours as `#rrggbb`, mixed with white so that text on it is legible."""
    channels = colormaps[COLOURS](number % 20)[:3]
    return "#" + "".join(f"{round(255 * (value + (1 - value) * white)):02x}" for value in channels)
