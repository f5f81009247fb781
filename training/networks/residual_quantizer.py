"""Residual quantisation (UniTok paper, Eq. 1, 2, 6 and 8), for several sets of codebooks side by side.

Symbols: B rows, E sets of codebooks (one an expert), L levels, T codes a level, d latent width. Knows nothing of
routers, domains or encoders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks.sinkhorn import balanced_codes


@dataclass(frozen=True)
class Quantized:
    """What residual quantisation made of a batch.

    Attributes
    ----------
    codes : int64 [B, L]
    vectors : [B, L, d], the chosen code vectors c_l; differentiable in the codebooks
    residuals : [B, L, d], what level l had to quantise, r^(l-1); differentiable in z alone
    """

    codes: Tensor
    vectors: Tensor
    residuals: Tensor

    @property
    def total(self) -> Tensor:
        """[B, d]: the sum of the chosen code vectors (Eq. 6)."""
        return self.vectors.sum(dim=1)

    def straight_through(self, z: Tensor) -> Tensor:
        """[B, d]: `total` in value, z in gradient, since the argmin of Eq. 1 has none.

        The codebooks get no gradient this way: they learn by Eq. 8 alone.
        """
        return z + (self.total - z).detach()

    def loss(self, alpha: float) -> Tensor:
        """[B]: Eq. 8, summed over levels; the first term moves the codes, the second (times alpha) the encoder."""
        codebook = (self.residuals.detach() - self.vectors).square().sum(dim=(1, 2))
        commitment = (self.residuals - self.vectors.detach()).square().sum(dim=(1, 2))
        return codebook + alpha * commitment


@dataclass(frozen=True)
class Balance:
    """Settings of even code use in the last level during training; see `training.networks.sinkhorn`."""

    epsilon: float
    iterations: int


class ResidualQuantizer(nn.Module):
    """E sets of L codebooks of T vectors of width d; every row says which set quantises it.

    Attributes
    ----------
    codebooks : [E, L, T, d]
    handicap : [E, L, T], added to half the squared distance of a code while training, and never at inference, so that
        crowded codes lose items to their neighbours and move; zero unless a trainer sets it
    balance : in training mode, codes of the last level are balanced over the batch rather than nearest; for one set
    """

    handicap: Tensor
    balance: Balance | None = None

    def __init__(self, sets: int, levels: int, codes: int, width: int) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.randn(sets, levels, codes, width) / math.sqrt(width))
        self.register_buffer("handicap", torch.zeros(sets, levels, codes))

    def nearest(self, residual: Tensor, chosen: Tensor, level: int) -> Tensor:
        """Eq. 1: the nearest code of one level, int64 [B], for residuals [B, d] and sets int64 [B].

        While training, a code's handicap counts as distance.

        Of ||r||^2 - 2 r.c + ||c||^2 the first term is the same for all codes and is left out: it would cost
        the digits that tell two near codes apart. All sets are scored in one product and the row's own picked, which is
        faster than gathering a codebook for each row while E is in the tens. Of equal codes the first wins.
        """
        sets, _, codes, _ = self.codebooks.shape
        flat = self.codebooks[:, level].reshape(sets * codes, -1)
        scores = flat.square().sum(dim=1) / 2 - residual @ flat.T
        if self.training:
            scores = scores + self.handicap[:, level].reshape(-1)
        own = chosen.unsqueeze(1) * codes + torch.arange(codes, device=residual.device)
        return scores.gather(1, own).argmin(dim=1)

    def forward(self, z: Tensor, chosen: Tensor) -> Quantized:
        """Quantise z [B, d] with the sets chosen, int64 [B].

        The code vectors are cut from the residuals' gradient (Eq. 2), so that the commitment term of a level does
        not move the codes of the levels before it.
        """
        residual = z
        codes, vectors, residuals = [], [], []
        for level in range(self.codebooks.shape[1]):
            last = level == self.codebooks.shape[1] - 1
            if last and self.training and self.balance is not None:
                distances = torch.cdist(residual.detach(), self.codebooks[0, level].detach()).square()
                code = balanced_codes(distances, self.balance.epsilon, self.balance.iterations)
            else:
                code = self.nearest(residual.detach(), chosen, level)
            vector = self.codebooks[chosen, level, code]
            codes.append(code)
            vectors.append(vector)
            residuals.append(residual)
            residual = residual - vector.detach()
        return Quantized(torch.stack(codes, dim=1), torch.stack(vectors, dim=1), torch.stack(residuals, dim=1))

    def distances(
        self, z: NDArray[np.float64], chosen: int, before: Sequence[int], candidates: Sequence[int]
    ) -> NDArray[np.float64]:
        """Eq. 1 for one row z [d] in float64: squared distances to some codes of the level after the codes `before`."""
        codebooks = self.codebooks[chosen].detach().double().numpy()
        residual = z - sum(codebooks[level, code] for level, code in enumerate(before))
        found: NDArray[np.float64] = np.square(residual - codebooks[len(before), list(candidates)]).sum(axis=1)
        return found
