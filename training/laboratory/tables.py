"""Rows as Markdown tables: one for each protocol and kind of figure, named `PROTOCOL-KIND`.

Knows nothing of the documents that hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.errors import ConfigError
from training.laboratory.rows import EVERY, NONE, POPULARITY, Level, Part, Row
from training.laboratory.summaries import Figures, Measured, Summary, summarised

Format = Callable[[float], str]
ABSENT = "-"
HELD_OUT = "_held_out"
"""Suffix of the metrics of items that a tokenizer did not learn from."""
FREQUENT = "frequent_"
"""Prefix of the metrics of the most frequent ID tuples, which are shown in the lines of recommenders."""


@dataclass(frozen=True)
class Column:
    """One column of figures.

    Attributes
    ----------
    title : header
    metrics : level and metric; several share a cell, separated by slashes
    shown : formats a value
    spread : whether the spread over seeds is shown beside the mean
    """

    title: str
    metrics: tuple[tuple[Level, str], ...]
    shown: Format
    spread: bool = True


def _share(value: float) -> str:
    return f"{100 * value:.2f} %"


def _rank(value: float) -> str:
    return f"{value:.4f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) or value >= 100 else f"{value:.3g}"


def _decimal(value: float) -> str:
    return f"{value:.3f}"


def recommendation_columns() -> list[Column]:
    """Figures at the item level first, then at the tuple level, with the share of items that share a tuple."""
    metrics = {"recall_5": "Recall@5", "recall_10": "Recall@10", "ndcg_5": "NDCG@5", "ndcg_10": "NDCG@10"}
    columns = [Column(title, (("item", metric),), _rank) for metric, title in metrics.items()]
    columns += [Column(f"{metrics[name]} by tuple", (("tuple", name),), _rank) for name in ("recall_10", "ndcg_10")]
    frequent: tuple[Level, str] = ("tuple", f"{FREQUENT}recall_10")
    columns.append(Column("ten most frequent tuples: Recall@10", (frequent,), _rank, spread=False))
    columns.append(Column("items sharing a tuple", (("tuple", "items_sharing"),), _share))
    columns.append(Column("users", (("item", "users"),), _number, spread=False))
    return columns


def quality_columns(levels: int) -> list[Column]:
    """Quality of IDs; figures of all levels share a cell, first level first."""

    def by_level(metric: str) -> tuple[tuple[Level, str], ...]:
        return tuple(("id", f"{metric}_{level}") for level in range(1, levels + 1))

    return [
        Column("items", (("id", "items"),), _number, spread=False),
        Column("share an ID", (("id", "sharing"),), _share),
        Column("beyond equal content", (("id", "sharing_beyond_equal_content"),), _share),
        Column("largest group", (("id", "largest_group"),), _number),
        Column("perplexity by level", by_level("perplexity"), _number, spread=False),
        Column("codes used by level", by_level("codes_used"), _number, spread=False),
        Column("entropy, Hartleys", (("id", "entropy_hartleys"),), _decimal),
        Column("relative error", (("id", "relative_reconstruction_error"),), _decimal),
        Column("neighbours kept", (("id", "neighbourhood_kept"),), _share),
        Column("by chance", (("id", "neighbourhood_chance"),), _share, spread=False),
    ]


def held_out_columns() -> list[Column]:
    """Figures of held-out items beside those of training items; the share moved by the repair is over both."""

    def both(metric: str, ending: str = "") -> tuple[tuple[Level, str], ...]:
        return ("id", f"{metric}{ending}"), ("id", f"{metric}{HELD_OUT}")

    return [
        Column("items held out", (("id", f"items{HELD_OUT}"),), _number, spread=False),
        Column("beyond equal content, held out", (("id", f"sharing_beyond_equal_content{HELD_OUT}"),), _share),
        Column("relative error, learned from/held out", both("relative_reconstruction_error", "_learned"), _decimal),
        Column("the same by the best vector a code", both("relative_code_error"), _decimal),
        Column("mean quantization error", both("quantization_error", "_learned"), _number, spread=False),
        Column("moved", (("id", "moved"),), _share),
    ]


KINDS: Mapping[str, Part] = {"recommendations": "test", "validation": "validation", "ids": "items"}
"""Kinds of tables, and the part that each shows."""


def table_names(rows: Iterable[Row]) -> list[str]:
    """Names of the tables for which there are rows."""
    present = dict.fromkeys((row.protocol, row.part) for row in rows)
    return [f"{protocol}-{kind}" for protocol, part in present for kind, shown in KINDS.items() if shown == part]


def table(rows: Sequence[Row], name: str) -> str:
    """One table in Markdown.

    Raises
    ------
    ConfigError : no rows belong to this table; lists the tables there are
    """
    names = table_names(rows)
    if name not in names:
        raise ConfigError(f"no rows for a table {name!r}; there are {', '.join(names) or 'none at all'}")
    protocol, _, kind = name.rpartition("-")
    found = {of: figures for of, figures in summarised(rows, protocol, KINDS[kind]).items() if of.domain != EVERY}
    if kind != "ids":
        return _markdown(_by_domain(_beside_frequent(found)), recommendation_columns())
    figures = [metric for each in found.values() for _, metric in each]
    levels = max((int(metric.rsplit("_", 1)[1]) for metric in figures if metric.startswith("perplexity_")), default=0)
    held_out = any(metric.endswith(HELD_OUT) for metric in figures)
    return _markdown(_by_domain(found), quality_columns(levels) + (held_out_columns() if held_out else []))


def _by_domain(found: Mapping[Measured, Figures]) -> dict[Measured, Figures]:
    """Grouped by domain, in order of appearance."""
    domains = list(dict.fromkeys(of.domain for of in found))
    return dict(sorted(found.items(), key=lambda each: domains.index(each[0].domain)))


def _beside_frequent(found: Mapping[Measured, Figures]) -> dict[Measured, Figures]:
    """Copy the figures of a tokenizer's most frequent tuples into the lines of its recommenders."""
    lines = {}
    for of, figures in found.items():
        if of.recommender == POPULARITY and of.tokenizer != NONE:
            continue
        frequent = found.get(Measured(of.domain, of.tokenizer, POPULARITY), {})
        lines[of] = dict(figures)
        for (level, metric), each in frequent.items():
            if level == "tuple":
                lines[of][level, f"{FREQUENT}{metric}"] = each
    return lines


