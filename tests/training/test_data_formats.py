"""One and the same small shop, written in every format, prepares to the same dataset."""

import csv
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from service.items import compose_texts
from training.data.configuring import parse_config
from training.data.dataset import Dataset, DomainData
from training.data.prepare import prepare

ITEMS: list[dict[str, Any]] = [
    {
        "item_id": "B01",
        "title": "Kettle & lid",
        "brand": "Acme",
        "categories": ["Kitchen", "Kettles"],
        "description": "Boils water. Quickly.",
        "price": 1299.5,
    },
    {"item_id": "B02", "title": 'The "large" cup', "brand": None, "categories": [], "description": None, "price": None},
    {"item_id": "B03", "title": None, "brand": None, "categories": ["Kitchen"], "description": "Çay", "price": 3.0},
]
# In the order of the file; sorted by time, stably, these are the histories below.
INTERACTIONS: list[tuple[str, str, int, float]] = [
    ("v", "B03", 1_400_000_300, 5.0),
    ("u", "B01", 1_400_000_200, 1.0),
    ("v", "B01", 1_400_000_100, 4.0),
    ("u", "B02", 1_400_000_200, 2.0),
    ("u", "B03", 1_400_000_100, 3.0),
    ("v", "B01", 1_400_000_400, 5.0),
]
HISTORIES = {"v": ["B01", "B03", "B01"], "u": ["B03", "B01", "B02"]}
RATINGS = [4.0, 5.0, 5.0, 3.0, 1.0, 2.0]

Config = dict[str, Any]


def write_json_lines(path: Path, records: list[dict[str, Any]], packed: bool = False) -> str:
    content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    return str(path)


def write_csv(path: Path, header: list[str], rows: list[list[Any]], start: str = "") -> str:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(start)
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def as_parquet(folder: Path) -> Config:
    pl.DataFrame(ITEMS).write_parquet(folder / "i.parquet")
    columns = ["user_id", "item_id", "timestamp", "rating"]
    pl.DataFrame(INTERACTIONS, schema=columns, orient="row").write_parquet(folder / "x.parquet")
    return {"format": "parquet", "items": str(folder / "i.parquet"), "interactions": str(folder / "x.parquet")}


def as_parquet_with_other_types(folder: Path) -> Config:
    items = pl.DataFrame(ITEMS).with_columns(pl.col("categories").list.join("/"), pl.col("price").cast(pl.String))
    items.rename({"title": "name"}).write_parquet(folder / "i.parquet")
    rows = [(user, item, datetime.fromtimestamp(moment, UTC), stars) for user, item, moment, stars in INTERACTIONS]
    columns = ["user_id", "item_id", "timestamp", "rating"]
    pl.DataFrame(rows, schema=columns, orient="row").write_parquet(folder / "x.parquet")
    return {
        "format": "parquet",
        "items": [str(folder / "i.parquet")],
        "interactions": str(folder / "x.parquet"),
        "map": {"items": {"title": "name"}},
        "category_separator": "/",
    }


def as_csv(folder: Path) -> Config:
    items = [
        [
            item["item_id"],
            item["title"],
            item["brand"],
            "|".join(item["categories"]),
            item["description"],
            item["price"],
        ]
        for item in ITEMS
    ]
    header = ["item_id", "title", "brand", "categories", "description", "price"]
    return {
        "format": "csv",
        # Spreadsheets put a byte-order mark before the header.
        "items": write_csv(folder / "i.csv", header, items, start="\ufeff"),
        "interactions": write_csv(
            folder / "x.csv",
            ["rating", "who", "item_id", "when"],
            [
                [stars, user, item, datetime.fromtimestamp(moment, UTC).isoformat()]
                for user, item, moment, stars in INTERACTIONS
            ],
        ),
        "map": {"interactions": {"user_id": "who", "timestamp": "when"}},
    }


def as_json_lines(folder: Path) -> Config:
    half = len(INTERACTIONS) // 2
    parts = [
        [
            {"user_id": user, "asin": item, "timestamp": moment * 1000, "rating": str(stars)}
            for user, item, moment, stars in part
        ]
        for part in (INTERACTIONS[:half], INTERACTIONS[half:])
    ]
    return {
        "format": "jsonl",
        "items": write_json_lines(folder / "i.jsonl", ITEMS, packed=True),
        "interactions": [
            write_json_lines(folder / "x0.jsonl", parts[0]),
            write_json_lines(folder / "x1.jsonl", parts[1], packed=True),
        ],
        "map": {"interactions": {"item_id": "asin"}},
        "timestamp_unit": "ms",
    }


