"""Provenance of figures and artefacts: digests of the data that a stage reads.

Knows nothing of stages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.errors import ConfigError
from training.data.dataset import INTERACTIONS, ITEMS
from training.encoders.vectors import vectors_file


def digest(value: Any) -> str:
    """SHA-256 of any JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


class DataDigests:
    """Digests of the domains of one dataset and of their vectors; every file is read once.

    Parameters
    ----------
    dataset, embeddings : folders written by `prepare` and `embed`

    Raises
    ------
    ConfigError : raised by the methods if a domain has no such file
    """

    def __init__(self, dataset: Path, embeddings: Path) -> None:
        self._dataset, self._embeddings = dataset, embeddings
        self._known: dict[Path, str] = {}

    def dataset(self, domains: Iterable[str]) -> list[str]:
        """Digests of the items and interactions of the given domains."""
        return [self._of(self._dataset / name / file) for name in domains for file in (ITEMS, INTERACTIONS)]

    def embeddings(self, domains: Iterable[str]) -> list[str]:
        """Digests of the vectors of the given domains."""
        return [self._of(vectors_file(self._embeddings, name)) for name in domains]

    def _of(self, path: Path) -> str:
        if path not in self._known:
            if not path.is_file():
                raise ConfigError(f"{path}: no such file, but the experiment names its domain")
            with path.open("rb") as file:
                self._known[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._known[path]
