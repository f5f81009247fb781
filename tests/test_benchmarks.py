"""The machinery of the benchmarks: every one can be begun, rows say whether goals are met, and none holds up the rest.

No test looks at a time that something took.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from benchmarks import gpu, gpu_served, rows, tables
from benchmarks.plots import draw
from benchmarks.registry import BENCHMARKS, Benchmark, chosen, given
from benchmarks.rows import Row, medians, read_records, record, row_of, steady, write_records
from benchmarks.running import run_apart
from training.laboratory.documents import filled, tables_in

DICTIONARIES = next(each for each in BENCHMARKS if each.name == "index-dictionaries")


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
def test_both_forms_are_arguments_of_the_function(benchmark: Benchmark) -> None:
    signature = inspect.signature(benchmark.resolve())
    for full in (False, True):
        signature.bind(**benchmark.arguments(full, {}))
    with pytest.raises(ValueError, match="takes no wheels"):
        benchmark.arguments(False, {"wheels": 4})


def test_names_are_distinct_and_found_by_pattern() -> None:
    names = [each.name for each in BENCHMARKS]
    assert len(set(names)) == len(names)
    assert [each.name for each in chosen(["index*"], full=False)] == [
        name for name in names if name.startswith("index")
    ]
    assert chosen([], full=True) == list(BENCHMARKS)
    assert chosen([], full=False) == [each for each in BENCHMARKS if each.short is not None]
    with pytest.raises(ValueError, match="nothing-like-it"):
        chosen(["nothing-like-it"], full=False)


def test_arguments_are_json_or_text() -> None:
    assert given(["items=10", "batches=[1, 8]", "clock=processor"]) == {
        "items": 10,
        "batches": [1, 8],
        "clock": "processor",
    }
    with pytest.raises(ValueError, match="key=value"):
        given(["items"])


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("time", 10.0, "ms", 25.0, goal=2.5), 2.5, True),
        (Row("time", 10.0, "ms", 24.0, goal=2.5), 2.4, False),
        (Row("rate", 30.0, "items/s", 20.0, goal=1.5), 1.5, True),
        (Row("rate", 29.0, "items/s", 20.0, goal=1.5), 1.45, False),
        (Row("limit on a time", 3.0, "s", goal=3.0), None, True),
        (Row("limit on a time", 3.1, "s", goal=3.0), None, False),
        (Row("limit on a rate", 5.0, "items/s", goal=5.0), None, True),
        (Row("limit on a rate", 4.9, "items/s", goal=5.0), None, False),
        (Row("a count", 0.0, "count", goal=0), None, True),
        (Row("no goal", 1.0, "s", 2.0), 2.0, None),
    ],
)
def test_a_row_says_whether_its_goal_is_met(row: Row, ratio: float | None, met: bool | None) -> None:
    assert row.ratio == (None if ratio is None else pytest.approx(ratio))
    assert row.met is met


def test_rows_take_the_place_of_earlier_ones_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first, second = Row("a", 1.0, "s"), Row("b", 2.0, "s", 3.0, "peer", 1.0, "curve", 4.0)
    write_records([record(row, benchmark="one") for row in (first, second)], path)
    write_records([record(Row("a", 9.0, "s"), benchmark="two"), record(Row("a", 5.0, "s"), benchmark="one")], path)
    found = {(line["benchmark"], line["measure"]): row_of(line) for line in read_records(path)}
    assert found == {("one", "a"): Row("a", 5.0, "s"), ("one", "b"): second, ("two", "a"): Row("a", 9.0, "s")}


def test_one_row_is_rerun_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    command = [sys.executable, "-m", "benchmarks", "index-dictionaries", "--results", str(path), "--with", "items=500"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measures = [line["measure"] for line in read_records(path)]
    assert measures == ["build the index, 500 items", "memory of the index, 500 items"]
    assert all(measure in done.stdout for measure in measures)


def test_a_benchmark_that_takes_too_long_is_ended() -> None:
    run = run_apart(DICTIONARIES, ["--with", "items=100000000"], seconds=1.0)
    assert run.rows == []
    assert run.problem is not None
    assert "not finished after 1 s" in run.problem


def test_a_benchmark_that_fails_is_reported() -> None:
    run = run_apart(DICTIONARIES, ["--with", "clock=broken"], seconds=120.0)
    assert run.problem is not None
    assert "status 1" in run.problem


def test_points_of_a_curve_are_drawn_and_equal_rows_give_equal_files(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        {**record(Row(f"search {items}", 7.0, "ms", curve="search, 20 beams", at=items)), "benchmark": "search-costs"}
        for items in (10_000, 1_000_000)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (drawn,) = draw(path, tmp_path / "one")
    assert drawn.name == "cost_against_items.svg"
    assert "search, 20 beams" in drawn.read_text()
    (again,) = draw(path, tmp_path / "two")
    assert again.read_bytes() == drawn.read_bytes()


def test_the_benchmark_of_a_gpu_comes_to_its_end_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    """Small, so that no part fails for the first time where a GPU is rented by the minute."""
    rows = list(
        gpu.run("cpu", [300, 900], 5, [1, 3], known=200, bulk=50, twin_rows=2, repeats=1, seconds=0.0, threads=1)
    )
    assert capsys.readouterr().out == ""
    lists = [row for row in rows if row.unit == "lists"]
    assert [row.met for row in lists] == [True] * 6
    assert [row.note.split("; ")[0] for row in rows if row.measure.startswith("replayed")] == ["open sizes"] * 4
    assert not any("refused" in row.note for row in rows)
    assert {"1 of 1", "3 of 3"} == {
        row.note.split("; ")[1].split(" lists")[0] for row in rows if row.measure.startswith("search beside torch's")
    }
    assert len({row.measure for row in rows}) == len(rows)


def test_the_benchmark_of_what_a_gpu_serves_comes_to_its_end_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    found = list(
        gpu_served.run("cpu", 300, 5, [3], [50], known=100, repeats=1, seconds=0.0, loop_seconds=0.3, threads=1)
    )
    assert "failed" not in capsys.readouterr().out
    kept = [each.ours for each in found if each.measure.startswith("ten best kept")]
    assert len(kept) == 6
    assert min(kept) > 0.8
    assert [each.measure.split(",")[0] for each in found if each.curve] == ["open loop at 50/s"] * 4


def test_without_a_gpu_its_benchmark_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert list(gpu.run()) == []
    assert "search-gpu: skipped" in capsys.readouterr().err


def test_a_table_says_of_each_figure_where_it_comes_from() -> None:
    rows = [
        record(Row("one", 2.0, "ms", 6.0, "a peer", 4.0), benchmark="index", commit="abc", machine="slow"),
        record(Row("two", 12345.6, "items/s", goal=5e4), benchmark="search-10k", commit="def", machine="fast"),
        record(Row("three", 0.5, "share"), benchmark="index", commit="abc", machine="fast"),
    ]
    assert tables.table(rows).splitlines()[2:] == [
        "| `search-10k` | two | 12,346 | - | items/s | - | 50,000 | **no** |  | def | A |",
        "| `index` | one | 2 | 6 | ms | 3.00 x | 4 | **no** | a peer | abc | B |",
        "| `index` | three | 0.5 | - | share | - | - | - |  | abc | A |",
        "",
        "Machines: A: fast; B: slow.",
    ]


def test_the_document_says_what_the_file_of_rows_says() -> None:
    text, records = tables.DOCUMENT.read_text(encoding="utf-8"), read_records()
    assert tables_in(text, "benchmarks.md") == list(tables.TABLES)
    made = {name: tables.table(filter(chosen, records)) for name, chosen in tables.TABLES.items()}
    assert filled(text, made, "benchmarks.md") == text, "run python -m benchmarks.tables"


def test_sides_run_in_turns_and_steadily_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = [0.0], list[str]()

    def side(name: str, first: float, again: float) -> Callable[[], None]:
        def call() -> None:
            now[0] += again if called[-1:] == [name] else first
            called.append(name)

        return call

    monkeypatch.setattr(rows, "REST", 0.0)
    monkeypatch.setattr(rows, "TURN", 3.0)
    sides = side("a", 5.0, 1.0), side("b", 7.0, 4.0)
    assert steady(2, *sides, clock=lambda: now[0]) == [1.0, 4.0], "what a side pays for the other does not count"
    assert "".join(called) == ("a" * 4 + "b" * 2) * 2, "a call that does not count, then as many as a turn holds"
    called.clear()
    assert medians(3, *sides, clock=lambda: now[0]) == [5.0, 7.0]
    assert "".join(called) == "ab" * 4
