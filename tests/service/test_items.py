"""The recipe from content to text: training and serving both depend on every character of it."""

from __future__ import annotations

from service.items import ItemContent, compose_text, content_hash, distinct_categories


def test_fields_are_joined_in_order_and_whitespace_folded() -> None:
    content = ItemContent(title=" Brass \n lamp", brand="Acme", categories=("Home", "Light"), description="Warm\tlight")
    assert compose_text(content) == "Brass lamp. Acme. Home, Light. Warm light"


def test_absent_fields_leave_no_trace() -> None:
    assert compose_text(ItemContent(categories=("Home",))) == "Home"
    assert compose_text(ItemContent(title="   ")) == ""


def test_categories_are_distinct_and_not_empty() -> None:
    assert distinct_categories([" Toys ", "", "Kids", "Toys", "\t", "Garden  tools", "Garden tools"]) == (
        "Toys",
        "Kids",
        "Garden tools",
    )


def test_only_the_first_600_characters_of_a_description_count() -> None:
    long, longer = ("x" * length for length in (600, 900))
    assert compose_text(ItemContent(description=long)) == compose_text(ItemContent(description=longer))


def test_equal_text_has_an_equal_hash_and_any_string_can_be_hashed() -> None:
    assert content_hash("a") == content_hash("a") != content_hash("b")
    assert len(content_hash("\ud800")) == 64
