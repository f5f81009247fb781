"""Bad data: each kind is found where it is, stops the stage, and is counted when skipped."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput
from training.data.configuring import parse_config
from training.data.dataset import Dataset
from training.data.prepare import prepare
from training.data.report import Kind

GOOD_ITEMS = "item_id,title,price\na,Alpha,1\nb,Beta,2\nc,Gamma,3\n"
GOOD_LOG = "user_id,item_id,timestamp,rating\n" + "".join(f"u,{item},{at},5\n" for at, item in enumerate("abcab"))


def write_shop(
    folder: Path, items: str | bytes = GOOD_ITEMS, log: str | bytes = GOOD_LOG, **options: Any
) -> dict[str, Any]:
    for name, content in (("items.csv", items), ("log.csv", log)):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {
        "name": "shop",
        "format": "csv",
        "items": str(folder / "items.csv"),
        "interactions": str(folder / "log.csv"),
        **options,
    }


def write_lines(folder: Path, items: bytes, name: str = "items.jsonl", **options: Any) -> dict[str, Any]:
    (folder / name).write_bytes(items)
    return {"name": "shop", "format": "jsonl", "items": str(folder / name), **options}


def report_of(domain: dict[str, Any], folder: Path) -> tuple[dict[str, int], list[dict[str, Any]], str]:
    """Prepare a domain that must be refused: the counts, the examples, the message."""
    with pytest.raises(InvalidInput) as caught:
        prepare(parse_config({"domains": [domain]}, "test"), folder / "out")
    report = json.loads((folder / "out" / "report.json").read_text())
    assert not (folder / "out" / "dataset.json").exists()
    assert not (folder / "out" / "figures.json").exists()
    assert set(report["problems"]) == {kind.value for kind in Kind}
    counts = {kind: count for kind, count in report["problems"].items() if count}
    return counts, report["domains"]["shop"]["examples"], str(caught.value)


def skipped(domain: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Figures of the domain when its bad rows are skipped."""
    figures = prepare(parse_config({"domains": [domain]}, "test"), folder / "out", skip_bad=True)
    shop: dict[str, Any] = figures["domains"]["shop"]
    return shop


