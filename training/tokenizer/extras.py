"""Inputs that some kinds of tokenizer need besides embeddings, computed from a dataset.

Collaborative vectors use the training part of the histories alone: no validation or test target leaks into them.
Symbols: n items, C width of a collaborative vector. Knows nothing of tokenizers except their needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from training.data.dataset import DomainData
from training.data.split import training_stretches
from training.tokenizer.items import Extras, FloatArray
from training.tokenizer.parameters import AutoencoderParameters, TokenizerParameters

POWER_ITERATIONS = 6


def extras_of(domains: Sequence[DomainData], parameters: TokenizerParameters) -> Extras:
    """The inputs that a tokenizer with these parameters needs, for the items of the domains in order."""
    contents = [content for domain in domains for content in domain.contents()]
    collaborative = None
    if "collaborative" in parameters.NEEDS and isinstance(parameters, AutoencoderParameters):
        width = parameters.latent_width
        collaborative = np.concatenate([collaborative_vectors(domain, width, parameters.seed) for domain in domains])
    return Extras(
        titles=[content.title or "" for content in contents] if "titles" in parameters.NEEDS else None,
        categories=[content.categories for content in contents] if "categories" in parameters.NEEDS else None,
        collaborative=collaborative,
    )


def collaborative_vectors(domain: DomainData, width: int, seed: int) -> FloatArray:
    """Vectors float32 [n, C] of a domain's items, of unit length; zeros for an item in no training history.

    Truncated SVD of the user-item matrix, each entry divided by the square root of the product of both degrees, as in
    spectral and graph methods; without this the most popular items would dominate. If the matrix has a lower rank than
    C, the last values are 0.
    """
    had = training_stretches(domain.history_starts).interactions(domain.history_items)
    vectors = np.zeros((len(domain.items), width), dtype=np.float32)
    if len(had.items) == 0:
        return vectors
    pairs = np.unique(np.stack([had.users, had.items]), axis=1)
    degrees = [np.bincount(side)[side] for side in pairs]
    values = torch.from_numpy(1 / np.sqrt(degrees[0] * degrees[1])).float()
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(pairs), values, (domain.users, len(domain.items)), check_invariants=True
    )
    rank = min(width, domain.users, len(domain.items))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _, singular, right = torch.svd_lowrank(matrix, q=rank, niter=POWER_ITERATIONS)
    vectors[:, :rank] = (right * singular.sqrt()).numpy()
    vectors[np.bincount(had.items, minlength=len(vectors)) == 0] = 0
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors
