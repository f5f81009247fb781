"""TokenMoE (UniTok paper, Eq. 4-7): a router over K domain experts, and a shared expert that is always active.

Every expert is a residual quantiser. Symbols: B batch, K experts, N experts chosen, L levels, T codes, d latent
width. The domain of an item is not an input: routing depends on the latent alone. Without a router one expert serves
every item, and without the shared expert the chosen ones stand alone: the paper's ablations, and RQ-VAE. Knows
nothing of encoders.
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
    shared : B rows quantised by the shared expert; None without one
    z_hat : [B, d], the decoder's input (Eq. 5)
    """

    routed: Routed
    chosen: Quantized
    shared: Quantized | None
    z_hat: Tensor

    def codes(self) -> Tensor:
        """int64 [B, L]: the item's codes, those of its first expert (Eq. 7)."""
        batch, count = self.routed.experts.shape
        return self.chosen.codes.reshape(batch, count, -1)[:, 0]

    def loss(self, alpha: float) -> Tensor:
        """[B]: Eq. 8 of every expert that took part, the shared one included, each with weight 1."""
        batch, count = self.routed.experts.shape
        chosen = self.chosen.loss(alpha).reshape(batch, count).sum(dim=1)
        return chosen if self.shared is None else chosen + self.shared.loss(alpha)


class TokenMoE(nn.Module):
    """Router, K domain experts, one shared expert.

    Parameters
    ----------
    experts, experts_per_item, levels, codes, width : K, N, L, T, d; with N = 0 there is no router and K is 1
    shared : whether there is a shared expert
    """

    router: nn.Linear | None
    shared: ResidualQuantizer | None

    def __init__(
        self, experts: int, experts_per_item: int, levels: int, codes: int, width: int, *, shared: bool = True
    ) -> None:
        super().__init__()
        self.experts_per_item = experts_per_item
        self.router = nn.Linear(width, experts) if experts_per_item else None
        self.experts = ResidualQuantizer(experts, levels, codes, width)
        self.shared = ResidualQuantizer(1, levels, codes, width) if shared else None

    def route(self, z: Tensor) -> Routed:
        """Eq. 4 and the selection of Eq. 5, for z [B, d]; without a router, the one expert with weight 1."""
        if self.router is None:
            ones = torch.ones_like(z[:, :1])
            return Routed(ones, ones, torch.zeros_like(ones, dtype=torch.int64))
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
        outputs = chosen.straight_through(repeated).reshape(batch, count, -1)
        z_hat = (routed.weights.unsqueeze(2) * outputs).sum(dim=1)
        if self.shared is None:
            return Mixed(routed, chosen, None, z_hat)
        shared = self.shared(z, torch.zeros(batch, dtype=torch.int64, device=z.device))
        return Mixed(routed, chosen, shared, z_hat + shared.straight_through(z))
