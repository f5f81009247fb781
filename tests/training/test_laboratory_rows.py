"""Rows: strict on reading, the last of a key counts, nothing is said twice."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import InvalidInput
from training.laboratory.planned import PlannedStage
from training.laboratory.recording import Recorder, numbers
from training.laboratory.rows import Row, append_rows, read_rows


def row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "protocol": "small",
        "domain": "steam",
        "tokenizer": "unitok",
        "recommender": "t5",
        "seed": 0,
        "part": "test",
        "level": "item",
        "metric": "ndcg_10",
        "value": 0.25,
        "commit": "abc1234",
        "seconds": 1.5,
    }
    return Row(**values | changes)


def test_the_last_of_a_key_counts_and_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "rows.jsonl"
    assert append_rows(path, [row(), row(seed=1)]) == 2
    assert append_rows(path, [row(value=0.5, commit="def5678"), row(seed=2)]) == 2
    assert [(each.seed, each.value) for each in read_rows(path)] == [(0, 0.5), (1, 0.25), (2, 0.25)]
    assert len(path.read_text().splitlines()) == 4


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [row()])
    before = path.read_bytes()
    assert append_rows(path, [row(), row(commit="later", seconds=9.0)]) == 0
    assert path.read_bytes() == before
    assert append_rows(path, [row(value=1), row(value=2)]) == 1
    assert read_rows(path) == [row(value=2)]


def test_a_last_line_without_an_end_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(row().model_dump_json())
    assert append_rows(path, [row()]) == 0
    assert append_rows(path, [row(seed=1)]) == 1
    assert read_rows(path) == [row(), row(seed=1)]
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extra": 1}, "extra: unknown key"),
        ({"value": float("nan")}, "value: Input should be a finite number"),
        ({"value": float("inf")}, "value: Input should be a finite number"),
        ({"value": "0.25"}, "value: Input should be a valid number"),
        ({"seed": 1.5}, "seed: Input should be a valid integer"),
        ({"level": "user"}, "level: Input should be 'item', 'tuple' or 'id'"),
        ({"domain": ""}, "domain: String should have at least 1 character"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = tmp_path / "rows.jsonl"
    append_rows(path, [row()])
    good = path.read_text()
    path.write_text(good + json.dumps(row(seed=1).model_dump() | changes) + "\n")
    with pytest.raises(InvalidInput, match=rf"rows\.jsonl, line 2: {said}"):
        read_rows(path)
    with pytest.raises(InvalidInput, match="line 2"):
        append_rows(path, [row(seed=3)])


def test_a_line_without_a_key_or_without_an_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"protocol": "small"}\n')
    with pytest.raises(InvalidInput, match=r"line 1: domain: Field required.*a row has protocol, domain"):
        read_rows(path)
    path.write_text(row().model_dump_json()[:40])
    with pytest.raises(InvalidInput, match=r"line 1: line: Invalid JSON"):
        read_rows(path)
    with pytest.raises(InvalidInput, match=r"none\.jsonl: no such file; `unitok experiment` writes it"):
        read_rows(tmp_path / "none.jsonl")


def _append(path: Path, seed: int) -> None:
    for metric in range(25):
        append_rows(path, [row(seed=seed, metric=f"m{metric}")])


def test_processes_append_at_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_append, args=(path, seed)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(path.read_text().splitlines()) == 75
    assert len(read_rows(path)) == 75


def test_numbers_leave_out_what_is_no_figure() -> None:
    figures = {"a": 1, "b": [0.5, 2], "c": True, "d": "text", "e": {"x": 1}, "f": float("nan"), "g": None, "h": []}
    assert list(numbers(figures)) == [("a", 1.0), ("b_1", 0.5), ("b_2", 2.0)]


def test_a_baselines_figures_become_rows() -> None:
    stage = PlannedStage("baselines/sasrec/seed-1/steam", "train-baseline", "none", "sasrec", 1, ("steam",))
    kept, removed = {"recall_10": 0.2, "ndcg_10": 0.1}, {"recall_10": 0.3, "ndcg_10": 0.15}
    figures = {
        "kind": "sasrec",
        "users": 7,
        "validation": kept,
        "test": {name: value / 2 for name, value in kept.items()},
        "history_items_removed": {"validation": removed, "test": removed},
        "seconds": 3.0,
    }
    made = Recorder("small", stage, "abc", 3.0).rows(figures)
    found = {(each.part, each.metric): each.value for each in made}
    assert found["test", "ndcg_10"] == 0.05
    assert found["validation", "recall_10"] == 0.2
    assert found["test", "recall_10_history_removed"] == 0.3
    assert found["test", "users"] == 7
    assert {(each.tokenizer, each.recommender, each.domain, each.level) for each in made} == {
        ("none", "sasrec", "steam", "item")
    }
    assert Recorder("small", stage, "abc", 3.0).rows({**figures, "users": 0}) == []


def test_tokenizers_of_one_domain_each_count_their_own_parameters() -> None:
    figures = {"parameter_counts": {"codebook": 5, "total": 9}, "domains": {"a": {"sharing": 0.5, "trained": True}}}
    own = PlannedStage("tokenizers/own/seed-0/a", "train-tokenizer", "own", "none", 0, ("a",))
    for stage, domain in ((own, "a"), (replace(own, reads=("a", "b")), "all")):
        made = Recorder("small", stage, "abc", 3.0).rows(figures)
        assert [(each.domain, each.metric, each.value) for each in made] == [
            (domain, "parameters_codebook", 5.0),
            (domain, "parameters_total", 9.0),
            ("a", "sharing", 0.5),
        ]
        assert {(each.part, each.level, each.recommender) for each in made} == {("items", "id", "none")}
