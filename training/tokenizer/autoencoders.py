"""The kinds that learn an autoencoder with one set of codebooks, and what tells them apart.

Knows nothing of how they are trained; see `training.tokenizer.trainer`.
"""

from __future__ import annotations

from typing import Literal

from training.tokenizer.estimator import Autoencoder
from training.tokenizer.parameters import AutoencoderParameters


class RqVaeParameters(AutoencoderParameters):
    """RQ-VAE as TIGER has it, with our warm-up, start and revival of the codes."""

    kind: Literal["rq-vae"] = "rq-vae"


class RqVae(Autoencoder):
    """Residual-quantised autoencoder (Rajput et al. 2023, "Recommender Systems with Generative Retrieval")."""

    PARAMETERS = RqVaeParameters
