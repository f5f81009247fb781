"""What every tokenizer's network has in common: its shape, what inference yields, and how a choice of codes is scored.

Symbols: B batch, D embedding width, d latent width, L levels, T codes, K experts, N experts an item (0 without a
router; K is then 1). Knows nothing of any one network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """D, d, L, T, K and N of a tokenizer."""

    embedding_width: int
    latent_width: int
    levels: int
    codes: int
    experts: int
    experts_per_item: int


@dataclass(frozen=True)
class Tokenized:
    """What inference yields.

    Attributes
    ----------
    codes : int32 [B, L], of the first expert
    experts : int32 [B, N], by falling gate
    gate : [B, K]
    quantization_error : [B], squared distance between the latent and what the emitted codes stand for
    latent : [B, d]
    """

    codes: Tensor
    experts: Tensor
    gate: Tensor
    quantization_error: Tensor
    latent: Tensor

    @classmethod
    def without_router(cls, codes: Tensor, quantization_error: Tensor, latent: Tensor) -> Tokenized:
        """Of a network with one set of codes: no expert in the ID, and a gate of ones."""
        return cls(codes, codes[:, :0], torch.ones_like(latent[:, :1]), quantization_error, latent)


class TokenizerNetwork(nn.Module, ABC):
    """A network that turns embeddings into codes; it holds no state but its parameters and buffers.

    Attributes
    ----------
    shape : fixed at construction
    """

    shape: Shape

    @abstractmethod
    def forward(self, x: Tensor) -> Tokenized:
        """Inference: embeddings [B, D] -> codes, experts and what comes with them."""

    @abstractmethod
    def reconstruct(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]: what the codes keep of the embeddings."""

    @abstractmethod
    def distances(
        self, latent: NDArray[np.float64], expert: int, before: Sequence[int], candidates: Sequence[int]
    ) -> NDArray[np.float64]:
        """How far candidates for one level are from an item, squared, in float64: what the level's argmin compares.

        Parameters
        ----------
        latent : [d], of the item
        expert : whose codes; 0 without a router
        before : codes of the levels before
        candidates : codes of the level; one that does not exist after those before is infinitely far
        """

    @abstractmethod
    def parameter_counts(self) -> dict[str, int]:
        """Numbers that training learned, by part of the network."""
