"""Reads one vector per item from a file and refuses what no later stage could use, naming file and row.

Knows nothing of how the vectors were computed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.items import compose_texts
from service.parquet import PARQUET_ERRORS
from training.data.dataset import DomainData
from training.data.embeddings import check_embeddings
from training.stage import FIGURES

FloatArray = NDArray[np.float32]

ITEMS_DIGESTS = "items_sha256"
"""Key in the figures of earlier versions of `embed`, which wrote no `digest_file`: `items_digest` by domain."""


def digest_file(vectors: Path) -> Path:
    """The file with the `items_digest` of a `.npy` file; not in the figures, which a new run of the stage deletes."""
    return vectors.with_suffix(".items.sha256")


def texts_file(vectors: Path) -> Path:
    """The file with the `texts_digest` that a `.npy` file was computed from; missing for precomputed vectors."""
    return vectors.with_suffix(".texts.sha256")


def vectors_file(folder: Path, domain: str) -> Path:
    """The file with the vectors of a domain: `<domain>.npy`, or `<domain>.parquet` if only that exists."""
    plain, table = folder / f"{domain}.npy", folder / f"{domain}.parquet"
    return table if table.is_file() and not plain.is_file() else plain


def domain_vectors(folder: Path, data: DomainData, width: int | None = None) -> FloatArray:
    """Read the vectors of a domain from its `vectors_file` with `read_vectors`.

    Raises
    ------
    InvalidInput : as of `read_vectors`, or `embed` computed them from other texts than the items now have
    """
    path = vectors_file(folder, data.name)
    vectors, beside = read_vectors(path, data.item_ids, width), texts_file(path)
    # Earlier versions of `embed` wrote no digest of texts.
    if path.suffix == ".npy" and beside.is_file() and beside.read_text(encoding="utf-8").strip() != texts_digest(data):
        raise InvalidInput(f"{path}: was computed from other texts of these items; run `unitok embed` again")
    return vectors


def read_vectors(path: Path, item_ids: Sequence[str], width: int | None = None) -> FloatArray:
    """Read the vectors of a domain's items.

    Parameters
    ----------
    path : `.npy`, float [n, D] in the order of `item_ids`; or `.parquet` with columns `item_id` and `embedding`
        (a list or array of numbers), in any order, with exactly these items
    item_ids : the n items of the domain
    width : the required D; None: any

    Returns
    -------
    float32 [n, D]

    Raises
    ------
    InvalidInput : the file is missing or damaged, `embed` wrote it for other items, an item has no vector or two, rows
        differ in width or do not have the required one, a number is not finite, or a row is all zeros
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file; vectors of a domain lie in <domain>.npy or <domain>.parquet")
    _require_same_items(path, item_ids)
    vectors = _read_table(path, item_ids) if path.suffix == ".parquet" else _read_plain(path)
    if np.issubdtype(vectors.dtype, np.floating):
        # Converted before the checks, since a large float64 becomes infinite in float32.
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float32, copy=False)
    check_embeddings(vectors, item_ids, str(path))
    if width is not None and vectors.shape[1] != width:
        raise InvalidInput(f"{path}: vectors have width {vectors.shape[1]}, but must have {width}")
    return vectors


def items_digest(item_ids: Sequence[str]) -> str:
    """SHA-256 of items in their order."""
    return hashlib.sha256(json.dumps(list(item_ids)).encode()).hexdigest()


def texts_digest(data: DomainData) -> str:
    """SHA-256 of a domain's items in their order, with their composed texts."""
    digest = hashlib.sha256()
    for pair in zip(data.item_ids, compose_texts(data.contents()), strict=True):
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()


def _require_same_items(path: Path, item_ids: Sequence[str]) -> None:
    """Refuse rows that `embed` wrote for other items; files from elsewhere have no digest and are not checked."""
    if path.suffix == ".parquet":
        return
    known = _known_digest(path)
    if known is not None and known != items_digest(item_ids):
        raise InvalidInput(f"{path}: was computed for other items, or in another order; run `unitok embed` again")


def _known_digest(path: Path) -> str | None:
    """Digest of the items of a `.npy` file, if `embed` recorded one."""
    beside, figures = digest_file(path), path.with_name(FIGURES)
    if beside.is_file():
        return beside.read_text(encoding="utf-8").strip()
    if not figures.is_file():
        return None
    try:
        known: str | None = json.loads(figures.read_text(encoding="utf-8")).get(ITEMS_DIGESTS, {}).get(path.stem)
    except (ValueError, AttributeError) as error:
        raise InvalidInput(f"{figures}: is damaged: {error}; run `unitok embed` again") from None
    return known


def _read_plain(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InvalidInput(f"{path}: not a NumPy file of numbers: {error}") from None
    return loaded


def _read_table(path: Path, item_ids: Sequence[str]) -> FloatArray:
    try:
        table = pl.read_parquet(path, columns=["item_id", "embedding"], glob=False)
    except PARQUET_ERRORS as error:
        raise InvalidInput(f"{path}: not a Parquet file with columns item_id and embedding: {error}") from None
    kind = table.schema["embedding"]
    if isinstance(kind, pl.Array):
        table = table.with_columns(pl.col("embedding").arr.to_list())
    elif not isinstance(kind, pl.List):
        raise InvalidInput(f"{path}: column embedding is {kind}, but must be a list of numbers")
    table = table.with_row_index("row").with_columns(pl.col("item_id").cast(pl.String))
    if table["item_id"].is_duplicated().any():
        twice = table.filter(pl.col("item_id").is_duplicated()).row(-1, named=True)
        raise InvalidInput(f"{path}: row {twice['row']}: item {twice['item_id']!r} has two vectors")
    wanted = pl.DataFrame({"item_id": list(item_ids)}, schema={"item_id": pl.String})
    extra = table.join(wanted, on="item_id", how="anti")
    if len(extra):
        raise InvalidInput(
            f"{path}: row {extra['row'][0]}: item {extra['item_id'][0]!r} is not among the domain's items"
        )
    joined = wanted.join(table, on="item_id", how="left", maintain_order="left")
    missing = joined.filter(pl.col("embedding").is_null())
    if len(missing):
        raise InvalidInput(f"{path}: item {missing['item_id'][0]!r} has no vector ({len(missing)} items have none)")
    lengths = joined["embedding"].list.len().to_numpy()
    width = int(np.bincount(lengths).argmax()) if len(lengths) else 0
    wrong = np.flatnonzero((lengths != width) | (lengths == 0))
    if wrong.size:
        at = int(wrong[0])
        raise InvalidInput(
            f"{path}: row {joined['row'][at]}: the vector of item {item_ids[at]!r} has {lengths[at]} numbers, but must "
            f"have {width} as most have"
        )
    flat = joined["embedding"].explode().cast(pl.Float32).fill_null(float("nan")).to_numpy()
    return np.ascontiguousarray(flat.reshape(len(item_ids), width), dtype=np.float32)