def old_reviews(folder: Path) -> str:
    return write_json_lines(
        folder / "reviews.json.gz",
        [
            {"reviewerID": user, "asin": item, "overall": stars, "unixReviewTime": moment, "reviewText": "..."}
            for user, item, moment, stars in INTERACTIONS
        ],
        packed=True,
    )


def as_amazon_2014(folder: Path) -> Config:
    records = [
        {
            "asin": item["item_id"],
            **({"title": item["title"].replace("&", "&amp;")} if item["title"] else {}),
            **({"brand": item["brand"]} if item["brand"] else {}),
            "categories": [item["categories"], item["categories"][:1]],
            **({"description": item["description"]} if item["description"] else {}),
            **({"price": item["price"]} if item["price"] else {}),
        }
        for item in ITEMS
    ]
    path = folder / "meta.json.gz"
    path.write_bytes(gzip.compress("".join(f"{record!r}\n" for record in records).encode()))
    return {"format": "amazon-2014", "items": str(path), "interactions": old_reviews(folder), "k_core": 0}


def as_amazon_2018(folder: Path) -> Config:
    records = [
        {
            "asin": item["item_id"],
            "title": item["title"] or "",
            "brand": item["brand"] or "",
            "category": [*item["categories"], "</span></span></span>"],
            "feature": ["Boils water."] if item["item_id"] == "B01" else [],
            "description": [(item["description"] or "").removeprefix("Boils water. ")],
            "price": "" if item["price"] is None else f"${item['price']:,.2f}",
        }
        for item in ITEMS
    ]
    items = write_json_lines(folder / "meta.json.gz", records, packed=True)
    return {"format": "amazon-2018", "items": items, "interactions": old_reviews(folder), "k_core": 0}


def as_amazon_2023(folder: Path) -> Config:
    records = [
        {
            "main_category": "Home",
            "parent_asin": item["item_id"],
            "title": item["title"],
            "store": item["brand"],
            "categories": item["categories"],
            "features": ["Boils water."] if item["item_id"] == "B01" else [],
            "description": ["Quickly."] if item["item_id"] == "B01" else [item["description"] or ""],
            "price": item["price"],
            "images": [],
            "details": {"Colour": "red"},
        }
        for item in ITEMS
    ]
    reviews = [
        {"user_id": user, "parent_asin": item, "asin": "B99", "rating": stars, "timestamp": moment * 1000 + 7}
        for user, item, moment, stars in INTERACTIONS
    ]
    return {
        "format": "amazon-2023",
        "items": write_json_lines(folder / "meta.jsonl", records),
        "interactions": write_json_lines(folder / "reviews.jsonl", reviews),
        "k_core": 0,
    }


WRITERS = [
    as_parquet,
    as_parquet_with_other_types,
    as_csv,
    as_json_lines,
    as_amazon_2014,
    as_amazon_2018,
    as_amazon_2023,
]


def prepared(config: Config, folder: Path) -> DomainData:
    prepare(parse_config({"domains": [{"name": "shop", **config}]}, "test"), folder)
    return Dataset.open(folder)["shop"]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_gives_the_same_dataset(write: Callable[[Path], Config], tmp_path: Path) -> None:
    data = prepared(write(tmp_path), tmp_path / "out")
    assert data.items.to_dicts() == ITEMS
    ids = data.item_ids
    assert {user: [ids[row] for row in data.history(number)] for number, user in enumerate(data.user_ids)} == HISTORIES
    assert data.user_ids == ["v", "u"]
    written = pl.read_parquet(tmp_path / "out" / "shop" / "interactions.parquet")
    assert written["timestamp"].to_list() == [1_400_000_000 + offset for offset in (100, 300, 400, 100, 200, 200)]
    assert written["rating"].to_list() == RATINGS
    assert written["position"].to_list() == [0, 1, 2, 0, 1, 2]


def test_a_folder_that_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in[1]").mkdir()
    data = prepared(as_parquet(tmp_path / "in[1]"), tmp_path / "out[1]")
    assert data.items.to_dicts() == ITEMS


def test_positions_come_before_timestamps(tmp_path: Path) -> None:
    rows = [["u", "B01", 2, 10], ["u", "B02", 0, 30], ["u", "B03", 7, 20]]
    config = as_csv(tmp_path) | {
        "interactions": write_csv(tmp_path / "x.csv", ["user_id", "item_id", "position", "timestamp"], rows),
        "map": {},
    }
    data = prepared(config, tmp_path / "out")
    assert [data.item_ids[row] for row in data.history(0)] == ["B02", "B01", "B03"]


