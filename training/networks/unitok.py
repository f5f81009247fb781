"""UniTok as one network (UniTok paper, Eq. 1-11): shared autoencoder around TokenMoE.

Symbols: B batch, D embedding width, d latent width, K experts, N experts an item, L levels. Knows nothing of data
sets, files or how it is trained. The domain label enters through Eq. 10 alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.networks.hsic import Calibration, calibration
from training.networks.mlp import MLP
from training.networks.token_moe import Mixed, TokenMoE


@dataclass(frozen=True)
class Weights:
    """Weights of the parts of the loss, with the paper's names."""

    alpha: float = 0.25
    beta: float = 1.0
    lambda_rq: float = 1.0
    lambda_mi: float = 0.03
    bandwidth_x: float | None = None
    bandwidth_z: float | None = None


@dataclass(frozen=True)
class Losses:
    """The loss of one batch and its parts; sums over items (Eq. 3, 8) are means here, free of the batch's size."""

    total: Tensor
    reconstruction: Tensor
    quantization: Tensor
    calibration: Calibration


@dataclass(frozen=True)
class Tokenized:
    """What inference yields.

    Attributes
    ----------
    codes : int32 [B, L], of the first expert
    experts : int32 [B, N], by falling gate
    gate : [B, K]
    quantization_error : [B], squared distance between the latent and the sum of the emitted codes
    latent : [B, d]
    """

    codes: Tensor
    experts: Tensor
    gate: Tensor
    quantization_error: Tensor
    latent: Tensor


class UniTokNetwork(nn.Module):
    """Encoder, TokenMoE, decoder.

    Parameters
    ----------
    embedding_width, latent_width : D, d
    hidden : widths of the encoder between them; the decoder has the same, reversed
    experts, experts_per_item, levels, codes : K, N, L, T
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
    ) -> None:
        super().__init__()
        widths = [embedding_width, *hidden, latent_width]
        self.encoder = MLP(widths)
        self.moe = TokenMoE(experts, experts_per_item, levels, codes, latent_width)
        self.decoder = MLP(widths[::-1])

    def forward(self, x: Tensor) -> Tokenized:
        """Inference: embeddings [B, D] -> codes, experts and what comes with them. Decoder and shared expert rest."""
        z = self.encoder(x)
        routed = self.moe.route(z)
        quantized = self.moe.experts(z, routed.experts[:, 0])
        error = (z - quantized.total).square().sum(dim=1)
        return Tokenized(quantized.codes.to(torch.int32), routed.experts.to(torch.int32), routed.gate, error, z)

    def reconstruct(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, D]: through codes and decoder."""
        mixed: Mixed = self.moe(self.encoder(x))
        decoded: Tensor = self.decoder(mixed.z_hat)
        return decoded

    def losses(self, x: Tensor, domains: Tensor, weights: Weights) -> Losses:
        """Eq. 11 for embeddings [B, D] of domains int64 [B]."""
        z = self.encoder(x)
        mixed: Mixed = self.moe(z)
        reconstruction = (x - self.decoder(mixed.z_hat)).square().sum(dim=1).mean()
        quantization = mixed.loss(weights.alpha).mean()
        calibrated = self._calibration(x, z, domains, weights)
        total = reconstruction + weights.lambda_rq * quantization + weights.lambda_mi * calibrated.loss
        return Losses(total, reconstruction, quantization, calibrated)

    def autoencoder_losses(self, x: Tensor, domains: Tensor, weights: Weights) -> Losses:
        """The loss of the warm-up: Eq. 11 without quantisation.

        The decoder is fed 2 z, which is what Eq. 5 hands it once router and experts are sure and exact.
        """
        z = self.encoder(x)
        reconstruction = (x - self.decoder(2 * z)).square().sum(dim=1).mean()
        calibrated = self._calibration(x, z, domains, weights)
        total = reconstruction + weights.lambda_mi * calibrated.loss
        return Losses(total, reconstruction, reconstruction.new_zeros(()), calibrated)

    @staticmethod
    def _calibration(x: Tensor, z: Tensor, domains: Tensor, weights: Weights) -> Calibration:
        return calibration(
            x,
            z,
            domains,
            beta=weights.beta,
            bandwidth_x=weights.bandwidth_x,
            bandwidth_z=weights.bandwidth_z,
        )
