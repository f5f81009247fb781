"""The kinds that cluster the embeddings themselves: RQ-KMeans.

Knows nothing of autoencoders.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from training.networks.codebooks import CodebookNetwork
from training.networks.tokenized import TokenizerNetwork
from training.tokenizer.description import Description
from training.tokenizer.interface import Tokenizer
from training.tokenizer.items import TrainingItems
from training.tokenizer.parameters import Codes, Count, Levels, TokenizerParameters
from training.tokenizer.start import residual_codebooks
from training.tokenizer.trainer import Advance


class RqKMeansParameters(TokenizerParameters):
    """Residual k-means.

    Attributes
    ----------
    levels, codes : L, T
    kmeans_iterations : of every level
    """

    kind: Literal["rq-kmeans"] = "rq-kmeans"
    levels: Levels = 4
    codes: Codes = 256
    kmeans_iterations: Count = 25


class RqKMeans(Tokenizer):
    """k-means level by level on what the levels before leave of the embeddings."""

    PARAMETERS = RqKMeansParameters
    parameters: RqKMeansParameters

    def _learn(
        self, items: TrainingItems, checkpoint: Path | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        description = self._described(items)
        network = self._build(description)
        parameters = self.parameters
        codebooks = residual_codebooks(
            items.embeddings.numpy(), parameters.levels, parameters.codes, parameters.kmeans_iterations, parameters.seed
        )
        with torch.no_grad():
            network.quantizer.codebooks[0] = torch.from_numpy(codebooks)
        advance(1)
        return description, network

    def _build(self, description: Description) -> CodebookNetwork:
        return CodebookNetwork(
            embedding_width=description.embedding_width,
            width=None,
            levels=self.parameters.levels,
            codes=self.parameters.codes,
        )