def test_without_either_the_order_of_the_file_counts(tmp_path: Path) -> None:
    rows = [["u", "B03"], ["w", "B01"], ["u", "B01"], ["w", "B01"], ["u", "B02"], ["w", "B02"]]
    config = as_csv(tmp_path) | {
        "interactions": write_csv(tmp_path / "x.csv", ["user_id", "item_id"], rows),
        "map": {},
    }
    data = prepared(config, tmp_path / "out")
    assert [data.item_ids[row] for row in data.history_items] == ["B03", "B01", "B02", "B01", "B01", "B02"]


def test_nulls_among_categories_are_dropped(tmp_path: Path) -> None:
    tags = {"a": ["Food", None, "Coffee"], "b": [None], "c": None}
    items = pl.DataFrame(
        list(tags.items()), schema={"item_id": pl.String, "categories": pl.List(pl.String)}, orient="row"
    )
    items.with_columns(title=pl.lit("T")).write_parquet(tmp_path / "items.parquet")
    domain = prepared({"format": "parquet", "items": str(tmp_path / "items.parquet")}, tmp_path / "out")
    assert [item.categories for item in domain.contents()] == [("Food", "Coffee"), (), ()]
    assert compose_texts(domain.contents()) == ["T. Food, Coffee", "T", "T"]


def test_categories_are_sorted_where_their_order_means_nothing(tmp_path: Path) -> None:
    tags = [["a", ["Food", "Coffee & Tea"]], ["b", ["Coffee & Tea", "Food"]], ["c", None]]
    items = pl.DataFrame(tags, schema={"item_id": pl.String, "categories": pl.List(pl.String)}, orient="row")
    items.with_columns(title=pl.lit("Starbucks")).write_parquet(tmp_path / "items.parquet")
    config = {"format": "parquet", "items": str(tmp_path / "items.parquet")}
    as_they_are = prepared(config, tmp_path / "as_they_are").contents()
    sorted_ones = prepared(config | {"sort_categories": True}, tmp_path / "sorted").contents()
    assert [item.categories for item in as_they_are] == [("Food", "Coffee & Tea"), ("Coffee & Tea", "Food"), ()]
    assert [item.categories for item in sorted_ones] == [("Coffee & Tea", "Food"), ("Coffee & Tea", "Food"), ()]


def test_a_catalogue_without_interactions_is_a_domain(tmp_path: Path) -> None:
    config = {key: value for key, value in as_json_lines(tmp_path).items() if key in ("format", "items")}
    data = prepared(config, tmp_path / "out")
    assert data.item_ids == ["B01", "B02", "B03"]
    assert data.users == 0


def test_interactions_without_a_catalogue_name_the_items(tmp_path: Path) -> None:
    config = {"format": "amazon-2014", "interactions": old_reviews(tmp_path), "k_core": 0, "needs_text": False}
    data = prepared(config, tmp_path / "out")
    assert data.item_ids == ["B03", "B01", "B02"]
    assert data.users == 2


def test_the_core_is_kept_and_what_is_outside_is_counted(tmp_path: Path) -> None:
    loner = ("w", "B02", 1_400_000_000, 1.0)
    reviews = [
        {"reviewerID": user, "asin": item, "overall": stars, "unixReviewTime": moment}
        for user, item, moment, stars in [*INTERACTIONS, loner]
    ]
    config = as_amazon_2018(tmp_path) | {
        "interactions": write_json_lines(tmp_path / "more.json", reviews),
        "k_core": 2,
    }
    figures = prepare(parse_config({"domains": [{"name": "shop", **config}]}, "test"), tmp_path / "out")
    # w has one interaction, B02 then has one, and u is left with two.
    shop = figures["domains"]["shop"]
    assert (shop["users"], shop["items"], shop["interactions"]) == (2, 2, 5)
    assert shop["interactions_lost"]["dropped"] == {"outside the k-core": 2}
    assert shop["items_lost"]["dropped"] == {"outside the k-core": 1}
    assert figures["notices"] == {"user with too short a history": 2}
    assert figures["problems"] == {}


def test_moments_of_parquet_keep_their_order_below_a_millisecond(tmp_path: Path) -> None:
    moments = pl.Series("timestamp", [3, 1, 2]).cast(pl.Datetime("us"))
    log = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": moments})
    log.write_parquet(tmp_path / "x.parquet")
    domain = {"name": "shop", "format": "parquet", "interactions": str(tmp_path / "x.parquet"), "needs_text": False}
    prepare(parse_config({"domains": [domain]}, "test"), tmp_path / "out")
    shop = Dataset.open(tmp_path / "out")["shop"]
    assert [shop.item_ids[row] for row in shop.history(0)] == ["b", "c", "a"]
