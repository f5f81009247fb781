"""Single values and texts of foreign records."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.cleaning import clean_categories, clean_text, clean_title
from training.data.report import Kind
from training.data.values import (
    BadValue,
    as_categories,
    as_listed_price,
    as_milliseconds,
    as_number,
    as_price,
    as_text,
    shown,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "plain"),
        ("", ""),
        (None, None),
        (float("nan"), None),
        (12, "12"),
        (2.5, "2.5"),
        ([], ""),
        (["one", None, "", "two"], "one two"),
        ([["feature one", "feature two"], "description"], "feature one feature two description"),
        ([["feature"], None], "feature"),
    ],
)
def test_as_text(value: object, text: str | None) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize(("value", "kind"), [({"a": 1}, Kind.MALFORMED_LINE), (True, Kind.MALFORMED_LINE)])
def test_as_text_refuses_other_types(value: object, kind: Kind) -> None:
    with pytest.raises(BadValue, match="text is expected") as caught:
        as_text(value)
    assert caught.value.kind is kind


def test_as_text_refuses_half_a_surrogate_pair() -> None:
    with pytest.raises(BadValue, match="character 2") as caught:
        as_text("ab\ud800")
    assert caught.value.kind is Kind.BROKEN_ENCODING


@pytest.mark.parametrize(
    ("value", "categories"),
    [
        (None, []),
        ("", []),
        ("Toys | Games|Toys", ["Toys", "Games"]),
        (["Toys", "Games", "Toys", "", None], ["Toys", "Games"]),
        ([["Toys", "Games"], ["Toys", "Cards"]], ["Toys", "Games", "Cards"]),
    ],
)
def test_as_categories(value: object, categories: list[str]) -> None:
    assert as_categories("|")(value) == categories


def test_categories_without_a_separator_stay_whole() -> None:
    assert as_categories(None)("Toys | Games") == ["Toys | Games"]


@pytest.mark.parametrize(
    ("value", "price"),
    [(None, None), ("", None), (3, 3.0), ("12.5", 12.5), ("$1,299.00", 1299.0), ("€ 7", 7.0), ("1e3", 1000.0)],
)
def test_as_price(value: object, price: float | None) -> None:
    assert as_price(value) == price


@pytest.mark.parametrize("value", ["12,99", "1,29,9", "$", "free", [1.0], True])
def test_as_price_does_not_guess(value: object) -> None:
    with pytest.raises(BadValue, match="not a number") as caught:
        as_price(value)
    assert not caught.value.notice


@pytest.mark.parametrize(
    ("value", "price"), [("$10.00 - $24.99", 10.0), ("from 12.99", 12.99), ("—", None), (4.5, 4.5), ("", None)]
)
def test_as_listed_price(value: object, price: float | None) -> None:
    assert as_listed_price(value) == price


@pytest.mark.parametrize("value", [".a-box-inner{background-color:#fff}", float("nan"), -1.0, "inf"])
def test_what_stands_where_a_listed_price_should_is_only_noted(value: object) -> None:
    with pytest.raises(BadValue) as caught:
        as_listed_price(value)
    assert caught.value.notice


@given(st.floats(allow_nan=False))
def test_numbers_written_as_text_are_numbers(number: float) -> None:
    assert as_number(repr(number)) == number


def test_a_number_too_large_for_a_float_is_refused() -> None:
    with pytest.raises(BadValue):
        as_number(10**400)


@pytest.mark.parametrize(
    ("unit", "value", "milliseconds"),
    [
        ("s", 1_393_545_600, 1_393_545_600_000.0),
        ("s", "1393545600", 1_393_545_600_000.0),
        ("ms", 1_393_545_600_123, 1_393_545_600_123.0),
        # ISO 8601 without dashes would read these digits as the 10th of October 1210, 23:45.
        ("ms", "1210101012345", 1_210_101_012_345.0),
        ("s", "2014-02-28", 1_393_545_600_000.0),
        ("ms", "2014-02-28 00:00:01.5", 1_393_545_601_500.0),
        ("s", "2014-02-28T02:00:00+02:00", 1_393_545_600_000.0),
        ("s", date(2014, 2, 28), 1_393_545_600_000.0),
        ("s", datetime(2014, 2, 28), 1_393_545_600_000.0),
        ("s", datetime(2014, 2, 28, tzinfo=UTC), 1_393_545_600_000.0),
        ("s", None, None),
        ("s", "", None),
    ],
)
def test_as_milliseconds(unit: str, value: object, milliseconds: float | None) -> None:
    assert as_milliseconds(unit)(value) == milliseconds


@pytest.mark.parametrize("value", ["yesterday", "2014-13-01", [1], {"t": 1}])
def test_as_milliseconds_refuses_other_things(value: object) -> None:
    with pytest.raises(BadValue) as caught:
        as_milliseconds("s")(value)
    assert caught.value.kind is Kind.BAD_NUMBER


def test_shown_values_are_cut() -> None:
    assert shown("short") == "'short'"
    assert len(shown("x" * 1000)) == 40


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (None, None),
        ("  \n ", None),
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "Salt & Pepper"),
        ("<b>Bold</b><br/>next <i>line</i>", "Bold next line"),
        ("H<sub>2</sub>O", "H2O"),
        ("a<!-- hidden --><script>var x = '<b>';</script><style>p {}</style>b", "a b"),
        ("&lt;p&gt;escaped&lt;/p&gt;", "escaped"),
        ("3 < 4 and 5 > 4", "3 < 4 and 5 > 4"),
        ("I <3 you", "I <3 you"),
        ("two\t\nlines", "two lines"),
    ],
)
def test_clean_text(text: str | None, clean: str | None) -> None:
    assert clean_text(text) == clean


@pytest.mark.parametrize("title", ["NaN", "none", " n/a ", "---", "???", "<b></b>", "var aPageStart = 1;", "", None])
def test_placeholder_titles_are_dropped(title: str | None) -> None:
    assert clean_title(title) is None


@pytest.mark.parametrize("title", ["!!!", "1984", "Untitled", "Nan Goldin", "$"])
def test_odd_titles_are_kept(title: str) -> None:
    assert clean_title(title) == title


def test_clean_categories() -> None:
    assert clean_categories(["A &amp; B", "</span></span>", "A & B", "C"]) == ["A & B", "C"]
    assert clean_categories(None) == []
