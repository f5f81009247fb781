"""TokenMoE (UniTok paper, Eq. 4-7): a router over K domain experts, and a shared expert that is always active.

Every expert is a residual quantiser. Symbols: B batch, K experts, N experts chosen, L levels, T codes, d latent
width. The domain of an item is not an input: routing depends on the latent alone. Knows nothing of encoders.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.residual_quantizer import Quantized, ResidualQuantizer


@dataclass(frozen=True)
class Routed:
    """Where the router sends a batch.

    Attributes
    ----------
    gate : [B, K], softmax over all experts (Eq. 4)
    weights : [B, N], the gate's N largest, **not** renormalised (Eq. 5)
    experts : int64 [B, N], their experts, by falling gate
    """

    gate: Tensor
    weights: Tensor
    experts: Tensor


@dataclass(frozen=True)
class Mixed:
    """What TokenMoE made of a batch.

    Attributes
    ----------
    routed : the router's choice
    chosen : B * N quantised rows, the N experts of an item beside each other
    shared : B rows quantised by the shared expert
    z_hat : [B, d], the decoder's input (Eq. 5)
    """

    routed: Routed
    chosen: Quantized
    shared: Quantized
    z_hat: Tensor

    def codes(self) -> Tensor:
        """int64 [B, L]: the item's codes, those of its first expert (Eq. 7)."""
        batch, count = self.routed.experts.shape
        return self.chosen.codes.reshape(batch, count, -1)[:, 0]

    def loss(self, alpha: float) -> Tensor:
        """[B]: Eq. 8 of every expert that took part, the shared one included, each with weight 1."""
        batch, count = self.routed.experts.shape
        return self.chosen.loss(alpha).reshape(batch, count).sum(dim=1) + self.shared.loss(alpha)


class TokenMoE(nn.Module):
    """Router, K domain experts, one shared expert."""

    def __init__(self, experts: int, experts_per_item: int, levels: int, codes: int, width: int) -> None:
        super().__init__()
        self.experts_per_item = experts_per_item
        self.router = nn.Linear(width, experts)
        self.experts = ResidualQuantizer(experts, levels, codes, width)
        self.shared = ResidualQuantizer(1, levels, codes, width)

    def route(self, z: Tensor) -> Routed:
        """Eq. 4 and the selection of Eq. 5, for z [B, d]."""
        gate = torch.softmax(self.router(z), dim=1)
        weights, experts = torch.topk(gate, self.experts_per_item, dim=1)
        return Routed(gate, weights, experts)

    def forward(self, z: Tensor) -> Mixed:
        """Eq. 5: z_hat = sum of G_k E_k(z) over the chosen experts + E_share(z).

        E_k(z) is a sum of code vectors whose gradient goes straight through to z; G_k stays differentiable, so
        the reconstruction trains the router by how much it needs each expert's output.
        """
        routed = self.route(z)
        batch, count = routed.experts.shape
        repeated = z.repeat_interleave(count, dim=0)
        chosen = self.experts(repeated, routed.experts.reshape(-1))
        shared = self.shared(z, torch.zeros(batch, dtype=torch.int64, device=z.device))
        outputs = chosen.straight_through(repeated).reshape(batch, count, -1)
        z_hat = (routed.weights.unsqueeze(2) * outputs).sum(dim=1) + shared.straight_through(z)
        return Mixed(routed, chosen, shared, z_hat)