def _markdown(lines: Mapping[Measured, Figures], columns: Sequence[Column]) -> str:
    used = [column for column in columns if any(_present(column, figures) for figures in lines.values())]
    recommended = any(of.recommender != NONE for of in lines)
    named = ["domain", "tokenizer", *(["recommender"] if recommended else []), "seeds"]
    written = [[*named, *(column.title for column in used)], ["---"] * (len(named) + len(used))]
    for of, figures in lines.items():
        labels = [of.domain, of.tokenizer, *([of.recommender] if recommended else [])]
        labels = [ABSENT if label == NONE else label for label in labels]
        # Not the maximum over all figures: those of the IDs alone come from every recommender on them.
        counted = figures.get(("item", "ndcg_10"))
        seeds = str(max(each.seeds for each in figures.values()) if counted is None else counted.seeds)
        written.append([*labels, seeds, *(_cell(column, figures) for column in used)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in written)


def _present(column: Column, figures: Figures) -> bool:
    return any(metric in figures for metric in column.metrics)


def _cell(column: Column, figures: Figures) -> str:
    shown = [_shown(column, figures[metric]) for metric in column.metrics if metric in figures]
    return "/".join(shown) or ABSENT


def _shown(column: Column, figure: Summary) -> str:
    mean = column.shown(figure.mean)
    if not column.spread or figure.deviation is None:
        return mean
    return f"{mean} ± {column.shown(figure.deviation)}"
