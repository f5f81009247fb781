"""Items that a tokenizer does not learn from, and the error that codes alone leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizer_planted import ITEMS, WIDTH, small, write_prepared

from service.errors import ConfigError
from service.semantic_ids import IntArray
from training.ids.code_vectors import MOST_CODES, code_error
from training.ids.quality import relative_error
from training.ids.table import read_ids
from training.tokenizer import stage
from training.tokenizer.estimator import UniTok
from training.tokenizer.holding_out import held_out_sharing, learned_from


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, Path]:
    return write_prepared(tmp_path)


def twin_of_code_error(embeddings: Any, codes: IntArray, experts: IntArray, learned: Any) -> tuple[float, float]:
    """Least squares over one column a code, with a row of its own that pulls each towards nothing."""
    keys = [
        [(expert, level, code) for level, code in enumerate(row)] for row, expert in zip(codes, experts, strict=True)
    ]
    known = sorted({key for row in keys for key in row})
    has = np.array([[key in row for key in known] for row in keys], dtype=np.float64)
    mean = embeddings[learned].mean(axis=0)
    design = np.concatenate([has[learned], np.eye(len(known))])
    wanted = np.concatenate([embeddings[learned] - mean, np.zeros((len(known), embeddings.shape[1]))])
    decoded = has @ np.linalg.lstsq(design, wanted)[0] + mean
    errors = [relative_error(embeddings[rows], decoded[rows]) for rows in (learned, ~learned)]
    return errors[0], errors[1]


@pytest.mark.parametrize("experts", [0, 3])
def test_code_error_equals_its_twin(experts: int) -> None:
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(120, 6)).astype(np.float32)
    codes = rng.integers(0, 7, size=(120, 3)).astype(np.int32)
    of = rng.integers(0, 3, size=(120, 1)).astype(np.int32) if experts else np.zeros((120, 0), dtype=np.int32)
    learned = rng.random(120) < 0.7
    found = code_error(embeddings, codes, of, learned)
    assert found is not None
    twin = twin_of_code_error(embeddings, codes, of[:, 0] if experts else np.zeros(120, dtype=np.int32), learned)
    assert (found.learned, found.held_out) == pytest.approx(twin, rel=1e-5)
    assert found.held_out is not None
    assert found.learned < 1 < found.held_out


def test_items_that_are_sums_of_code_vectors_leave_next_to_nothing_held_out_or_not() -> None:
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(2, 4, 5))
    codes = rng.integers(0, 4, size=(4000, 2)).astype(np.int32)
    embeddings = (vectors[0, codes[:, 0]] + vectors[1, codes[:, 1]]).astype(np.float32)
    found = code_error(embeddings, codes, np.zeros((4000, 0), dtype=np.int32), rng.random(4000) < 0.9)
    assert found is not None
    assert found.held_out is not None
    # What is left is the pull towards the mean, one item in a thousand of each code.
    assert max(found.learned, found.held_out) < 1e-4


def test_an_id_of_its_own_for_every_item_is_no_code() -> None:
    items = MOST_CODES + 1
    embeddings = np.random.default_rng(7).normal(size=(items, 2)).astype(np.float32)
    one = np.arange(items, dtype=np.int32)[:, None]
    assert code_error(embeddings, one, one[:, :0], np.ones(items, dtype=np.bool_)) is None


def test_a_content_is_held_out_as_a_whole_and_whatever_the_order() -> None:
    texts = [f"Title {row % 40}" for row in range(100)]
    learned = learned_from(texts, 0.25)
    held_out = {text for text, kept in zip(texts, learned, strict=True) if not kept}
    assert len(held_out) == 10
    assert held_out.isdisjoint(text for text, kept in zip(texts, learned, strict=True) if kept)
    np.testing.assert_array_equal(learned_from(texts[::-1], 0.25), learned[::-1])
    assert learned_from(texts, 0.0).all()


@pytest.mark.parametrize("contents", [1, 2, 3, 4])
def test_of_a_small_domain_one_content_is_learned_from(contents: int) -> None:
    learned = learned_from([f"Title {row % contents}" for row in range(2 * contents)], 0.9)
    assert learned.sum() == 2


def test_sharing_of_held_out_items_counts_contents_and_asks_all_others() -> None:
    codes = np.asarray([[1], [1], [2], [2], [3], [4]], dtype=np.int32)
    texts = ["a", "b", "c", "C", "d", "e"]  # The two c are one content, so their ID is theirs alone.
    learned = np.asarray([True, False, False, False, False, True])
    assert held_out_sharing(codes, codes[:, :0], texts, learned) == pytest.approx(1 / 3)
    assert held_out_sharing(codes, np.arange(6, dtype=np.int32)[:, None], texts, learned) == 0.0


def test_what_is_held_out_teaches_nothing_and_gets_an_id(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    parameters = small(train_domains=("books", "films"), hold_out=0.2)
    figures = stage.train_tokenizer(*prepared, tmp_path / "one", parameters)
    vectors = np.load(prepared[1] / "books.npy")
    texts = [f"books {row}" for row in range(ITEMS["books"])]
    texts[-1] = texts[-2]
    learned = learned_from(texts, 0.2)
    quality, tokenizer = figures["domains"]["books"], UniTok.load(tmp_path / "one")
    assert quality["items_held_out"] == (~learned).sum() == 19  # Of 18 contents, one of them twice.
    decoded = tokenizer.reconstruct(vectors)
    for name, rows in {"learned": learned, "held_out": ~learned}.items():
        expected = relative_error(vectors[rows], decoded[rows])
        assert quality[f"relative_reconstruction_error_{name}"] == pytest.approx(expected, abs=1e-5)
        error = tokenizer.encode(vectors[rows]).quantization_error.mean()
        assert quality[f"quantization_error_{name}"] == pytest.approx(error, abs=1e-5)
    assert quality["relative_code_error"] < quality["relative_code_error_held_out"]
    assert "items_held_out" not in figures["domains"]["songs"]
    assert len(read_ids(tmp_path / "one")["books"].item_ids) == ITEMS["books"]

    def trained_with(rows: Any) -> Any:
        changed = vectors.copy()
        changed[rows] = np.random.default_rng(1).normal(size=(rows.sum(), WIDTH))
        np.save(prepared[1] / "books.npy", changed)
        stage.train_tokenizer(*prepared, tmp_path / f"{rows.sum()}", parameters)
        return UniTok.load(tmp_path / f"{rows.sum()}").network.state_dict()["encoder.layers.0.weight"].numpy()

    weights = tokenizer.network.state_dict()["encoder.layers.0.weight"].numpy()
    np.testing.assert_array_equal(trained_with(~learned), weights)
    assert not np.array_equal(trained_with(learned), weights)


def test_a_tokenizer_that_held_out_otherwise_is_not_reused(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    stage.train_tokenizer(*prepared, tmp_path / "whole", small())
    with pytest.raises(ConfigError, match=r"whole: was trained with another hold_out, 0\.0"):
        stage.train_tokenizer(*prepared, tmp_path / "out", small(hold_out=0.2), tmp_path / "whole")
