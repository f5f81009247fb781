"""Alignments of a bundle: applied to their own domains' rows alone, and read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.alignment import Alignment, Alignments
from service.errors import BundleError

WIDTH = 3


def turned() -> Alignment:
    """A quarter turn of the first two directions, and a step along the third."""
    matrix = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=np.float32)
    return Alignment(matrix, np.array([0, 0, 1], dtype=np.float32))


def arrays(**changes: Any) -> dict[str, Any]:
    values = {
        "domain": np.array(["books", "films"]),
        "matrix": np.stack([np.eye(WIDTH, dtype=np.float32)] * 2),
        "offset": np.zeros((2, WIDTH), dtype=np.float32),
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def test_rows_of_other_domains_stay_as_they_are() -> None:
    embeddings = np.array([[1, 0, 0], [1, 0, 0], [0, 3, 4]], dtype=np.float32)
    found = Alignments({"books": turned()})(embeddings, ["films", "books", "books"])
    half = np.sqrt(0.5)
    expected = [[1, 0, 0], [0, half, half], [-3 / np.sqrt(34), 0, 5 / np.sqrt(34)]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert embeddings.tolist() == [[1, 0, 0], [1, 0, 0], [0, 3, 4]]
    for nothing in (Alignments(), Alignments({"books": turned()})):
        assert nothing(embeddings, ["films"] * 3) is embeddings
        assert nothing(embeddings, ()) is embeddings


def test_an_embedding_that_is_moved_to_zero_is_zero() -> None:
    to_nothing = Alignment(np.zeros((WIDTH, WIDTH), dtype=np.float32), np.zeros(WIDTH, dtype=np.float32))
    assert to_nothing(np.ones((1, WIDTH), dtype=np.float32)).tolist() == [[0, 0, 0]]


def test_what_is_saved_is_read(tmp_path: Path) -> None:
    Alignments({"books": turned(), "Bücher/alt": turned()}).save(tmp_path / "a.npz")
    found = Alignments.load(tmp_path / "a.npz", WIDTH)
    assert list(found.by_domain) == ["books", "Bücher/alt"]
    np.testing.assert_array_equal(found.by_domain["books"].matrix, turned().matrix)
    np.testing.assert_array_equal(found.by_domain["books"].offset, turned().offset)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"offset": None}, "must hold"),
        ({"more": np.zeros(1)}, "must hold"),
        ({"domain": np.array(["books"])}, "must hold"),
        ({"domain": np.array([1, 2])}, "names of domains first"),
        ({"domain": np.array([["books", "films"]])}, "must hold"),
        ({"domain": np.array(["books", "books"])}, "twice"),
        ({"matrix": np.zeros((2, WIDTH, WIDTH + 1), dtype=np.float32)}, "must hold"),
        ({"matrix": np.zeros((2, WIDTH, WIDTH))}, "matrix must be finite float32"),
        ({"offset": np.full((2, WIDTH), np.nan, dtype=np.float32)}, "offset must be finite float32"),
        ({"domain": np.array(["books", None])}, "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(BundleError, match=says):
        Alignments.load(path, WIDTH)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 no archive"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        Alignments.load(tmp_path / "a.npz", WIDTH)
