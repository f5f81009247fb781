"""The stage `embed`: rows in the order of the items, each text once, resumable, wrong vectors named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from tiny_encoder import WIDTH, WORDS, write_tiny_encoder
from tokenizer_planted import small
from typer import Typer
from typer.testing import CliRunner

import training.embed
from service.engine.text_encoder import TextEncoder
from service.errors import ConfigError, InvalidInput
from service.items import compose_texts
from training.commands.embed import embed
from training.data.dataset import INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset, write_domain, write_index
from training.embed import embed_precomputed, embed_texts
from training.encoders.cache import VectorCache
from training.encoders.folder import open_encoder
from training.encoders.sentence_encoder import export_sentence_encoder
from training.encoders.vectors import (
    ITEMS_DIGESTS,
    digest_file,
    domain_vectors,
    read_vectors,
    texts_file,
    vectors_file,
)
from training.stage import FIGURES, read_figures
from training.tokenizer.stage import train_tokenizer


def write_dataset(folder: Path, titles: dict[str, Sequence[str | None]]) -> Dataset:
    """A dataset with one item a title and no interactions."""
    summaries = []
    for name, listed in titles.items():
        rows = [{"item_id": f"{name}-{row}", "title": title} for row, title in enumerate(listed)]
        items = pl.DataFrame(rows, schema=ITEM_SCHEMA)
        summaries.append(write_domain(folder, name, items, pl.DataFrame(schema=INTERACTION_SCHEMA)))
    write_index(folder, summaries)
    return Dataset.open(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported encoder, which `embed` takes over as it is."""
    folder = tmp_path_factory.mktemp("encoder")
    export_sentence_encoder(write_tiny_encoder(folder / "source"), folder / "exported", 16)
    return folder / "exported"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    pens = [" ".join(WORDS[: 1 + row % 7]) for row in range(30)]
    return write_dataset(tmp_path / "dataset", {"pens": pens, "lamps": ["red lamp", "the", "red lamp"]})


