"""The raw Amazon editions of 2014, 2018 and 2023: which keys of their items and reviews hold our fields.

Knows nothing of files.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.data.config import Format
from training.data.records import Rename


@dataclass(frozen=True)
class Edition:
    """Names of one edition's keys.

    Attributes
    ----------
    items, reviews : our name -> name in the source
    features : key of a list of selling points, which is put before the description; None if there is no such key
    timestamp_unit : of a review's timestamp
    literals : items may be written as Python literals
    """

    items: dict[str, str]
    reviews: dict[str, str]
    features: str | None
    timestamp_unit: str
    literals: bool = False


_REVIEWS = {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"}

EDITIONS = {
    Format.AMAZON_2014: Edition(
        items={
            "item_id": "asin",
            "title": "title",
            "brand": "brand",
            "categories": "categories",
            "description": "description",
            "price": "price",
        },
        reviews=_REVIEWS,
        features=None,
        timestamp_unit="s",
        literals=True,
    ),
    Format.AMAZON_2018: Edition(
        items={
            "item_id": "asin",
            "title": "title",
            "brand": "brand",
            "categories": "category",
            "description": "description",
            "price": "price",
        },
        reviews=_REVIEWS,
        features="feature",
        timestamp_unit="s",
    ),
    Format.AMAZON_2023: Edition(
        items={
            "item_id": "parent_asin",
            "title": "title",
            "brand": "store",
            "categories": "categories",
            "description": "description",
            "price": "price",
        },
        reviews={"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"},
        features="features",
        timestamp_unit="ms",
    ),
}


def renaming(names: dict[str, str], features: str | None = None) -> Rename:
    """A function that looks up fields by the source's names and puts selling points, if any, before the description."""

    def rename(record: dict[str, object]) -> dict[str, object]:
        ours = {name: record.get(source) for name, source in names.items()}
        if features is not None and record.get(features):
            ours["description"] = [record[features], ours["description"]]
        return ours

    return rename
