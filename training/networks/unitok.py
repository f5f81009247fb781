"""UniTok as one network (UniTok paper, Eq. 1-11): shared autoencoder around TokenMoE.

Symbols: B batch, D embedding width, d latent width, K experts, N experts an item, L levels. Knows nothing of data
sets, files or how it is trained. In the loss the domain label enters through Eq. 10 alone; before the codes are
learned, `training.tokenizer.start` also uses it to start router and codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.networks.hsic import Calibration, calibration, no_calibration
from training.networks.mlp import MLP
from training.networks.token_moe import Mixed, TokenMoE
from training.networks.tokenized import Shape, Tokenized, TokenizerNetwork


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss, with the paper's names; Eq. 3 has weight 1 in it."""

    reconstruction: float = 1.0
    alpha: float = 0.25
    beta: float = 1.0
    lambda_rq: float = 1.0
    lambda_mi: float = 0.03
    bandwidth_x: float | None = None
    bandwidth_z: float | None = None


@dataclass(frozen=True)
class Passed:
    """A batch on its way through the network: embeddings x [B, D], latents z [B, d], codes, and decoded [B, D]."""

    x: Tensor
    z: Tensor
    mixed: Mixed
    decoded: Tensor


@dataclass(frozen=True)
class Losses:
    """The loss of one batch and its parts; sums over items (Eq. 3, 8) are means here, free of the batch's size.

    `passed` is what they were computed from, for whoever adds terms of their own; None in the warm-up.
    """

    total: Tensor
    reconstruction: Tensor
    quantization: Tensor
    calibration: Calibration
    passed: Passed | None


class UniTokNetwork(TokenizerNetwork):
    """Encoder, TokenMoE, decoder.

    Parameters
    ----------
    embedding_width, latent_width : D, d
    hidden : widths of the encoder between them; the decoder has the same, reversed
    experts, experts_per_item, levels, codes : K, N, L, T; N = 0: one expert and no router
    shared : whether there is a shared expert
    """

    def __init__(
        self,
        *,
        embedding_width: int,
        latent_width: int,
        hidden: Sequence[int],
        experts: int,
        experts_per_item: int,
        levels: int,
        codes: int,
        shared: bool = True,
    ) -> None:
        super().__init__()
        self.shape = Shape(embedding_width, latent_width, levels, codes, experts, experts_per_item)
        widths = [embedding_width, *hidden, latent_width]
        self.encoder = MLP(widths)
        self.moe = TokenMoE(experts, experts_per_item, levels, codes, latent_width, shared=shared)
        self.decoder = MLP(widths[::-1])

    def forward(self, x: Tensor) -> Tokenized:
        """Inference: embeddings [B, D] -> codes, experts, gate, error, latent; no decoder, no shared expert."""
        z = self.encoder(x)
        routed = self.moe.route(z)
        quantized = self.moe.experts(z, routed.experts[:, 0])
        error = (z - quantized.total).square().sum(dim=1)
        codes = quantized.codes.to(torch.int32)
        if self.shape.experts_per_item == 0:
            return Tokenized.without_router(codes, error, z)
        return Tokenized(codes, routed.experts.to(torch.int32), routed.gate, error, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]: through codes and decoder."""
        mixed: Mixed = self.moe(self.encoder(x))
        decoded: Tensor = self.decoder(mixed.z_hat)
        return decoded

    def losses(self, x: Tensor, domains: Tensor, weights: Weights) -> Losses:
        """Eq. 11 for embeddings [B, D] of domains int64 [B]."""
        z = self.encoder(x)
        mixed: Mixed = self.moe(z)
        decoded: Tensor = self.decoder(mixed.z_hat)
        reconstruction = (x - decoded).square().sum(dim=1).mean()
        quantization = mixed.loss(weights.alpha).mean()
        calibrated = self._calibration(x, z, domains, weights)
        total = (
            weights.reconstruction * reconstruction
            + weights.lambda_rq * quantization
            + weights.lambda_mi * calibrated.loss
        )
        return Losses(total, reconstruction, quantization, calibrated, Passed(x, z, mixed, decoded))

    def autoencoder_losses(self, x: Tensor, domains: Tensor, weights: Weights) -> Losses:
        """The loss of the warm-up: Eq. 11 without quantisation.

        The decoder's input is that of Eq. 5 for a router that is certain and experts that are exact: z, plus z from
        the shared expert where there is one.
        """
        z = self.encoder(x)
        exact = z if self.moe.shared is None else 2 * z
        reconstruction = (x - self.decoder(exact)).square().sum(dim=1).mean()
        calibrated = self._calibration(x, z, domains, weights)
        total = reconstruction + weights.lambda_mi * calibrated.loss
        return Losses(total, reconstruction, reconstruction.new_zeros(()), calibrated, None)

    def distances(
        self, latent: NDArray[np.float64], expert: int, before: Sequence[int], candidates: Sequence[int]
    ) -> NDArray[np.float64]:
        """See `TokenizerNetwork`."""
        return self.moe.experts.distances(latent, expert, before, candidates)

    def parameter_counts(self) -> dict[str, int]:
        """As in the paper's Table 2."""
        parts: dict[str, list[nn.Module | None]] = {
            "codebook": [self.moe.experts, self.moe.shared],
            "autoencoder": [self.encoder, self.decoder],
            "router": [self.moe.router],
        }
        return {
            name: sum(
                parameter.numel() for module in modules if module is not None for parameter in module.parameters()
            )
            for name, modules in parts.items()
        }

    @staticmethod
    def _calibration(x: Tensor, z: Tensor, domains: Tensor, weights: Weights) -> Calibration:
        if weights.lambda_mi == 0:
            return no_calibration(z)  # Kernels of a whole batch of one domain are two thirds of a step.
        return calibration(
            x,
            z,
            domains,
            beta=weights.beta,
            bandwidth_x=weights.bandwidth_x,
            bandwidth_z=weights.bandwidth_z,
        )
