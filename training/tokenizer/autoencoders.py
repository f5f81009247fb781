"""The kinds that learn an autoencoder with one set of codebooks, and their differences.

Knows nothing of how they are trained; see `training.tokenizer.trainer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch

from service.errors import InvalidInput
from training.configuration import Count, NotNegative, Positive
from training.networks.residual_quantizer import Balance
from training.networks.unitok import UniTokNetwork, Weights
from training.tokenizer.description import Description
from training.tokenizer.estimator import Autoencoder
from training.tokenizer.items import TrainingItems
from training.tokenizer.parameters import AutoencoderParameters
from training.tokenizer.terms import Alignment, Contrast, Diversity, Term


class RqVaeParameters(AutoencoderParameters):
    """RQ-VAE as in TIGER, with our warm-up, initialisation and revival of the codes."""

    kind: Literal["rq-vae"] = "rq-vae"


class RqVae(Autoencoder):
    """Residual-quantised autoencoder (Rajput et al. 2023, "Recommender Systems with Generative Retrieval")."""

    PARAMETERS = RqVaeParameters


class LetterParameters(AutoencoderParameters):
    """LETTER.

    Attributes
    ----------
    lambda_alignment, lambda_diversity : weights of its two terms, as in the paper
    clusters : clusters of codes per level, for the diversity term
    """

    kind: Literal["letter"] = "letter"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"collaborative"})
    lambda_alignment: NotNegative = 0.02
    lambda_diversity: NotNegative = 1e-4
    clusters: Count = 10


class Letter(Autoencoder):
    """RQ-VAE with alignment to collaborative vectors and a diversity term on the codes (Wang et al. 2024, LETTER)."""

    PARAMETERS = LetterParameters
    parameters: LetterParameters

    def _terms(self, items: TrainingItems) -> Sequence[Term]:
        parameters, vectors = self.parameters, torch.zeros(0)
        if items.extras.collaborative is not None:
            vectors = torch.from_numpy(items.extras.collaborative)
        if vectors.shape[1] != parameters.latent_width:
            raise InvalidInput(
                f"collaborative vectors have {vectors.shape[1]} values, but latent_width is {parameters.latent_width}; "
                "LETTER compares the two, so they must be of one width"
            )
        return (
            Alignment(parameters.lambda_alignment, vectors, items.domains),
            Diversity(parameters.lambda_diversity, parameters.clusters, parameters.seed),
        )


class LcRecParameters(AutoencoderParameters):
    """LC-Rec's tokenizer.

    Attributes
    ----------
    sinkhorn_epsilon, sinkhorn_iterations : of the uniform mapping (Sinkhorn) of the last level
    """

    kind: Literal["lc-rec"] = "lc-rec"
    sinkhorn_epsilon: Positive = 0.003
    sinkhorn_iterations: Count = 50


class LcRec(Autoencoder):
    """RQ-VAE whose last level is trained with a uniform mapping of items to codes (Zheng et al. 2024, LC-Rec).

    The mapping needs a batch, so it is used in training alone; an item's ID depends on the item alone.
    """

    PARAMETERS = LcRecParameters
    parameters: LcRecParameters

    def _build(self, description: Description) -> UniTokNetwork:
        network = super()._build(description)
        network.moe.experts.balance = Balance(self.parameters.sinkhorn_epsilon, self.parameters.sinkhorn_iterations)
        return network


class CostParameters(AutoencoderParameters):
    """CoST.

    Attributes
    ----------
    lambda_contrast, temperature : of the contrastive term
    lambda_reconstruction : weight of the squared error once there are codes; in the paper the term replaces it
    """

    kind: Literal["cost"] = "cost"
    lambda_contrast: NotNegative = 1.0
    temperature: Positive = 0.1
    lambda_reconstruction: NotNegative = 0.0

    def weights(self) -> Weights:
        """Weights of the parts of the loss."""
        return replace(super().weights(), reconstruction=self.lambda_reconstruction)


class Cost(Autoencoder):
    """RQ-VAE with a contrastive loss instead of the reconstruction error (Zhu et al. 2024, CoST).

    The loss keeps what distinguishes items rather than every number. It compares what is decoded from codes, so it
    starts with the codes; the warm-up uses the squared error.
    """

    PARAMETERS = CostParameters
    parameters: CostParameters

    def _terms(self, items: TrainingItems) -> Sequence[Term]:
        return (Contrast(self.parameters.lambda_contrast, self.parameters.temperature),)