Case = tuple[dict[str, str | bytes], Kind, str, int | None, str | None, str]
CASES: dict[str, Case] = {
    "duplicate item": (
        {"items": GOOD_ITEMS + "a,Again,4\n"},
        Kind.DUPLICATE_ITEM,
        "items.csv",
        5,
        "item_id",
        "item a was given before, in row 2 of ",
    ),
    "item id that no request can hold": (
        {"items": GOOD_ITEMS + f"{'x' * 257},Delta,4\n"},
        Kind.BAD_ITEM_ID,
        "items.csv",
        5,
        "item_id",
        "must be 1 to 256 characters",
    ),
    "item id that no store can hold": (
        {"items": GOOD_ITEMS + f"{'书' * 200},Delta,4\n"},
        Kind.BAD_ITEM_ID,
        "items.csv",
        5,
        "item_id",
        "at most 512 bytes",
    ),
    "control character in an item id": (
        {"items": GOOD_ITEMS + "d\te,Delta,4\n"},
        Kind.BAD_ITEM_ID,
        "items.csv",
        5,
        "item_id",
        "control character",
    ),
    "unknown item": ({"log": GOOD_LOG + "u,z,9,5\n"}, Kind.UNKNOWN_ITEM, "log.csv", 7, "item_id", "item z is not"),
    "no text": ({"items": GOOD_ITEMS + "d, ,4\n"}, Kind.ITEM_WITHOUT_TEXT, "items.csv", 5, "item_id", "item d has no"),
    "placeholder title": (
        {"items": GOOD_ITEMS + "d,n/a,4\n"},
        Kind.ITEM_WITHOUT_TEXT,
        "items.csv",
        5,
        "item_id",
        "item d has no",
    ),
    "invalid UTF-8": (
        {"items": GOOD_ITEMS.encode() + b"d,caf\xe9,4\n"},
        Kind.BROKEN_ENCODING,
        "items.csv",
        5,
        None,
        "byte 0xe9 at offset 54",
    ),
    "negative price": ({"items": GOOD_ITEMS + "d,Delta,-4\n"}, Kind.BAD_NUMBER, "items.csv", 5, "price", "-4.0"),
    "price that is none": ({"items": GOOD_ITEMS + "d,Delta,?\n"}, Kind.BAD_NUMBER, "items.csv", 5, "price", "'?'"),
    "NaN price": ({"items": GOOD_ITEMS + "d,Delta,nan\n"}, Kind.BAD_NUMBER, "items.csv", 5, "price", "NaN"),
    "infinite rating": ({"log": GOOD_LOG + "u,a,9,inf\n"}, Kind.BAD_NUMBER, "log.csv", 7, "rating", "inf"),
    "late timestamp": (
        {"log": GOOD_LOG + "u,a,1393545600000,5\n"},
        Kind.BAD_NUMBER,
        "log.csv",
        7,
        "timestamp",
        "timestamp_unit",
    ),
    "timestamp before 1970": ({"log": GOOD_LOG + "u,a,-1,5\n"}, Kind.BAD_NUMBER, "log.csv", 7, "timestamp", "1970"),
    "timestamp that is none": (
        {"log": GOOD_LOG + "u,a,soon,5\n"},
        Kind.BAD_NUMBER,
        "log.csv",
        7,
        "timestamp",
        "'soon' is neither",
    ),
    "no timestamp": ({"log": GOOD_LOG + "u,a,,5\n"}, Kind.MISSING_VALUE, "log.csv", 7, "timestamp", "empty"),
    "no user": ({"log": GOOD_LOG + ",a,9,5\n"}, Kind.MISSING_VALUE, "log.csv", 7, "user_id", "empty"),
    "no item id": ({"items": GOOD_ITEMS + ",Delta,4\n"}, Kind.MISSING_VALUE, "items.csv", 5, "item_id", "empty"),
    "too few fields": ({"log": GOOD_LOG + "u,a\n"}, Kind.MALFORMED_LINE, "log.csv", 7, None, "2 fields"),
    "open quote": ({"log": GOOD_LOG + 'u,"a,9,5\n'}, Kind.MALFORMED_LINE, "log.csv", 7, None, "unexpected end of data"),
    "quote open over lines": (
        {"log": GOOD_LOG + 'u,"a,9,5\nu,b,9,5\n'},
        Kind.MALFORMED_LINE,
        "log.csv",
        7,
        None,
        "lines 7 to 8 were read as one record",
    ),
    "stray quote": ({"log": GOOD_LOG + 'u,"a"b,9,5\n'}, Kind.MALFORMED_LINE, "log.csv", 7, None, "quote"),
    "short history": (
        {"log": GOOD_LOG + "w,a,9,5\nw,b,9,5\n"},
        Kind.SHORT_HISTORY,
        "log.csv",
        7,
        "user_id",
        "user w has 2",
    ),
    "fractional position": (
        {"log": "user_id,item_id,position\nu,a,0\nu,b,1\nu,c,2\nu,a,2.5\n"},
        Kind.BAD_NUMBER,
        "log.csv",
        5,
        "position",
        "2.5 is no position",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_kind_is_named_with_file_row_and_field(case: Case, tmp_path: Path) -> None:
    contents, kind, file, row, field, reason = case
    domain = write_shop(tmp_path, **contents)
    counts, examples, message = report_of(domain, tmp_path)
    assert counts == {kind.value: 1}
    (example,) = examples
    assert example["kind"] == kind.value
    assert (example["file"], example["row"], example["field"]) == (str(tmp_path / file), row, field)
    assert reason in example["reason"]
    assert kind.value in message
    assert "--skip-bad" in message
    figures = skipped(domain, tmp_path)
    lost = [*figures["items_lost"].values(), *figures["interactions_lost"].values()]
    if kind is Kind.SHORT_HISTORY:
        assert figures["users_in_training_only"] == 1
        assert lost == [{}] * 4
    else:
        assert [reasons for reasons in lost if reasons] == [{kind.value: 1}]
    assert Dataset.open(tmp_path / "out")["shop"].users >= 1


def test_a_line_after_a_bad_one_is_read(tmp_path: Path) -> None:
    items = b'item_id,title\n"a"x,1\nb,\xff\nc,"two\nlines"\nd,Delta\n'
    domain = write_shop(tmp_path, items, "user_id,item_id\nu,c\nu,d\nu,c\n")
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {"malformed line": 1, "broken encoding": 1}
    assert [example["row"] for example in examples] == [2, 3]
    assert skipped(domain, tmp_path)["items"] == 2
    assert Dataset.open(tmp_path / "out")["shop"].contents()[0].title == "two lines"


@pytest.mark.parametrize(
    ("items", "log", "reason"),
    [
        (GOOD_ITEMS.replace("Beta", ""), GOOD_LOG, "item without any text"),
        (GOOD_ITEMS.replace("b,", "b\ufffd,"), GOOD_LOG.replace(",b,", ",b\ufffd,"), "bad item id"),
    ],
    ids=["no text", "bad id"],
)
def test_interactions_of_a_dropped_item_are_counted_under_its_reason(
    items: str, log: str, reason: str, tmp_path: Path
) -> None:
    domain = write_shop(tmp_path, items, log)
    counts, _, _ = report_of(domain, tmp_path)
    assert counts == {reason: 1}
    figures = skipped(domain, tmp_path)
    assert figures["items_lost"]["dropped"] == {reason: 1}
    assert figures["interactions_lost"]["dropped"] == {reason: 2}
    assert figures["interactions"] == 3


def test_items_without_text_pass_where_none_is_needed(tmp_path: Path) -> None:
    domain = write_shop(tmp_path, GOOD_ITEMS.replace("Beta", ""), needs_text=False)
    prepare(parse_config({"domains": [domain]}, "test"), tmp_path / "out")
    assert len(Dataset.open(tmp_path / "out")["shop"].items) == 3


@pytest.mark.parametrize(
    ("contents", "missing"),
    [({"log": "user,item_id\nu,a\n"}, "user_id"), ({"items": "id,title\na,Alpha\n"}, "item_id")],
)
def test_a_missing_column_is_named_with_those_there_are(
    contents: dict[str, str | bytes], missing: str, tmp_path: Path
) -> None:
    counts, examples, _ = report_of(write_shop(tmp_path, **contents), tmp_path)
    assert counts["missing column"] == 1
    found = next(example for example in examples if example["kind"] == "missing column")
    assert found["field"] == missing
    assert "there are" in found["reason"]


def test_a_column_mapped_by_hand_must_be_there(tmp_path: Path) -> None:
    domain = write_shop(tmp_path, map={"items": {"brand": "maker"}})
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts["missing column"] == 1
    assert examples[0]["field"] == "maker"


def test_a_column_name_given_twice_is_ambiguous(tmp_path: Path) -> None:
    counts, examples, _ = report_of(write_shop(tmp_path, "item_id,title,title\na,Alpha,Beta\n"), tmp_path)
    assert counts["malformed line"] == 1
    assert "which one" in examples[0]["reason"]


def test_a_key_that_no_record_has_is_a_missing_column(tmp_path: Path) -> None:
    domain = write_lines(tmp_path, b'{"item_id": "a", "title": "A"}\n', map={"items": {"brand": "maker"}})
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {"missing column": 1}
    assert examples[0]["field"] == "maker"


JSON_LINES = {
    "not JSON": (b"{'item_id': 'd'}", Kind.MALFORMED_LINE, "not JSON"),
    "an array": (b'[{"item_id": "d"}]', Kind.MALFORMED_LINE, "one JSON object a line"),
    "cut off": (b'{"item_id": "d", "ti', Kind.MALFORMED_LINE, "not JSON"),
    "deeply nested": (b'{"item_id": ' + b"[" * 100_000, Kind.MALFORMED_LINE, "not JSON"),
    "invalid UTF-8": (b'{"item_id": "d", "title": "caf\xe9"}', Kind.BROKEN_ENCODING, "offset 62"),
    "half a surrogate pair": (b'{"item_id": "d\\ud800", "title": "D"}', Kind.BROKEN_ENCODING, "surrogate"),
    "a title that is an object": (b'{"item_id": "d", "brand": "x", "title": {}}', Kind.MALFORMED_LINE, "type dict"),
    "NaN": (b'{"item_id": "d", "title": "D", "price": NaN}', Kind.BAD_NUMBER, "NaN"),
    "no id": (b'{"title": "D"}', Kind.MISSING_VALUE, "empty"),
}


@pytest.mark.parametrize("line", JSON_LINES.values(), ids=JSON_LINES.keys())
def test_json_lines_are_checked_one_by_one(line: tuple[bytes, Kind, str], tmp_path: Path) -> None:
    content, kind, reason = line
    good = b'{"item_id": "a", "title": "A"}\n\n'
    domain = write_lines(tmp_path, good + content + b'\n{"item_id": "b", "title": "B"}\n')
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {kind.value: 1}
    assert examples[0]["row"] == 3
    assert reason in examples[0]["reason"]
    figures = skipped(domain, tmp_path)
    assert figures["items_read"] == 3
    assert {"a", "b"} <= set(Dataset.open(tmp_path / "out")["shop"].item_ids)


def test_python_literals_are_data_and_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    lines = f"{{'asin': 'a', 'title': 'A'}}\n__import__('pathlib').Path({str(marker)!r}).touch()\n"
    domain = write_lines(tmp_path, lines.encode()) | {"format": "amazon-2014"}
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {"malformed line": 1}
    assert "neither JSON nor a Python literal" in examples[0]["reason"]
    assert not marker.exists()


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: content[:60] + b"\0" * 40])
def test_a_damaged_gzip_stream_is_reported(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 10**9, 2000)
    packed = gzip.compress("".join(f'{{"item_id": "{row}", "title": "t{row}"}}\n' for row in rows).encode())
    counts, examples, _ = report_of(write_lines(tmp_path, damage(packed)), tmp_path)
    assert counts["malformed line"] >= 1
    assert any("gzip stream breaks off" in example["reason"] for example in examples)


