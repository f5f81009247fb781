"""A dataset folder written and read back, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.errors import ConfigError, InvalidInput
from service.items import ItemContent
from training.data.dataset import INDEX, Dataset, DomainData, write_domain, write_index


def items_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "title": ["Alpha", None, "Gamma"],
            "brand": [None, "Bee", None],
            "categories": [["x", "y"], [], None],
            "description": [None, None, "third"],
            "price": [1.5, None, None],
        },
        schema_overrides={"categories": pl.List(pl.String)},
    )


def interactions_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["u", "u", "v", "v", "v"],
            "item_id": ["b", "a", "c", "c", "a"],
            "position": [0, 1, 0, 1, 2],
            "timestamp": [1, 2, 3, 4, None],
            "rating": [None, 5.0, 1.0, 2.0, 3.0],
        }
    )


def test_a_written_domain_reads_back(tmp_path: Path) -> None:
    write_index(tmp_path, [write_domain(tmp_path, "letters", items_frame(), interactions_frame())])
    dataset = Dataset.open(tmp_path)
    assert dataset.domains == ("letters",)
    data = dataset["letters"]
    assert data.user_ids == ["u", "v"]
    assert data.item_ids == ["a", "b", "c"]
    assert data.history_items.dtype == np.int32
    assert data.history_items.tolist() == [1, 0, 2, 2, 0]
    assert data.history_starts.dtype == np.int64
    assert data.history_starts.tolist() == [0, 2, 5]
    assert [data.history(user).tolist() for user in range(data.users)] == [[1, 0], [2, 2, 0]]
    assert data.contents() == [
        ItemContent("Alpha", None, ("x", "y"), None, 1.5),
        ItemContent(None, "Bee", (), None, None),
        ItemContent("Gamma", None, (), "third", None),
    ]
    assert dataset["letters"] is data
    assert [domain.name for domain in dataset] == ["letters"]
    assert len(dataset) == 1
    summary = dataset.summaries[0]
    assert (summary.items, summary.users, summary.interactions) == (3, 2, 5)


def test_a_domain_without_interactions_reads_back(tmp_path: Path) -> None:
    write_index(tmp_path, [write_domain(tmp_path, "letters", items_frame(), interactions_frame().clear())])
    data = Dataset.open(tmp_path)["letters"]
    assert data.users == 0
    assert data.history_starts.tolist() == [0]
    assert len(data.history_items) == 0


def test_an_unfinished_folder_does_not_open(tmp_path: Path) -> None:
    write_domain(tmp_path, "letters", items_frame(), interactions_frame())
    with pytest.raises(ConfigError, match="has not finished"):
        Dataset.open(tmp_path)


def test_another_version_does_not_open(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"format": 99, "domains": []}))
    with pytest.raises(ConfigError, match="99"):
        Dataset.open(tmp_path)


def test_an_unknown_domain_is_named(tmp_path: Path) -> None:
    write_index(tmp_path, [write_domain(tmp_path, "letters", items_frame(), interactions_frame())])
    with pytest.raises(ConfigError, match=r"'digits'; there are letters"):
        Dataset.open(tmp_path)["digits"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": [0, 1, 0, 2, 1]}, "positions 0, 1, 2"),
        ({"user_id": ["u", "v", "v", "v", "u"]}, "sorted by user"),
        ({"item_id": ["b", "a", "c", "z", "a"]}, "'z'"),
    ],
)
def test_wrong_tables_are_refused(change: dict[str, list[object]], message: str) -> None:
    wrong = interactions_frame().with_columns(**{name: pl.Series(values) for name, values in change.items()})
    with pytest.raises(InvalidInput, match=message):
        DomainData.from_frames("letters", items_frame(), wrong)


def test_an_item_listed_twice_is_refused() -> None:
    twice = items_frame().with_columns(item_id=pl.Series(["a", "b", "a"]))
    with pytest.raises(InvalidInput, match="'a' is listed twice"):
        DomainData.from_frames("letters", twice, interactions_frame())
