"""What makes a folder complete has its name only when all that it announces is on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from training.data.dataset import INDEX, INTERACTION_SCHEMA, ITEM_SCHEMA, write_domain, write_index
from training.encoders.folder import CARD, MODEL, TOKENIZER, write_card
from training.export.bundle import _put_in_place

SAMPLE = Path(__file__).parents[2] / "models" / "sample"


def dataset(out: Path) -> Path:
    items = pl.DataFrame({"item_id": ["a"]}).with_columns(
        pl.lit(None, dtype).alias(name) for name, dtype in ITEM_SCHEMA.items() if name != "item_id"
    )
    write_index(out, [write_domain(out, "letters", items, INTERACTION_SCHEMA.to_frame())])
    return out / INDEX


def encoder(out: Path) -> Path:
    for name in (MODEL, TOKENIZER):
        shutil.copy(SAMPLE / name, out)
    write_card(out, "sample", 8)
    return out / CARD


def bundle(out: Path) -> Path:
    (out / ".b.partial" / "catalogue").mkdir(parents=True)
    for name in ("manifest.json", "catalogue/items.parquet"):
        (out / ".b.partial" / name).touch()
    _put_in_place(out / ".b.partial", out / "b")
    return out / "b"


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, set[str]]]:
    """What the disk was told of, by number, and what the test's folder held by then."""
    told: list[tuple[int, set[str]]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        told.append((os.fstat(descriptor).st_ino, {path.name for path in tmp_path.iterdir()}))

    monkeypatch.setattr(os, "fsync", noted)
    return told


@pytest.mark.parametrize("write", [dataset, encoder, bundle])
def test_what_is_announced_is_on_the_disk_first(
    tmp_path: Path, synced: list[tuple[int, set[str]]], write: Callable[[Path], Path]
) -> None:
    announcing = write(tmp_path)
    before = {number for number, there in synced if announcing.name not in there}
    announced = [path for path in tmp_path.rglob("*") if path.is_file() and path != announcing]
    assert len(announced) == 2
    assert [path.name for path in announced if path.stat().st_ino not in before] == []
    assert synced[-1][0] == tmp_path.stat().st_ino


def test_a_bundle_is_deleted_when_its_successor_is_on_the_disk(
    tmp_path: Path, synced: list[tuple[int, set[str]]]
) -> None:
    (tmp_path / "b").mkdir()
    bundle(tmp_path)
    assert [there for _, there in synced] == [{"b", ".b.partial"}] * 4 + [{"b", ".b.old"}]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
