"""UniTok as an estimator over NumPy arrays, and its base class, shared by all kinds that learn an autoencoder.

    tokenizer = UniTok(epochs=20, seed=7).fit(embeddings, domains)
    tokens = tokenizer.encode(embeddings)          # tokens.codes [n, L], tokens.experts [n, N], ...
    tokenizer.save(Path("tokenizer"))
    tokenizer = UniTok.load(Path("tokenizer"))

Knows nothing of data sets, items or the command line.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import InvalidInput
from service.progress import Advance
from training.checkpoint import Checkpoint
from training.networks.mlp import hidden_widths
from training.networks.tokenized import TokenizerNetwork
from training.networks.unitok import UniTokNetwork
from training.tokenizer.description import EVERYTHING, Description
from training.tokenizer.interface import Tokenizer
from training.tokenizer.items import TrainingItems
from training.tokenizer.parameters import AutoencoderParameters, Parameters
from training.tokenizer.terms import Term
from training.tokenizer.trainer import Trainer


class Autoencoder(Tokenizer):
    """A kind whose codes are learned together with an autoencoder: `UniTokNetwork`, trained by `Trainer`."""

    parameters: AutoencoderParameters

    def _learn(
        self, items: TrainingItems, checkpoint: Checkpoint | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        parameters = self.parameters
        routing = parameters.routing(len(items.names))
        if routing.experts_per_item > routing.experts:
            raise InvalidInput(
                f"experts_per_item is {routing.experts_per_item}, but there are {routing.experts} domains, "
                "each with one expert"
            )
        width = items.embeddings.shape[1]
        description = self._described(
            items,
            hidden=hidden_widths(width, parameters.latent_width) if parameters.hidden is None else parameters.hidden,
            expert_names=items.names if routing.experts_per_item else (EVERYTHING,),
        )
        network = self._build(description)
        self.log = Trainer(network, items, parameters, checkpoint, self._terms(items)).run(advance)
        return description, network

    def _terms(self, items: TrainingItems) -> Sequence[Term]:
        """The kind's own loss terms."""
        return ()

    def _build(self, description: Description) -> UniTokNetwork:
        parameters = self.parameters
        routing = parameters.routing(len(description.expert_names))
        return UniTokNetwork(
            embedding_width=description.embedding_width,
            latent_width=parameters.latent_width,
            hidden=description.hidden,
            experts=routing.experts,
            experts_per_item=routing.experts_per_item,
            levels=parameters.levels,
            codes=parameters.codes,
            shared=routing.shared,
        )


class UniTok(Autoencoder):
    """One tokenizer for all domains, with one expert per domain.

    Parameters
    ----------
    **parameters : see `training.tokenizer.parameters.Parameters`
    """

    PARAMETERS = Parameters
    parameters: Parameters
