"""Alignment of a domain that the tokenizer was not trained on with a training domain: equal means and covariances.

Codes lie where the training items lay. A new domain has another mean and shape in embedding space, so its items crowd
into a few codes. Of all maps that give its embeddings the mean and the covariance of another domain, the one taken
moves them least: the optimal transport between the two normal distributions, x -> (x - m) A + m', with
A = C^-1/2 (C^1/2 C' C^1/2)^1/2 C^-1/2 (Peyre and Cuturi, Computational Optimal Transport, Remark 2.31). It needs only
the new domain's items, no labels or interactions. Not in the UniTok paper.

Symbols: n, m items, D embedding width.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine.alignment import FILE, Alignment, Alignments
from training.stage import replacing

SHRINKAGE = 0.1
"""Share of the mean variance that is added to the variance of every direction: with few items some have almost none."""
FEWEST = 100
"""Fewest items for which a covariance is estimated; a smaller domain is not aligned."""


def align(embeddings: NDArray[np.float32], like: NDArray[np.float32]) -> Alignment | None:
    """The alignment of a domain, float32 [n, D], with another, float32 [m, D]; None for too few items."""
    if min(len(embeddings), len(like)) < FEWEST:
        return None
    (mean, covariance), (wanted_mean, wanted) = _moments(embeddings), _moments(like)
    root, inverse = _power(covariance, 0.5), _power(covariance, -0.5)
    matrix = inverse @ _power(root @ wanted @ root, 0.5) @ inverse
    return Alignment(matrix.astype(np.float32), (wanted_mean - mean @ matrix).astype(np.float32))


def write_alignments(folder: Path, alignments: Alignments) -> None:
    """Write the alignments of a tokenizer's IDs into its folder; if there are none, no file is written."""
    (folder / FILE).unlink(missing_ok=True)
    if alignments.by_domain:
        with replacing(folder / FILE) as partial:
            alignments.save(partial)


def read_alignments(folder: Path, width: int) -> Alignments:
    """Read what `write_alignments` wrote, for embeddings of this width; no alignments if there is no file.

    Raises
    ------
    BundleError : the file holds no alignments
    """
    return Alignments.load(folder / FILE, width) if (folder / FILE).exists() else Alignments()


def _moments(embeddings: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [D] and shrunk covariance [D, D]."""
    mean = embeddings.mean(axis=0, dtype=np.float64)
    covariance = np.cov(embeddings, rowvar=False, bias=True, dtype=np.float64)
    width = len(mean)
    return mean, covariance + SHRINKAGE * max(np.trace(covariance) / width, np.finfo(np.float32).tiny) * np.eye(width)


def _power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """Power of a symmetric positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values**exponent) @ vectors.T  # type: ignore[no-any-return]
