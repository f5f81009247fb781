"""The interface of all kinds of tokenizer: fit, encode, save, load.

    tokenizer = UniTok(epochs=20, seed=7).fit(embeddings, domains)
    tokens = tokenizer.encode(embeddings)          # tokens.codes [n, L], tokens.experts [n, N], ...
    tokenizer.save(Path("tokenizer"))
    tokenizer = UniTok.load(Path("tokenizer"))

Knows nothing of any specific kind, of data sets or the command line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from service.engine.tokenized_items import TokenizedItems
from service.errors import ConfigError, InvalidInput, ModelError
from service.progress import Advance
from training.checkpoint import Checkpoint
from training.configuration import checked
from training.networks.tokenized import Shape, TokenizerNetwork
from training.stage import replacing, write_atomically
from training.tokenizer.description import DESCRIPTION, WEIGHTS, Description, read_description
from training.tokenizer.epoch_figures import EpochFigures
from training.tokenizer.items import Extras, FloatArray, TrainingItems, checked_embeddings
from training.tokenizer.parameters import TokenizerParameters

CHUNK = 1024


class Tokenizer(ABC):
    """One tokenizer for all domains. Each kind defines its parameters, its training and its network.

    Parameters
    ----------
    **parameters : see the kind's `PARAMETERS`

    Attributes
    ----------
    parameters : validated
    log : one entry per epoch; empty after `load`, and for kinds without epochs
    """

    PARAMETERS: ClassVar[type[TokenizerParameters]]
    parameters: TokenizerParameters

    def __init__(self, **parameters: Any) -> None:
        self.parameters = checked(self.PARAMETERS, parameters, type(self).__name__)
        self.log: list[EpochFigures] = []
        self._fitted: tuple[Description, TokenizerNetwork] | None = None

    @property
    def description(self) -> Description:
        """The description that `save` writes beside the weights."""
        return self._require()[0]

    @property
    def network(self) -> TokenizerNetwork:
        """The fitted network."""
        return self._require()[1]

    @property
    def shape(self) -> Shape:
        """D, d, L, T, K and N of the fitted tokenizer."""
        return self.network.shape

    @property
    def expert_names(self) -> tuple[str, ...]:
        """For each of the K experts, the domain from which it was initialised."""
        return self.description.expert_names

    def fit(
        self,
        embeddings: NDArray[Any],
        domains: Sequence[str] | NDArray[Any],
        extras: Extras | None = None,
        *,
        checkpoint: Checkpoint | None = None,
        advance: Advance = lambda *_: None,
    ) -> Self:
        """Learn codes for items of several domains.

        Parameters
        ----------
        embeddings : float [n, D]
        domains : n names
        extras : of the same items, if the kind needs any
        checkpoint : for kinds that learn in epochs: where to save progress, and to resume from if the file exists
        advance : called with the number of steps done and, sometimes, a note

        Raises
        ------
        InvalidInput : the arrays do not fit each other or the parameters, or an embedding is not finite
        ConfigError : `extras` lacks something that the kind needs, the parameters cannot be used with these items, or
            the checkpoint is of another training
        ModelError : training diverged
        """
        x = checked_embeddings(embeddings, None)
        names, numbers = np.unique(np.asarray(domains, dtype=np.str_), return_inverse=True)
        if numbers.size != len(x):
            raise InvalidInput(f"{len(x)} embeddings but {numbers.size} domains; there must be one domain an item")
        if len(x) == 0:
            raise InvalidInput("no embeddings to learn from")
        items = TrainingItems(
            torch.from_numpy(x),
            torch.from_numpy(numbers.reshape(-1).astype(np.int64)),
            tuple(str(name) for name in names),
            self._checked_extras(extras or Extras(), len(x)),
        )
        # Training runs on the CPU; the fork keeps the caller's random state unchanged.
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.parameters.seed)
            description, network = self._learn(items, checkpoint, advance)
        self._fitted = (description, network.eval())
        return self

    @abstractmethod
    def _learn(
        self, items: TrainingItems, checkpoint: Checkpoint | None, advance: Advance
    ) -> tuple[Description, TokenizerNetwork]:
        """Learn from checked items."""

    @abstractmethod
    def _build(self, description: Description) -> TokenizerNetwork:
        """An untrained network of the described shape."""

    def _described(self, items: TrainingItems, **more: Any) -> Description:
        parameters = self.parameters.model_dump(mode="json")
        return Description(embedding_width=items.embeddings.shape[1], parameters=parameters, **more)

    def _checked_extras(self, extras: Extras, items: int) -> Extras:
        for name, values in vars(extras).items():
            if name in self.PARAMETERS.NEEDS and values is None:
                raise ConfigError(f"a tokenizer of kind {self.parameters.kind!r} needs {name} of every item: pass them")
            if values is not None and len(values) != items:
                raise InvalidInput(f"{items} embeddings but {len(values)} {name}; there must be one an item")
        return extras

    def encode(self, embeddings: NDArray[Any]) -> TokenizedItems:
        """Codes and experts of embeddings float [n, D], of training domains or any other.

        Raises
        ------
        InvalidInput : the tokenizer is not fitted, or the embeddings have another width than in training or are not
            finite
        """
        description, network = self._require()
        x = torch.from_numpy(checked_embeddings(embeddings, description.embedding_width))
        with torch.no_grad():
            parts = [network(chunk) for chunk in torch.split(x, CHUNK)]
        joined = {name: torch.cat([getattr(part, name) for part in parts]).numpy() for name in TokenizedItems.__slots__}
        return TokenizedItems(**joined)

    def reconstruct(self, embeddings: NDArray[Any]) -> FloatArray:
        """Reconstruct embeddings float [n, D] from their codes: float32 [n, D].

        Raises
        ------
        InvalidInput : as `encode`
        """
        description, network = self._require()
        x = torch.from_numpy(checked_embeddings(embeddings, description.embedding_width))
        with torch.no_grad():
            decoded: FloatArray = torch.cat([network.reconstruct(chunk) for chunk in torch.split(x, CHUNK)]).numpy()
        return decoded

    def parameter_counts(self) -> dict[str, int]:
        """Number of learned parameters, by part and in total."""
        counts = self.network.parameter_counts()
        return {**counts, "total": sum(counts.values())}

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.safetensors` and, last, `tokenizer.json`."""
        description, network = self._require()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as partial:
            save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
        write_atomically(folder / DESCRIPTION, description.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ConfigError : a file is missing, or its description is not understood or of another kind
        ModelError : weights and description do not fit each other
        """
        folder = Path(folder)
        description = read_description(folder)
        tokenizer = cls(**checked(cls.PARAMETERS, description.parameters, str(folder / DESCRIPTION)).model_dump())
        network = tokenizer._build(description)
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (FileNotFoundError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {error}") from None
        tokenizer._fitted = (description, network.eval())
        return tokenizer

    def _require(self) -> tuple[Description, TokenizerNetwork]:
        if self._fitted is None:
            raise InvalidInput("this tokenizer is not fitted; call fit, or load one")
        return self._fitted