def test_a_parquet_file_with_broken_text_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    table = pl.DataFrame({"item_id": ["a", "MARK"]})
    table.write_parquet(path, compression="uncompressed", statistics=False, use_pyarrow=False)
    content = path.read_bytes()
    assert content.count(b"MARK") == 1
    path.write_bytes(content.replace(b"MARK", b"MA\xffK"))
    domain = {"name": "shop", "format": "parquet", "items": str(tmp_path / "items.parquet")}
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {"broken encoding": 1, "empty domain": 1}
    assert examples[0]["file"] == str(tmp_path / "items.parquet")


def test_a_file_that_is_no_parquet_is_reported(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_text("item_id,title\n")
    domain = {"name": "shop", "format": "parquet", "items": str(tmp_path / "items.parquet")}
    counts, _, _ = report_of(domain, tmp_path)
    assert counts == {"malformed line": 1, "empty domain": 1}


def test_bad_numbers_in_parquet_are_found(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [1, 2, 3], "title": ["A", "B", "C"], "price": [float("nan"), -1.0, 2.0]})
    items.write_parquet(tmp_path / "items.parquet")
    domain = {"name": "shop", "format": "parquet", "items": str(tmp_path / "items.parquet")}
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {"bad number": 2}
    assert [example["row"] for example in examples] == [1, 2]
    assert skipped(domain, tmp_path)["items_lost"]["emptied"] == {"bad number": 2}
    assert Dataset.open(tmp_path / "out")["shop"].items["price"].to_list() == [None, None, 2.0]


