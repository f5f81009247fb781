"""Records to items: what is read how, and what each kind of bad row is told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from service.backfill.reading import Record
from service.backfill.rows import Kind, Rejection, Row, RowReader, read_mapping
from service.errors import ConfigError
from service.http.requests import ItemToTokenize

READER = RowReader(read_mapping([]), width=3)


def read(**fields: Any) -> Row:
    row = READER.read(Record(7, fields))
    assert isinstance(row, Row), row
    return row


def rejected(**fields: Any) -> Rejection:
    rejection = READER.read(Record(7, fields))
    assert isinstance(rejection, Rejection), rejection
    assert rejection.row == 7
    return rejection


def test_every_field_is_read() -> None:
    row = read(
        item_id="a", title="T", brand="B", categories=["x", "y", "x"], description="D", price="1.5", other=object()
    )
    assert (row.row, row.item_id, row.text, row.embedding) == (7, "a", "T. B. x, y. D", None)
    assert (row.content.title, row.content.categories, row.content.price) == ("T", ("x", "y"), 1.5)


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        ("a| b |a||", ("a", "b")),
        ([["a", "b"], ["a", " c"]], ("a", "b", "c")),
        (["a", None, "", 7], ("a", "7")),
        (None, ()),
        (math.nan, ()),
    ],
)
def test_categories_come_in_many_shapes(categories: Any, expected: tuple[str, ...]) -> None:
    assert read(item_id="a", title="T", categories=categories).content.categories == expected


def test_a_file_and_a_request_give_the_same_content() -> None:
    fields = {"item_id": "a", "title": " T ", "categories": ["x ", "", "y  z", "x", "y z"], "description": "D"}
    asked = ItemToTokenize.model_validate({"domain": "d", **fields}).item_input("d", "a")
    assert read(**fields).content == asked.content
    assert asked.content.categories == ("x", "y z")


def test_numbers_and_lists_are_read_as_text() -> None:
    row = read(item_id=12, title=None, description=["one", None, "two"], price="")
    assert (row.item_id, row.content.title, row.text, row.content.price) == ("12", None, "one two", None)


@pytest.mark.parametrize(
    ("price", "expected"), [(0, 0.0), ("0", 0.0), (" 12.5 ", 12.5), (None, None), ("", None), ("nan", None)]
)
def test_prices_are_read_as_numbers_or_nothing(price: Any, expected: float | None) -> None:
    assert read(item_id="a", title="T", price=price).content.price == expected


@pytest.mark.parametrize("embedding", [[1, 2.5, -3], "[1, 2.5, -3]"])
def test_an_embedding_stands_in_for_text(embedding: Any) -> None:
    row = read(item_id="a", embedding=embedding)
    assert row.embedding is not None
    assert row.embedding.dtype == np.float32
    assert row.embedding.tolist() == [1, 2.5, -3]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("fields", "kind", "field", "reason"),
    [
        ({"title": "T"}, Kind.BAD_ITEM_ID, "item_id", "is missing"),
        ({"item_id": "", "title": "T"}, Kind.BAD_ITEM_ID, "item_id", "is missing"),
        ({"item_id": "x" * 257, "title": "T"}, Kind.BAD_ITEM_ID, "item_id", "257 characters"),
        ({"item_id": "a\nb", "title": "T"}, Kind.BAD_ITEM_ID, "item_id", "control"),
        ({"item_id": 2.0**64, "title": "T"}, Kind.BAD_ITEM_ID, "item_id", "rounded to a float"),
        ({"item_id": "a"}, Kind.NO_TEXT, None, "neither an embedding nor text"),
        ({"item_id": "a", "title": " \t", "price": 3}, Kind.NO_TEXT, None, "neither"),
        ({"item_id": "a", "title": {"en": "x"}}, Kind.BAD_VALUE, "title", "type dict"),
        ({"item_id": True, "title": "T"}, Kind.BAD_VALUE, "item_id", "type bool"),
        ({"item_id": "a", "title": "T", "price": "cheap"}, Kind.BAD_VALUE, "price", "'cheap' is no number"),
        ({"item_id": "a", "title": "ab\udcff"}, Kind.BROKEN_ENCODING, "title", "character 3"),
        ({"item_id": "a", "embedding": [1, 2]}, Kind.BAD_EMBEDDING, "embedding", r"shape [2], but the bundle's"),
        ({"item_id": "a", "embedding": [1, 2, math.nan]}, Kind.BAD_EMBEDDING, "embedding", "number 3 of 3"),
        ({"item_id": "a", "embedding": [1e300, 2, 3]}, Kind.BAD_EMBEDDING, "embedding", "number 1 of 3"),
        ({"item_id": "a", "embedding": [1, -2e6, 3]}, Kind.BAD_EMBEDDING, "embedding", "-2e+06, but must lie within"),
        ({"item_id": "a", "embedding": [10**400, 2, 3]}, Kind.BAD_EMBEDDING, "embedding", "larger than a 64-bit"),
        ({"item_id": "a", "embedding": "[" * 100_000}, Kind.BAD_VALUE, "embedding", "nested too deeply"),
        ({"item_id": "a", "title": nested(100_000)}, Kind.BAD_VALUE, "title", "nested too deeply"),
        ({"item_id": "a", "title": "T", "categories": nested(100_000)}, Kind.BAD_VALUE, "categories", "nested"),
        ({"item_id": "a", "title": "T", "price": nested(100_000)}, Kind.BAD_VALUE, "price", "nested too deeply"),
        ({"item_id": "a", "title": "T", "price": "1_000"}, Kind.BAD_VALUE, "price", "'1_000' is no number"),
        ({"item_id": "a", "title": "T", "price": True}, Kind.BAD_VALUE, "price", "True is no number"),
        ({"item_id": "a", "title": "T", "price": -5}, Kind.BAD_VALUE, "price", "-5 is no price; the least is 0"),
        ({"item_id": "a", "title": "T", "price": "-inf"}, Kind.BAD_VALUE, "price", "'-inf' is no price"),
        ({"item_id": "a", "title": "T", "price": "1e400"}, Kind.BAD_VALUE, "price", "larger than a 64-bit float"),
        ({"item_id": "a", "title": "T", "price": math.inf}, Kind.BAD_VALUE, "price", "larger than a 64-bit float"),
        ({"item_id": "a", "embedding": [0, 0.0, -0.0]}, Kind.BAD_EMBEDDING, "embedding", "is zero in every number"),
        ({"item_id": "a", "embedding": [0, 1e-60, 0]}, Kind.BAD_EMBEDDING, "embedding", "is zero in every number"),
        ({"item_id": "a", "title": "T", "price": 10**400}, Kind.BAD_VALUE, "price", "larger than a 64-bit float"),
        ({"item_id": "\u65e5" * 171, "title": "T"}, Kind.BAD_ITEM_ID, "item_id", "513 bytes in UTF-8, but at most 512"),
        ({"item_id": "a", "embedding": [[1, 2, 3]]}, Kind.BAD_EMBEDDING, "embedding", "shape [1, 3]"),
        ({"item_id": "a", "embedding": [[1], [2, 3]]}, Kind.BAD_EMBEDDING, "embedding", "no list of numbers"),
        ({"item_id": "a", "embedding": ["x", 2, 3]}, Kind.BAD_EMBEDDING, "embedding", "no list of numbers"),
        ({"item_id": "a", "embedding": "[1, 2"}, Kind.BAD_EMBEDDING, "embedding", "no list of numbers"),
        ({"item_id": "a", "embedding": {"x": 1}}, Kind.BAD_EMBEDDING, "embedding", "no list of numbers"),
    ],
)
def test_a_bad_row_names_field_and_reason(fields: dict[str, Any], kind: Kind, field: str | None, reason: str) -> None:
    rejection = rejected(**fields)
    assert (rejection.kind, rejection.field) == (kind, field)
    assert reason in rejection.reason
    assert str(rejection).startswith("row 7")


def test_a_record_that_could_not_be_read_is_rejected() -> None:
    rejection = READER.read(Record(9, {}, "not JSON"))
    assert rejection == Rejection(Kind.MALFORMED_ROW, 9, None, "not JSON")


def test_columns_are_renamed_and_messages_use_the_name_in_the_file() -> None:
    columns = read_mapping(["item_id=asin", "title=name=x"])
    assert (columns["item_id"], columns["title"], columns["brand"]) == ("asin", "name=x", "brand")
    reader = RowReader(columns, width=3)
    row = reader.read(Record(1, {"asin": "a", "name=x": "T", "title": "ignored"}))
    assert isinstance(row, Row)
    assert (row.item_id, row.content.title) == ("a", "T")
    rejection = reader.read(Record(1, {"item_id": "a", "name=x": "T"}))
    assert isinstance(rejection, Rejection)
    assert rejection.field == "asin"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["asin"], "FIELD=COLUMN"),
        (["item_id="], "FIELD=COLUMN"),
        (["id=asin"], "item_id, title"),
        (["title=a", "title=b"], "mapped already, to a"),
    ],
)
def test_a_wrong_mapping_is_refused(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_mapping(pairs)


@pytest.mark.parametrize("item_id", ["é" * 256, "日" * 170 + "ab"])
def test_an_item_id_may_have_512_bytes(item_id: str) -> None:
    assert isinstance(READER.read(Record(1, {"item_id": item_id, "title": "t"})), Row)
