"""Codebooks on the embeddings themselves, or on a rotation of them: RQ-KMeans and optimised product quantisation.

Product quantisation is residual quantisation whose codebook of level l is zero outside the l-th block of
dimensions: the distance to its codes then differs in that block alone. So both are one network. Symbols: B batch, D
embedding width, d width after the rotation, L levels, T codes. Knows nothing of how the numbers were found.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.networks.residual_quantizer import ResidualQuantizer
from training.networks.tokenized import Shape, Tokenized, TokenizerNetwork


class CodebookNetwork(TokenizerNetwork):
    """A fixed rotation, if any, and residual codebooks.

    Parameters
    ----------
    width : d; None: the embeddings are quantised as they are
    """

    rotation: Tensor | None

    def __init__(self, *, embedding_width: int, width: int | None, levels: int, codes: int) -> None:
        super().__init__()
        latent = embedding_width if width is None else width
        self.shape = Shape(embedding_width, latent, levels, codes, experts=1, experts_per_item=0)
        rotation = None if width is None else torch.zeros(width, embedding_width)
        self.register_buffer("rotation", rotation)
        self.quantizer = ResidualQuantizer(1, levels, codes, latent)

    def fill(self, codebooks: NDArray[np.float32], rotation: NDArray[np.float32] | None = None) -> None:
        """Set codebooks float32 [L, T, d] and rotation float32 [d, D]."""
        with torch.no_grad():
            self.quantizer.codebooks[0] = torch.from_numpy(codebooks)
            if self.rotation is not None and rotation is not None:
                self.rotation.copy_(torch.from_numpy(rotation))

    def forward(self, x: Tensor) -> Tokenized:
        """See `TokenizerNetwork`."""
        z = self._latent(x)
        quantized = self.quantizer(z, _one_set(z))
        error = (z - quantized.total).square().sum(dim=1)
        return Tokenized.without_router(quantized.codes.to(torch.int32), error, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """See `TokenizerNetwork`; the rotation is orthogonal, so its transpose undoes it."""
        z = self._latent(x)
        total: Tensor = self.quantizer(z, _one_set(z)).total
        return total if self.rotation is None else total @ self.rotation

    def distances(
        self, latent: NDArray[np.float64], expert: int, before: Sequence[int], candidates: Sequence[int]
    ) -> NDArray[np.float64]:
        """See `TokenizerNetwork`."""
        return self.quantizer.distances(latent, expert, before, candidates)

    def parameter_counts(self) -> dict[str, int]:
        """Numbers that are not zero by construction."""
        parts = {"codebook": self.quantizer.codebooks, "rotation": self.rotation}
        return {name: int(tensor.count_nonzero()) for name, tensor in parts.items() if tensor is not None}

    def _latent(self, x: Tensor) -> Tensor:
        return x if self.rotation is None else x @ self.rotation.T


def _one_set(z: Tensor) -> Tensor:
    return torch.zeros_like(z[:, 0], dtype=torch.int64)