def test_an_id_that_was_rounded_is_refused(tmp_path: Path) -> None:
    items = b'{"item_id": 18446744073709551615, "title": "A"}\n{"item_id": 18446744073709551616, "title": "B"}\n'
    domain = write_lines(tmp_path, items)
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts == {"bad number": 1}
    assert (examples[0]["row"], examples[0]["field"]) == (2, "item_id")
    assert "1.8446744073709552e+19 is an id that was rounded" in examples[0]["reason"]
    assert skipped(domain, tmp_path)["items_lost"]["dropped"] == {"bad number": 1}
    assert Dataset.open(tmp_path / "out")["shop"].item_ids == ["18446744073709551615"]


def test_users_are_not_made_one_by_rounding(tmp_path: Path) -> None:
    rows = [{"user_id": 2**70 + user, "item_id": item} for user in range(2) for item in "abc"]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = b"".join(b'{"item_id": "%c", "title": "T"}\n' % item for item in b"abc")
    domain = write_lines(tmp_path, items, interactions=str(tmp_path / "log.jsonl"))
    counts, examples, _ = report_of(domain, tmp_path)
    assert counts["bad number"] == 6
    assert (examples[0]["file"], examples[0]["row"], examples[0]["field"]) == (
        str(tmp_path / "log.jsonl"),
        1,
        "user_id",
    )


