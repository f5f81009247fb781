"""`ids.parquet`: what cannot be used is refused with its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from service.errors import ConfigError
from training.ids.table import IDS, DomainIds, read_ids, write_ids


def change_column(path: Path, *columns: pl.Expr) -> None:
    pl.read_parquet(path).with_columns(*columns).write_parquet(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def without_experts(path: Path) -> None:
    pl.read_parquet(path).drop("experts").write_parquet(path)


def uneven_codes(path: Path) -> None:
    change_column(path, pl.Series("codes", [[1, 2], [3], [4, 5]]))


def codes_that_are_texts(path: Path) -> None:
    change_column(path, pl.Series("codes", [["a", "b"]] * 3))


def some_ids() -> DomainIds:
    return DomainIds(
        "films",
        ("a", "b", "c"),
        np.asarray([[1, 2], [3, 4], [5, 6]], dtype=np.int32),
        np.asarray([[0], [1], [0]], dtype=np.int32),
        np.asarray([0, 0, 1], dtype=np.int32),
    )


def test_a_folder_that_looks_like_a_pattern_is_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]"
    folder.mkdir()
    write_ids(folder, [some_ids()])
    assert read_ids(folder)["films"].codes.tolist() == some_ids().codes.tolist()


@pytest.mark.parametrize("damage", [cut, without_experts, uneven_codes, codes_that_are_texts])
def test_a_broken_file_is_refused_with_its_path(damage: Callable[[Path], None], tmp_path: Path) -> None:
    whole = some_ids()
    write_ids(tmp_path, [whole])
    assert read_ids(tmp_path)["films"].codes.tolist() == whole.codes.tolist()
    damage(tmp_path / IDS)
    with pytest.raises(ConfigError, match=r"ids\.parquet: not the IDs that `unitok train-tokenizer` writes: "):
        read_ids(tmp_path)
