"""Known rows give known tables, in their places in a document; equal numbers give equal plots."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from test_laboratory_rows import row
from typer.testing import CliRunner

from service.errors import ConfigError, InvalidInput
from service.items import ItemContent
from training.commands.report import report
from training.data.dataset import INTERACTION_SCHEMA, write_domain, write_index
from training.ids.table import DomainIds, write_ids
from training.laboratory.curves import code_use
from training.laboratory.documents import filled, tables_in
from training.laboratory.drawing import save
from training.laboratory.id_tree import Branch, id_tree, telling_words
from training.laboratory.plots import line_plot, tree_plot
from training.laboratory.rows import Row, append_rows, read_rows
from training.laboratory.sensitivity import responses
from training.laboratory.tables import table, table_names

ROWS = [
    row(value=0.02, metric="recall_10"),
    row(value=0.01),
    row(value=0.04, metric="recall_10", seed=1),
    row(value=0.02, seed=1),
    row(value=0.5, level="tuple", metric="recall_10"),
    row(value=0.125, level="tuple", metric="items_sharing"),
    row(value=0.3, level="tuple", metric="recall_10", recommender="popularity"),
    row(value=0.03, metric="recall_10", tokenizer="none", recommender="sasrec", domain="office"),
    row(value=0.03, metric="recall_10", tokenizer="none", recommender="sasrec"),
    row(value=0.09, metric="recall_10", part="validation"),
]
QUALITY = [
    row(part="items", level="id", recommender="none", metric=metric, value=value)
    for metric, value in (
        ("items", 3581.0),
        ("sharing", 0.0312),
        ("perplexity_1", 231.4),
        ("perplexity_2", 9.876),
        ("hsic", 0.1),
    )
]
RECOMMENDATIONS = """\
| domain | tokenizer | recommender | seeds | Recall@10 | NDCG@10 | Recall@10 by tuple \
| ten most frequent tuples: Recall@10 | items sharing a tuple |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| steam | unitok | t5 | 2 | 0.0300 ± 0.0141 | 0.0150 ± 0.0071 | 0.5000 | 0.3000 | 12.50 % |
| steam | - | sasrec | 1 | 0.0300 | - | - | - | - |
| office | - | sasrec | 1 | 0.0300 | - | - | - | - |
"""
IDS = """\
| domain | tokenizer | seeds | items | share an ID | perplexity by level |
| --- | --- | --- | --- | --- | --- |
| steam | unitok | 1 | 3,581 | 3.12 % | 231/9.88 |
"""
HELD_OUT = """\
| domain | tokenizer | seeds | items | share an ID | perplexity by level | beyond equal content, held out \
| relative error, learned from/held out | the same by the best vector a code | moved |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| steam | unitok | 1 | 3,581 | 3.12 % | 231/9.88 | 2.00 % | 0.400/0.500 | 0.300/0.600 | 0.90 % |
"""
DOCUMENT = """\
# Results

<!-- unitok report --table small-ids -->
| old |
<!-- end of table -->

Between.