def test_an_empty_domain_stops_and_is_left_out_when_skipped(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "empty").mkdir()
    good = write_shop(tmp_path / "good") | {"name": "good"}
    empty = write_shop(tmp_path / "empty", log="user_id,item_id\n")
    config = parse_config({"domains": [good, empty]}, "test")
    with pytest.raises(InvalidInput, match="empty domain"):
        prepare(config, tmp_path / "out")
    figures = prepare(config, tmp_path / "out", skip_bad=True)
    assert figures["domains_left_out"] == ["shop"]
    assert Dataset.open(tmp_path / "out").domains == ("good",)


def test_nothing_left_at_all_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    config = parse_config({"domains": [write_shop(tmp_path, "item_id,title\na,\n")]}, "test")
    with pytest.raises(InvalidInput, match="needs_text = false"):
        prepare(config, tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_failed_run_takes_the_old_dataset_away(tmp_path: Path) -> None:
    prepare(parse_config({"domains": [write_shop(tmp_path)]}, "test"), tmp_path / "out")
    assert Dataset.open(tmp_path / "out").domains == ("shop",)
    report_of(write_shop(tmp_path, GOOD_ITEMS + "a,Again,4\n"), tmp_path)


def test_examples_are_limited_and_counts_are_not(tmp_path: Path) -> None:
    domain = write_shop(tmp_path, log=GOOD_LOG + "u,z,9,5\n" * 50)
    with pytest.raises(InvalidInput):
        prepare(parse_config({"domains": [domain]}, "test"), tmp_path / "out", examples=3)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["problems"]["interaction of an unknown item"] == 50
    assert len(report["domains"]["shop"]["examples"]) == 3


def test_several_interactions_with_one_item_are_kept(tmp_path: Path) -> None:
    domain = write_shop(tmp_path, log=GOOD_LOG + "u,a,0,5\nu,a,0,5\n")
    prepare(parse_config({"domains": [domain]}, "test"), tmp_path / "out")
    data = Dataset.open(tmp_path / "out")["shop"]
    assert [data.item_ids[row] for row in data.history(0)] == list("aaabcab")


lines_strategy = st.lists(
    st.tuples(st.sampled_from(["u", "v", "w", ""]), st.sampled_from("abcdz"), st.sampled_from(["1", "2", "x", ""])),
    max_size=25,
)
items_strategy = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["Title", "", "n/a"])), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(items_strategy, lines_strategy, st.integers(0, 3))
def test_every_row_read_is_kept_or_counted(
    tmp_path: Path, items: list[tuple[str, str]], log: list[tuple[str, str, str]], k_core: int
) -> None:
    domain = write_shop(
        tmp_path,
        "item_id,title\n" + "".join(f"{item},{title}\n" for item, title in items),
        "user_id,item_id,timestamp\n" + "".join(f"{user},{item},{moment}\n" for user, item, moment in log),
        k_core=k_core,
    )
    good = parse_config({"domains": [{**domain, "name": "other", "k_core": 0} | _good(tmp_path), domain]}, "test")
    figures = prepare(good, tmp_path / "out", skip_bad=True)["domains"]["shop"]
    assert figures["items_read"] == len(items)
    assert figures["interactions_read"] == len(log)
    for kind in ("items", "interactions"):
        assert figures[f"{kind}_read"] == figures[kind] + sum(figures[f"{kind}_lost"]["dropped"].values())
    dataset = Dataset.open(tmp_path / "out")
    if "shop" in dataset.domains:
        lengths = np.diff(dataset["shop"].history_starts)
        uses = np.bincount(dataset["shop"].history_items, minlength=figures["items"])
        assert lengths.min() >= k_core
        assert uses.min() >= k_core


def _good(folder: Path) -> dict[str, str]:
    (folder / "good").mkdir(exist_ok=True)
    shop = write_shop(folder / "good")
    return {"items": shop["items"], "interactions": shop["interactions"]}
