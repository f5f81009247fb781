"""A cache of computed vectors in a file, so that each text is encoded only once across domains, runs and kills.

Keyed by the hashes of encoder and text; stored vectors survive `kill -9`. Knows nothing of encoders or items.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from service.errors import ConfigError

FloatArray = NDArray[np.float32]

_SCHEMA = "CREATE TABLE IF NOT EXISTS vectors (encoder TEXT, content TEXT, vector BLOB, PRIMARY KEY (encoder, content))"
_KEYS_AT_ONCE = 500
_SECONDS_TO_WAIT = 60.0


class VectorCache:
    """Vectors of one encoder in a SQLite file that several encoders and processes may share.

    Parameters
    ----------
    path : the file; created if missing
    encoder : hash of the encoder, see `training.encoders.folder.EncoderCard`
    width : D

    Raises
    ------
    ConfigError : the file exists and is not such a cache
    """

    def __init__(self, path: Path, encoder: str, width: int) -> None:
        self._path = path
        self._encoder = encoder
        self._width = width
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=_SECONDS_TO_WAIT)
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ConfigError(f"{path}: cannot be used as an embedding cache: {error}") from None

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, contents: Sequence[str]) -> dict[str, FloatArray]:
        """Content hash -> float32 [D], for those of the hashes that are in the file.

        Raises
        ------
        ConfigError : a vector in the file does not have D components
        """
        found: dict[str, FloatArray] = {}
        for start in range(0, len(contents), _KEYS_AT_ONCE):
            keys = contents[start : start + _KEYS_AT_ONCE]
            marks = ", ".join("?" * len(keys))
            rows = self._connection.execute(
                f"SELECT content, vector FROM vectors WHERE encoder = ? AND content IN ({marks})",  # noqa: S608
                (self._encoder, *keys),
            )
            for content, blob in rows:
                if len(blob) != 4 * self._width:
                    raise ConfigError(
                        f"{self._path}: the vector of content {content} has {len(blob)} bytes, but must have "
                        f"{4 * self._width}; delete the file"
                    )
                found[content] = np.frombuffer(blob, dtype="<f4").astype(np.float32)
        return found

    def put(self, vectors: Mapping[str, FloatArray]) -> None:
        """Add vectors by content hash in one transaction; returns when they are on disk."""
        rows = [(self._encoder, content, vector.astype("<f4").tobytes()) for content, vector in vectors.items()]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