<!-- unitok report --table full-ids -->
not measured yet
<!-- end of table -->
"""


def test_known_rows_give_known_tables() -> None:
    rows = ROWS + QUALITY
    assert table_names(rows) == ["small-recommendations", "small-validation", "small-ids"]
    assert table(rows, "small-recommendations") == RECOMMENDATIONS
    assert table(rows, "small-ids") == IDS
    with pytest.raises(ConfigError, match="'full-ids'; there are small-recommendations, small-validation, small-ids"):
        table(rows, "full-ids")


def test_what_was_held_out_stands_behind_the_rest_and_only_where_something_was() -> None:
    figures = {
        "sharing_beyond_equal_content_held_out": 0.02,
        "relative_reconstruction_error_learned": 0.4,
        "relative_reconstruction_error_held_out": 0.5,
        "relative_code_error": 0.3,
        "relative_code_error_held_out": 0.6,
        "moved": 0.009,
    }
    rows = [row(part="items", level="id", recommender="none", metric=of, value=value) for of, value in figures.items()]
    assert table(QUALITY + rows, "small-ids") == HELD_OUT
    assert table(QUALITY + [each for each in rows if not each.metric.endswith("_held_out")], "small-ids") == IDS


def test_tables_go_into_their_places_and_nowhere_else() -> None:
    assert tables_in(DOCUMENT, "r.md") == ["small-ids", "full-ids"]
    text = filled(DOCUMENT, {"small-ids": IDS}, "r.md")
    assert text == DOCUMENT.replace("| old |\n", f"\n{IDS}\n")
    assert filled(text, {"small-ids": IDS}, "r.md") == text
    with pytest.raises(InvalidInput, match=r"r\.md: table 'full-ids' has no"):
        filled(DOCUMENT.removesuffix("<!-- end of table -->\n"), {}, "r.md")
    with pytest.raises(InvalidInput, match="line 9: table 'small-ids' has no"):
        tables_in(DOCUMENT.replace("<!-- end of table -->", "", 1), "r.md")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Options of `unitok report`: rows with a sweep, and a document."""
    sweep: list[Row] = [
        row(part="validation", tokenizer=f"unitok@levels={levels}", seed=seed, value=levels / 10 + seed / 100)
        for levels in (4, 2, 3)
        for seed in (0, 1)
    ]
    append_rows(tmp_path / "rows.jsonl", [*ROWS, *QUALITY, *sweep])
    (tmp_path / "results.md").write_text(DOCUMENT, encoding="utf-8")
    names = {"rows": "rows.jsonl", "document": "results.md", "plots": "plots"}
    return [word for option, name in names.items() for word in (f"--{option}", str(tmp_path / name))]


