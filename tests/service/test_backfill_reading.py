"""Files as streams of records: formats, broken places, skipping, memory."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.backfill.reading import FileFormat, Record, columns_of, count_rows, format_of, read_records
from service.errors import InvalidInput

COLUMNS = ["item_id", "title", "categories"]
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


def write(path: Path, content: bytes, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(content) if packed else content)
    return path


def fields(records: list[Record]) -> list[dict[str, Any]]:
    assert all(record.broken is None for record in records)
    return [record.fields for record in records]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts.filter(bool), texts), max_size=12), st.integers(0, 12), st.booleans())
def test_every_format_gives_the_same_records_from_any_place(
    tmp_path: Path, rows: list[tuple[str, str]], skip: int, packed: bool
) -> None:
    frame = pl.DataFrame(rows, schema={"item_id": pl.String, "title": pl.String}, orient="row")
    parquet, csv, lines = tmp_path / "a.parquet", tmp_path / "a.csv", tmp_path / "a.jsonl"
    frame.write_parquet(parquet, row_group_size=3)
    write(csv, frame.write_csv(quote_style="always").encode(), packed)
    write(lines, b"".join(json.dumps(row).encode() + b"\n\n" for row in frame.to_dicts()), packed)
    for path in (parquet, csv, lines):
        found = list(read_records(path, format_of(path), COLUMNS, skip))
        assert fields(found) == frame.to_dicts()[skip:]
    assert [record.row for record in read_records(parquet, FileFormat.PARQUET, COLUMNS, skip)] == list(
        range(skip + 1, len(rows) + 1)
    )
    assert (count_rows(parquet, FileFormat.PARQUET), count_rows(csv, FileFormat.CSV)) == (len(rows), None)


def test_parquet_reads_only_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"huge": ["x"] * 3, "item_id": ["a", "b", "c"], "categories": [["p", "q"], [], None]}).write_parquet(
        path
    )
    assert fields(list(read_records(path, FileFormat.PARQUET, COLUMNS))) == [
        {"item_id": "a", "categories": ["p", "q"]},
        {"item_id": "b", "categories": []},
        {"item_id": "c", "categories": None},
    ]


def test_many_parquet_rows_keep_their_order_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"item_id": [str(number) for number in range(10_000)]}).write_parquet(path, row_group_size=777)
    found = [
        (record.row, record.fields["item_id"]) for record in read_records(path, FileFormat.PARQUET, COLUMNS, 3_333)
    ]
    assert found == [(number + 1, str(number)) for number in range(3_333, 10_000)]


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    for name in ("a[1].parquet", "a*.parquet", "a?.parquet", "a1.parquet"):
        pl.DataFrame({"item_id": [name], name: [1]}).write_parquet(tmp_path / "other")
        (tmp_path / "other").rename(tmp_path / name)
    for name in ("a[1].parquet", "a*.parquet", "a?.parquet"):
        assert columns_of(tmp_path / name, FileFormat.PARQUET) == ["item_id", name]
        assert count_rows(tmp_path / name, FileFormat.PARQUET) == 1
        assert fields(list(read_records(tmp_path / name, FileFormat.PARQUET, COLUMNS))) == [{"item_id": name}]


def test_a_broken_line_is_one_bad_record_with_its_number(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        b'\xef\xbb\xbf{"item_id": "a"}\n{"item_id": "b"\n\n[1]\n{"item_id": "\xff"}\n'
        b'{"item_id": "e", "price": NaN}\n"x"',
    )
    found = list(read_records(path, FileFormat.JSONL, COLUMNS))
    assert [(record.row, record.broken is None) for record in found] == [
        (1, True),
        (2, False),
        (4, False),
        (5, False),
        (6, True),
        (7, False),
    ]
    assert found[0].fields == {"item_id": "a"}
    assert "not JSON" in (found[1].broken or "")
    assert "JSON list" in (found[2].broken or "")
    assert "utf-8" in (found[3].broken or "")
    assert math.isnan(found[4].fields["price"])
    assert [record.row for record in read_records(path, FileFormat.JSONL, COLUMNS, skip=3)] == [5, 6, 7]


def test_csv_quotes_span_lines_and_bad_rows_are_numbered(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.csv",
        b'\xef\xbb\xbfitem_id,title\r\na,"one\nline, ""two"""\r\n\r\nb\r\nc,fine\r\nd,"x"y\r\ne,\xff\r\nf,last',
    )
    found = list(read_records(path, FileFormat.CSV, COLUMNS))
    assert [(record.row, record.broken) for record in found if record.broken] == [
        (5, "has 1 fields, but the header names 2"),
        (7, "',' expected after '\"'; a quote inside quotes is written twice in CSV"),
    ]
    assert [(record.row, record.fields) for record in found if not record.broken] == [
        (2, {"item_id": "a", "title": 'one\nline, "two"'}),
        (6, {"item_id": "c", "title": "fine"}),
        (8, {"item_id": "e", "title": "\udcff"}),
        (9, {"item_id": "f", "title": "last"}),
    ]


