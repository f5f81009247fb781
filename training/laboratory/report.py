"""Writes rows as tables into documents, and draws plots from rows and finished stages.

Knows nothing of the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from service.errors import ConfigError
from training.data.dataset import Dataset
from training.ids.table import DomainIds, read_ids
from training.laboratory.curves import Curve, code_use, tokenizer_curves, validation_curves
from training.laboratory.documents import filled, tables_in
from training.laboratory.drawing import save
from training.laboratory.experiment import Experiment
from training.laboratory.id_tree import id_tree
from training.laboratory.plan import plan
from training.laboratory.planned import PlannedStage
from training.laboratory.plots import line_plot, sensitivity_plot, tree_plot
from training.laboratory.rows import Row
from training.laboratory.sensitivity import responses
from training.laboratory.tables import table, table_names
from training.stage import FIGURES, write_atomically


@dataclass(frozen=True)
class Finished:
    """A finished experiment and its folders.

    Attributes
    ----------
    experiment : as read from its file
    work : parent of the stages' folders
    dataset : folder written by `prepare`
    """

    experiment: Experiment
    work: Path
    dataset: Path

    def first_stages(self) -> list[PlannedStage]:
        """Stages of the first seed of everything."""
        stages = plan(self.experiment)
        seen: set[tuple[str, ...]] = set()
        first = []
        for stage in stages:  # stages that differ only in the seed are sorted by it
            if (key := (stage.command, *stage.labels, *stage.reads, *stage.options)) not in seen:
                seen.add(key)
                first.append(stage)
        return first


def write_tables(rows: Sequence[Row], documents: Sequence[Path]) -> dict[str, Any]:
    """Fill all places in the documents for which there are rows.

    Returns
    -------
    names of the tables written, of places without rows, and of tables without a place
    """
    there = table_names(rows)
    places = [name for each in documents for name in tables_in(each.read_text(encoding="utf-8"), str(each))]
    written = {name: table(rows, name) for name in places if name in there}
    _fill(documents, written)
    return {
        "tables": list(written),
        "places_without_rows": [name for name in places if name not in there],
        "tables_without_a_place": [name for name in there if name not in places],
    }


def write_table(rows: Sequence[Row], documents: Sequence[Path], name: str) -> str:
    """Make one table, write it into all documents that have a place for it, and return it.

    Raises
    ------
    ConfigError : there are no rows for it
    """
    made = table(rows, name)
    _fill(documents, {name: made})
    return made


def draw_sensitivity(rows: Sequence[Row], folder: Path) -> list[Path]:
    """One plot for each swept parameter of each protocol."""
    plots = {
        f"{protocol}/sensitivity_{name}.svg": sensitivity_plot(found)
        for protocol in dict.fromkeys(row.protocol for row in rows)
        for name, found in responses(rows, protocol).items()
    }
    return _saved(plots, folder)


def draw_finished(finished: Finished, folder: Path, trees_of: str | None = None) -> list[Path]:
    """Training curves, code use by level, and the tree of every domain's IDs.

    Parameters
    ----------
    trees_of : tokenizer whose IDs are drawn as trees; None: the first finished one

    Raises
    ------
    ConfigError : no finished tokenizer has that name
    """
    stages, protocol = finished.first_stages(), finished.experiment.protocol
    plots: dict[str, Figure] = {}
    ndcg, losses = validation_curves(stages, finished.work), tokenizer_curves(stages, finished.work)
    if ndcg:
        plots["training_recommenders.svg"] = line_plot(ndcg, "epoch", "NDCG@10, validation")
    if losses:
        plots["training_tokenizers.svg"] = line_plot(losses, "epoch", "mean over items")
    ids = _ids_of(stages, finished.work)
    for domain, curves in _code_use(ids).items():
        plots[f"code_use_{domain}.svg"] = line_plot(curves, "code, most used first", "share of items", logarithmic=True)
    drawn = trees_of or next(iter(ids), None)
    if trees_of is not None and trees_of not in ids:
        there = ", ".join(ids) or "none"
        raise ConfigError(f"no finished tokenizer {trees_of!r} in {finished.work}; there are {there}")
    dataset = Dataset.open(finished.dataset)
    for domain, each in ids.get(drawn or "", {}).items():
        title = f"IDs of {domain} by {drawn}: first level, and how the second splits it"
        contents = dict(zip(dataset[domain].item_ids, dataset[domain].contents(), strict=True))
        tree = id_tree(each.codes, [contents[item_id] for item_id in each.item_ids])
        plots[f"id_tree_{drawn}_{domain}.svg"] = tree_plot(tree, title)
    return _saved({f"{protocol}/{name}": figure for name, figure in plots.items()}, folder)


def _fill(documents: Sequence[Path], tables: Mapping[str, str]) -> None:
    """Write tables into their places; writes nothing at all if any document has a place without an end comment."""
    texts = {document: document.read_text(encoding="utf-8") for document in documents}
    places = {document: tables_in(text, str(document)) for document, text in texts.items()}
    for document, text in texts.items():
        if not tables.keys().isdisjoint(places[document]):
            write_atomically(document, filled(text, tables, str(document)))


def _ids_of(stages: Iterable[PlannedStage], work: Path) -> dict[str, dict[str, DomainIds]]:
    """IDs of finished tokenizers, by tokenizer and domain."""
    ids: dict[str, dict[str, DomainIds]] = {}
    for stage in stages:
        if stage.command == "train-tokenizer" and (work / stage.name / FIGURES).is_file():
            ids.setdefault(stage.tokenizer, {}).update(read_ids(work / stage.name))
    return ids


def _code_use(ids: dict[str, dict[str, DomainIds]]) -> dict[str, list[Curve]]:
    """Curves by domain."""
    found: dict[str, list[Curve]] = {}
    for tokenizer, domains in ids.items():
        for domain, each in domains.items():
            found.setdefault(domain, []).extend(code_use(each.codes, tokenizer))
    return found


def _saved(plots: dict[str, Figure], folder: Path) -> list[Path]:
    for name, figure in plots.items():
        save(figure, folder / name)
    return [folder / name for name in plots]