def run(options: list[str]) -> str:
    app = typer.Typer()
    app.command()(report)
    ran = CliRunner().invoke(app, options, catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def test_one_command_makes_one_table(files: list[str], tmp_path: Path) -> None:
    assert run([*files, "--table", "small-ids"]) == IDS
    assert IDS in (tmp_path / "results.md").read_text()
    assert run([*files, "--table", "small-recommendations"]) == RECOMMENDATIONS
    assert not (tmp_path / "plots").exists()


def test_a_table_goes_into_whichever_document_has_its_place(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "<!-- unitok report --table small-recommendations -->\n<!-- end of table -->\n"
    results, long = tmp_path / "docs" / "results.md", tmp_path / "docs" / "tables" / "small.md"
    long.parent.mkdir(parents=True)
    results.write_text(DOCUMENT, encoding="utf-8")
    long.write_text(place, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rows_alone = [*files[:2], "--plots", "plots"]
    assert run([*rows_alone, "--table", "small-recommendations"]) == RECOMMENDATIONS
    assert RECOMMENDATIONS in long.read_text()
    assert results.read_text() == DOCUMENT
    long.write_text(place, encoding="utf-8")
    figures = json.loads(run(rows_alone))
    assert figures["tables"] == ["small-ids", "small-recommendations"]
    assert figures["tables_without_a_place"] == ["small-validation"]
    assert IDS in results.read_text()
    assert RECOMMENDATIONS in long.read_text()


def test_a_document_that_is_given_is_the_only_one(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "small.md").write_text(DOCUMENT, encoding="utf-8")
    assert json.loads(run(files))["tables"] == ["small-ids"]
    assert (tmp_path / "tables" / "small.md").read_text() == DOCUMENT


def test_no_document_is_written_where_a_place_has_no_end(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.md").write_text("<!-- unitok report --table small-ids -->\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"broken\.md: table 'small-ids' has no"):
        run([*files, "--document", str(tmp_path / "broken.md"), "--table", "small-ids"])
    assert (tmp_path / "results.md").read_text() == DOCUMENT


def test_the_documents_say_what_the_file_of_rows_says() -> None:
    docs = Path(__file__).parents[2] / "docs"
    rows = read_rows(docs / "results.jsonl")
    for document in (docs / "results.md", *(docs / "tables").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        names = tables_in(text, str(document))
        assert names
        assert filled(text, {name: table(rows, name) for name in names}, str(document)) == text, "run unitok report"


def test_one_command_makes_all_that_there_are_rows_for(files: list[str], tmp_path: Path) -> None:
    figures = json.loads(run(files))
    plot = tmp_path / "plots" / "small" / "sensitivity_unitok-levels.svg"
    assert figures == {
        "tables": ["small-ids"],
        "places_without_rows": ["full-ids"],
        "tables_without_a_place": ["small-recommendations", "small-validation"],
        "plots": [str(plot)],
    }
    first = plot.read_bytes()
    assert b"levels" in first
    assert len(first) < 60_000
    json.loads(run(files))
    assert plot.read_bytes() == first


def test_plots_of_stages_need_their_folders(files: list[str]) -> None:
    with pytest.raises(ConfigError, match="--experiment needs --work and --dataset"):
        run([*files, "--experiment", "small.toml"])
    with pytest.raises(ConfigError, match="have no use without --experiment"):
        run([*files, "--work", "work"])


def test_finished_stages_are_drawn(files: list[str], tmp_path: Path) -> None:
    experiment = tmp_path / "small.toml"
    experiment.write_text(
        'protocol = "small"\ndomains = ["steam"]\n[[tokenizers]]\nname = "unitok"\n[[recommenders]]\nname = "t5"\n'
        '[[baselines]]\nname = "sasrec"\n'
    )
    work = tmp_path / "work"
    tokenizer, recommender = work / "tokenizers/unitok/seed-0", work / "recommenders/unitok/t5/seed-0"
    baseline = work / "baselines/sasrec/seed-0/steam"
    for folder in (tokenizer, recommender, baseline):
        folder.mkdir(parents=True)
    log = [{"epoch": 1, "reconstruction": 0.5, "sharing": {}}, {"epoch": 2, "reconstruction": 0.4, "sharing": {"s": 1}}]
    (tokenizer / "figures.json").write_text(json.dumps({"log": log}))
    codes = np.repeat(np.arange(4, dtype=np.int32), 5)[:, None] + np.zeros((1, 2), dtype=np.int32)
    write_ids(tokenizer, [DomainIds("steam", [f"g{row}" for row in range(20)], codes, codes[:, :1], codes[:, 0])])
    (recommender / "training.jsonl").write_text('{"epoch": 0.5, "by_domain": {"steam": {"ndcg_10": 0.1}}}\n')
    (baseline / "training.jsonl").write_text('{"epoch": 1, "ndcg_10": 0.2}\n')
    items = pl.DataFrame({"item_id": [f"g{row}" for row in range(20)], "title": [f"war {row}" for row in range(20)]})
    items = items.with_columns(pl.lit(None).alias(name) for name in ("brand", "categories", "description", "price"))
    dataset = tmp_path / "dataset"
    write_index(dataset, [write_domain(dataset, "steam", items, INTERACTION_SCHEMA.to_frame())])
    options = [*files, "--experiment", str(experiment), "--work", str(work), "--dataset", str(dataset)]
    names = [Path(plot).name for plot in json.loads(run(options))["plots"]]
    assert names == [
        "sensitivity_unitok-levels.svg",
        "training_recommenders.svg",
        "training_tokenizers.svg",
        "code_use_steam.svg",
        "id_tree_unitok_steam.svg",
    ]
    drawn = (tmp_path / "plots/small/training_recommenders.svg").read_text()
    assert "t5 on unitok" in drawn
    assert "sasrec" in drawn
    assert "a_0 (5 items, 25 %)" in (tmp_path / "plots/small/id_tree_unitok_steam.svg").read_text()
    with pytest.raises(ConfigError, match=r"no finished tokenizer 'rq-vae'.* there are unitok"):
        run([*options, "--trees-of", "rq-vae"])


def test_a_sweep_is_a_line_over_its_values() -> None:
    rows = [
        row(part="validation", tokenizer=f"unitok@levels={levels}", seed=seed, value=levels + seed)
        for levels in (10, 2)
        for seed in (0, 1)
    ]
    rows += [row(part="validation", recommender=f"t5@schedule={name}", value=1) for name in ("cosine", "linear")]
    rows += [row(part="test", tokenizer="unitok@levels=3")]
    found = responses(rows, "small")
    (levels,) = found["unitok-levels"]
    assert (levels.parameter, levels.metric, levels.label) == ("levels", "NDCG@10, validation", "steam, t5")
    assert levels.values == (2.0, 10.0)
    assert [(each.mean, each.seeds) for each in levels.figures] == [(2.5, 2), (10.5, 2)]
    (schedule,) = found["t5-schedule"]
    assert schedule.values == ("cosine", "linear")
    assert responses(rows, "full") == {}


def test_what_was_measured_without_suffixes_is_a_sweep_of_its_own() -> None:
    rows = [
        row(part="validation", recommender=f"t5@epochs={epochs}{ended}", value=epochs + added)
        for epochs in (10, 5)
        for ended, added in (("", 0.5), ("-without-suffix", 0.25))
    ]
    found = {
        name: (line.values, [each.mean for each in line.figures]) for name, (line,) in responses(rows, "small").items()
    }
    assert found == {"t5-epochs": ((5.0, 10.0), [5.5, 10.5]), "t5-without-suffix-epochs": ((5.0, 10.0), [5.25, 10.25])}


def test_code_use_falls_from_the_most_used_code() -> None:
    first, second = code_use(np.asarray([[3, 0], [3, 1], [3, 2], [7, 3]], dtype=np.int32), "unitok")
    assert (first.panel, first.label, first.x, first.y) == ("level 1", "unitok", (1.0, 2.0), (0.75, 0.25))
    assert second.y == (0.25,) * 4


def test_branches_are_named_by_what_marks_them() -> None:
    """Seven pens and five inks under two first codes; "office" is in every title, so it marks nothing."""
    kinds = ["gel pen", "ball pen", "ball pen", "ball pen", "gel pen", "gel pen", "fountain pen", *["black ink"] * 5]
    codes = np.asarray([[4, 0], [4, 1], [4, 1], [4, 1], [4, 0], [4, 0], [4, 2], *[[9, 3]] * 5], dtype=np.int32)
    tree = id_tree(codes, [ItemContent(title=f"Office {kind}") for kind in kinds], first=2, second=2)
    assert (tree.code, tree.items, tree.words) == (None, 12, ())
    pens, inks = tree.children
    assert (pens.code, pens.items, pens.words[0]) == (4, 7, "pen")
    assert (inks.code, inks.items, set(inks.words)) == (9, 5, {"black", "ink"})
    assert [(child.code, child.items, child.words[0]) for child in pens.children] == [
        (0, 3, "gel"),
        (1, 3, "ball"),
        (None, 1, "fountain"),
    ]
    assert inks.children == (Branch(3, 5, inks.words),)


def test_of_words_that_tell_as_much_the_alphabet_chooses() -> None:
    """Sets come in any order, and figures must not."""
    words = ["walnut", "cherry", "maple", "birch", "alder", "yew", "oak", "elm"]
    members, others = [frozenset(words)] * 3, [frozenset({"nail"})] * 5
    documents = Counter(word for each in (*members, *others) for word in each)
    assert telling_words(members, documents, 8) == ("alder", "birch", "cherry")
    rarer = documents + Counter({word: 1 for word in words if word != "yew"})
    assert telling_words(members, rarer, 8) == ("yew", "alder", "birch")
    assert telling_words(others, documents, 8) == ("nail",)


def test_equal_numbers_give_equal_files(tmp_path: Path) -> None:
    codes = np.random.default_rng(0).integers(0, 8, (60, 2)).astype(np.int32)
    for name in ("one.svg", "two.svg"):
        save(line_plot(code_use(codes, "unitok"), "code", "share", logarithmic=True), tmp_path / name)
        save(tree_plot(id_tree(codes, [ItemContent(title="x y")] * 60), "tree"), tmp_path / f"tree_{name}")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "tree_one.svg").read_bytes() == (tmp_path / "tree_two.svg").read_bytes()