@pytest.mark.parametrize(("rows", "reason"), [(300, "before the file ends"), (20_000, "within 131072 characters")])
def test_a_quote_that_is_never_closed_costs_one_line(tmp_path: Path, rows: int, reason: str) -> None:
    lines = ["item_id,title", *(f"i{n},Book number {n}" for n in range(2, rows + 1))]
    lines[9] = 'i10,"Book number 10'
    path = write(tmp_path / "a.csv", "\n".join(lines).encode())
    found = list(read_records(path, FileFormat.CSV, COLUMNS))
    assert [record.row for record in found] == list(range(2, rows + 1))
    (bad,) = (record for record in found if record.broken)
    assert (bad.row, bad.broken) == (
        10,
        f"a quote is opened, but not closed {reason}; close it (reading went on at the next line)",
    )
    assert all(record.fields["item_id"] == f"i{record.row}" for record in found if record is not bad)
    assert list(read_records(path, FileFormat.CSV, COLUMNS, skip=8)) == found[8:]


def test_lines_that_a_misplaced_quote_costs_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'item_id,title\na,"one\nb,two\nc,"three"\nd,four\n')
    broken, last = read_records(path, FileFormat.CSV, COLUMNS)
    assert broken.row == 2
    assert (broken.broken or "").endswith("in CSV; lines 2 to 4 were read as one record and are passed over")
    assert last == Record(5, {"item_id": "d", "title": "four"})


def test_a_field_that_is_too_long_is_not_told_of_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"item_id,title\na," + b"long " * 30_000 + b"\nb,short\n")
    long, short = read_records(path, FileFormat.CSV, COLUMNS)
    assert long == Record(2, {}, "has a field of more than 131072 characters; bring it as Parquet or JSON lines")
    assert short == Record(3, {"item_id": "b", "title": "short"})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_file_cut_off_is_an_error_after_its_records(tmp_path: Path, name: str) -> None:
    content = b"item_id\n" + b"x\n" * 50_000 if name.endswith("csv") else b'{"item_id": "x"}\n' * 50_000
    path = write(tmp_path / name, gzip.compress(content)[:-20])
    records = read_records(path, format_of(path), COLUMNS)
    assert next(records).fields == {"item_id": "x"}
    with pytest.raises(InvalidInput, match="breaks off"):
        list(records)


def test_what_is_no_parquet_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", b"PAR1 not really")
    with pytest.raises(InvalidInput, match=r"a\.parquet: cannot be read as Parquet"):
        columns_of(path, FileFormat.PARQUET)
    with pytest.raises(InvalidInput, match=r"a\.parquet: cannot be read as Parquet after row 0"):
        list(read_records(path, FileFormat.PARQUET, COLUMNS))


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b"\na,b\n", "empty"), (b'a,"b"c\n', "no header"), (b"a,b,a\n", "twice")]
)
def test_a_csv_without_a_header_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        columns_of(write(tmp_path / "a.csv", content), FileFormat.CSV)


def test_columns_are_known_before_anything_is_read(tmp_path: Path) -> None:
    assert columns_of(write(tmp_path / "a.csv", b"\xef\xbb\xbfa,b\n1,2\n", packed=True), FileFormat.CSV) == ["a", "b"]
    assert columns_of(write(tmp_path / "a.jsonl", b""), FileFormat.JSONL) is None
    with pytest.raises(InvalidInput, match="no such file"):
        columns_of(tmp_path / "none.csv", FileFormat.CSV)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("items.parquet", FileFormat.PARQUET),
        ("ITEMS.CSV", FileFormat.CSV),
        ("a.b.jsonl.gz", FileFormat.JSONL),
        ("a.ndjson", FileFormat.JSONL),
        ("meta.json.gz", FileFormat.JSONL),
    ],
)
def test_the_name_tells_the_format(name: str, kind: FileFormat) -> None:
    assert format_of(Path(name)) is kind


@pytest.mark.parametrize("name", ["items", "items.gz", "items.xlsx"])
def test_a_name_that_does_not_tell_is_an_error(name: str) -> None:
    with pytest.raises(InvalidInput, match="--format"):
        format_of(Path(name))