def test_every_item_gets_the_vector_of_its_text(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    figures = embed_texts(dataset, tmp_path / "out", str(encoder))
    model = open_encoder(tmp_path / "out" / "encoder")
    for data in dataset:
        vectors = read_vectors(vectors_file(tmp_path / "out", data.name), data.item_ids)
        assert vectors.dtype == np.float32
        expected = [model.encode([text])[0] for text in compose_texts(data.contents())]
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert figures == read_figures(tmp_path / "out")
    assert (figures["items"], figures["texts_encoded"], figures["width"]) == (33, 8, WIDTH)
    assert not list((tmp_path / "out").glob("*.partial"))


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_killed_run_goes_on_where_it_stopped(
    dataset: Dataset, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_texts(dataset, tmp_path / "whole", str(encoder))
    encode = TextEncoder.encode
    seen: list[str] = []

    def counting(self: TextEncoder, texts: Sequence[str], *rest: Any) -> NDArray[np.float32]:
        if len(seen) >= 5:
            raise Killed
        seen.extend(texts)
        return encode(self, texts, *rest)

    monkeypatch.setattr(training.embed, "CHUNK", 3)
    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "encode", counting)
        with pytest.raises(Killed):
            embed_texts(dataset, tmp_path / "out", str(encoder))
    assert not (tmp_path / "out" / "figures.json").exists()
    assert not (tmp_path / "out" / "pens.npy").exists()
    figures = embed_texts(dataset, tmp_path / "out", str(encoder))
    assert figures["texts_encoded"] == 8 - len(seen)
    for name in dataset.domains:
        np.testing.assert_allclose(
            np.load(tmp_path / "out" / f"{name}.npy"), np.load(tmp_path / "whole" / f"{name}.npy"), atol=1e-6
        )


def test_a_shared_cache_spares_a_second_run(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "shared" / "cache.sqlite"
    embed_texts(dataset, tmp_path / "first", str(encoder), cache=cache)
    again = embed_texts(dataset, tmp_path / "second", str(encoder), cache=cache)
    assert again["texts_encoded"] == 0
    other = embed_texts(dataset, tmp_path / "third", str(encoder), cache=cache, max_tokens=8)
    assert other["texts_encoded"] == 8  # another limit is another encoder
    assert not (tmp_path / "first" / "cache.sqlite").exists()


def test_the_cache_holds_what_was_put_by_encoder(tmp_path: Path) -> None:
    vector = np.arange(4, dtype=np.float32)
    with VectorCache(tmp_path / "c.sqlite", "one", 4) as cache:
        cache.put({"a": vector})
    with VectorCache(tmp_path / "c.sqlite", "one", 4) as cache:
        found = cache.get(["b", "a", *(f"x{number}" for number in range(1200))])
        assert list(found) == ["a"]
        np.testing.assert_array_equal(found["a"], vector)
    with VectorCache(tmp_path / "c.sqlite", "two", 4) as cache:
        assert cache.get(["a"]) == {}
    with VectorCache(tmp_path / "c.sqlite", "one", 5) as cache, pytest.raises(ConfigError, match="has 16 bytes"):
        cache.get(["a"])


def test_a_file_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no database " * 100)
    with pytest.raises(ConfigError, match=r"notes\.txt: cannot be used as an embedding cache"):
        VectorCache(path, "one", 4)
    assert path.read_text().startswith("no database")


def test_an_item_without_text_is_named(encoder: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"pens": ["red pen", None, " "]})
    with pytest.raises(InvalidInput, match=r"pens: row 1 \(item 'pens-1'\) has no title.*and so do 1 more"):
        embed_texts(dataset, tmp_path / "out", str(encoder))


def vectors_of(dataset: Dataset, width: int = 5) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    return {data.name: generator.normal(size=(len(data.items), width)).astype(np.float32) for data in dataset}


def write_vectors(folder: Path, dataset: Dataset, vectors: dict[str, NDArray[np.float32]]) -> Path:
    """Pens as `.npy`; lamps as Parquet, rows shuffled."""
    folder.mkdir()
    np.save(folder / "pens.npy", vectors["pens"].astype(np.float64))
    order = [2, 0, 1]
    pl.DataFrame(
        {
            "item_id": [dataset["lamps"].item_ids[row] for row in order],
            "embedding": [vectors["lamps"][row].tolist() for row in order],
        }
    ).write_parquet(folder / "lamps.parquet")
    return folder


def test_vectors_computed_elsewhere_come_in_the_order_of_the_items(dataset: Dataset, tmp_path: Path) -> None:
    vectors = vectors_of(dataset)
    figures = embed_precomputed(dataset, tmp_path / "out", write_vectors(tmp_path / "given[1]", dataset, vectors))
    for data in dataset:
        np.testing.assert_array_equal(
            read_vectors(vectors_file(tmp_path / "out", data.name), data.item_ids), vectors[data.name]
        )
    assert (figures["width"], figures["precomputed"], figures["encoder"]) == (5, True, None)
    assert not (tmp_path / "out" / "encoder").exists()


def test_vectors_of_other_items_are_refused(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    embed_texts(dataset, out, str(encoder))
    name = dataset.summaries[0].name
    item_ids = list(dataset[name].item_ids)
    assert len(read_vectors(vectors_file(out, name), item_ids)) == len(item_ids)
    with pytest.raises(InvalidInput, match="other items, or in another order"):
        read_vectors(vectors_file(out, name), item_ids[::-1])
    digest_file(vectors_file(out, name)).unlink()
    assert len(read_vectors(vectors_file(out, name), item_ids[::-1])) == len(item_ids), "nothing is known of them"


def test_digests_in_figures_of_before_still_count(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    figures = embed_texts(dataset, out, str(encoder))
    known = {}
    for name in dataset.domains:
        beside = digest_file(vectors_file(out, name))
        known[name] = beside.read_text().strip()
        beside.unlink()
    (out / FIGURES).write_text(json.dumps({**figures, ITEMS_DIGESTS: known}))
    item_ids = list(dataset["pens"].item_ids)
    assert len(read_vectors(vectors_file(out, "pens"), item_ids)) == len(item_ids)
    with pytest.raises(InvalidInput, match="other items, or in another order"):
        read_vectors(vectors_file(out, "pens"), item_ids[::-1])


def test_vectors_of_other_texts_are_refused(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    """Items that were prepared anew may have the same ids, in the same order, and say something else."""
    out = tmp_path / "out"
    embed_texts(dataset, out, str(encoder))
    renamed = write_dataset(tmp_path / "renamed", {"pens": ["red pen"] * 30, "lamps": ["red lamp", "the", "red lamp"]})
    assert renamed["pens"].item_ids == dataset["pens"].item_ids
    with pytest.raises(InvalidInput, match=r"pens\.npy: was computed from other texts of these items; run `unitok emb"):
        domain_vectors(out, renamed["pens"])
    for data in (dataset["pens"], renamed["lamps"]):
        np.testing.assert_array_equal(domain_vectors(out, data), np.load(out / f"{data.name}.npy"))
    # No stage takes them, nor may they be handed to `embed` as if they came from elsewhere.
    with pytest.raises(InvalidInput, match="other texts"):
        train_tokenizer(renamed.folder, out, tmp_path / "tokenizer", small())
    with pytest.raises(InvalidInput, match="other texts"):
        embed_precomputed(renamed, tmp_path / "taken", out)

    # Embeddings of before do not say which texts they are of, and vectors from elsewhere are of none.
    texts_file(out / "pens.npy").unlink()
    assert len(domain_vectors(out, renamed["pens"])) == 30
    embed_precomputed(dataset, out, write_vectors(tmp_path / "given", dataset, vectors_of(dataset)))
    assert len(domain_vectors(out, write_dataset(tmp_path / "other", {"lamps": ["a", "b", "c"]})["lamps"])) == 3


def test_a_killed_run_leaves_no_vectors_of_other_rows(
    dataset: Dataset, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of the run before it, nor its own once the rows have changed again."""
    out = tmp_path / "out"
    embed_texts(dataset, out, str(encoder))
    for name in dataset.domains:  # as embeddings of before are
        digest_file(vectors_file(out, name)).unlink()

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training.embed, "prepare_encoder", killed)
        with pytest.raises(Killed):
            embed_texts(dataset, out, str(encoder))
    with pytest.raises(InvalidInput, match="no such file"):
        read_vectors(vectors_file(out, "lamps"), dataset["lamps"].item_ids)

    encode = TextEncoder.encode

    def until_pens(self: TextEncoder, texts: Sequence[str], *rest: Any) -> NDArray[np.float32]:
        if (out / "lamps.npy").exists():
            raise Killed
        return encode(self, texts, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "encode", until_pens)
        with pytest.raises(Killed):
            embed_texts(dataset, out, str(encoder), cache=tmp_path / "empty.sqlite")
    item_ids = list(dataset["lamps"].item_ids)
    assert len(read_vectors(vectors_file(out, "lamps"), item_ids)) == len(item_ids)
    with pytest.raises(InvalidInput, match="other items, or in another order"):
        read_vectors(vectors_file(out, "lamps"), item_ids[::-1])


def test_an_encoder_beside_given_vectors_must_have_their_width(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    given = write_vectors(tmp_path / "given", dataset, vectors_of(dataset))
    with pytest.raises(InvalidInput, match=f"pens.npy: vectors have width 5, but must have {WIDTH}"):
        embed_precomputed(dataset, tmp_path / "out", given, str(encoder))
    fitting = write_vectors(tmp_path / "fitting", dataset, vectors_of(dataset, WIDTH))
    embed_precomputed(dataset, tmp_path / "out", fitting, str(encoder))
    assert open_encoder(tmp_path / "out" / "encoder").width == WIDTH


def parquet(**columns: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(columns, strict=False)


ONE = [1.0, 2.0, 3.0, 4.0, 5.0]
LAMPS = ["lamps-0", "lamps-1", "lamps-2"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (parquet(item_id=LAMPS[:2], embedding=[ONE, ONE]), r"item 'lamps-2' has no vector \(1 items have none\)"),
        (parquet(item_id=[*LAMPS, "lamps-9"], embedding=[ONE] * 4), "row 3: item 'lamps-9' is not among the domain's"),
        (parquet(item_id=[*LAMPS, "lamps-0"], embedding=[ONE] * 4), "row 3: item 'lamps-0' has two vectors"),
        (
            parquet(item_id=LAMPS, embedding=[ONE, ONE[:3], ONE]),
            "row 1: the vector of item 'lamps-1' has 3 numbers, but must have 5 as most have",
        ),
        (
            parquet(item_id=LAMPS, embedding=[ONE, ONE, [1.0, float("nan"), 1.0, 1.0, 1.0]]),
            r"row 2, item 'lamps-2': column 1 is nan",
        ),
        (
            parquet(item_id=LAMPS, embedding=[ONE, [1.0, None, 1.0, 1.0, 1.0], ONE]),
            r"row 1, item 'lamps-1': column 1 is nan",
        ),
        (parquet(item_id=LAMPS, embedding=[1.0, 2.0, 3.0]), "column embedding is Float64, but must be a list"),
        (parquet(item_id=LAMPS, vector=[ONE] * 3), "not a Parquet file with columns item_id and embedding"),
    ],
)
def test_wrong_tables_of_vectors_are_refused(
    dataset: Dataset, tmp_path: Path, table: pl.DataFrame, message: str
) -> None:
    given = write_vectors(tmp_path / "given", dataset, vectors_of(dataset))
    table.write_parquet(given / "lamps.parquet")
    with pytest.raises(InvalidInput, match=message) as error:
        embed_precomputed(dataset, tmp_path / "out", given)
    assert "lamps.parquet" in str(error.value)
    assert not (tmp_path / "out" / "figures.json").exists()


def test_wrong_arrays_of_vectors_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    given = write_vectors(tmp_path / "given", dataset, vectors_of(dataset))
    broken = vectors_of(dataset)["pens"]
    broken[[7, 9]] = np.inf
    for value, message in [
        (broken, r"2 rows with a NaN(.|\n)*row 7, item 'pens-7': column 0 is inf"),
        (np.full((30, 5), 1e39), r"30 rows with a NaN(.|\n)*row 0, item 'pens-0': column 0 is inf"),
        (np.full((30, 5), 1e-60), r"30 rows of zeros(.|\n)*row 0, item 'pens-0': all columns are 0"),
        (broken[:29], r"shape \(29, 5\), but \[30, D\] is expected"),
        (broken[:, 0], r"shape \(30,\), but \[30, D\] is expected"),
        (np.ones((30, 5), dtype=np.int64), "type int64; embeddings are floating point"),
        (np.full((30, 5), None, dtype=object), "not a NumPy file of numbers"),
    ]:
        np.save(given / "pens.npy", value, allow_pickle=True)
        with pytest.raises(InvalidInput, match=message):
            embed_precomputed(dataset, tmp_path / "out", given)
    (given / "pens.npy").unlink()
    with pytest.raises(InvalidInput, match=r"pens\.npy: no such file"):
        embed_precomputed(dataset, tmp_path / "out", given)
    with pytest.raises(ConfigError, match="cannot be read from the folder they are written to"):
        embed_precomputed(dataset, given, given)


def test_the_command_prints_one_line_of_figures(dataset: Dataset, encoder: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(embed)
    runner = CliRunner()
    arguments = [str(dataset.folder), "--out", str(tmp_path / "out"), "--encoder", str(encoder), "--threads", "1"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["items"] == 33
    refused = runner.invoke(app, [*arguments, "--precomputed", str(tmp_path), "--cache", str(tmp_path / "c")])
    assert isinstance(refused.exception, ConfigError)
