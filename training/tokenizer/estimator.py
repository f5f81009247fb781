"""UniTok as an estimator over NumPy arrays.

    tokenizer = UniTok(epochs=20, seed=7).fit(embeddings, domains)
    tokens = tokenizer.encode(embeddings)          # tokens.codes [n, L], tokens.experts [n, N], ...
    tokenizer.save(Path("tokenizer"))
    tokenizer = UniTok.load(Path("tokenizer"))

Knows nothing of data sets, items or the command line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from service.errors import ConfigError, InvalidInput, ModelError
from training.configuration import checked
from training.networks.mlp import hidden_widths
from training.networks.unitok import UniTokNetwork
from training.stage import write_atomically
from training.tokenizer.parameters import Parameters
from training.tokenizer.trainer import Advance, EpochFigures, Trainer, TrainingItems

WEIGHTS = "tokenizer.safetensors"
DESCRIPTION = "tokenizer.json"
CHECKPOINT = "checkpoint.safetensors"
CHUNK = 1024

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


class Description(BaseModel):
    """`tokenizer.json`: what is needed to build the network that the weights fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    embedding_width: Annotated[int, Field(ge=1)]
    hidden: tuple[int, ...]
    expert_names: tuple[str, ...]
    parameters: Parameters


@dataclass(frozen=True)
class EncodedItems:
    """What a tokenizer makes of embeddings.

    Attributes
    ----------
    codes : int32 [n, L], of the first expert
    experts : int32 [n, N], by falling gate
    gate : float32 [n, K]
    quantization_error : float32 [n], squared distance between the latent and the sum of the emitted codes
    latent : float32 [n, d]
    """

    codes: IntArray
    experts: IntArray
    gate: FloatArray
    quantization_error: FloatArray
    latent: FloatArray


class UniTok:
    """One tokenizer for all domains.

    Parameters
    ----------
    **parameters : see `training.tokenizer.parameters.Parameters`

    Attributes
    ----------
    parameters : as checked
    log : one entry an epoch; empty after `load`
    """

    def __init__(self, **parameters: Any) -> None:
        self.parameters = checked(Parameters, parameters, "UniTok")
        self.log: list[EpochFigures] = []
        self._fitted: tuple[Description, UniTokNetwork] | None = None

    @property
    def description(self) -> Description:
        """Shape of the fitted tokenizer."""
        return self._require()[0]

    @property
    def network(self) -> UniTokNetwork:
        """The fitted network."""
        return self._require()[1]

    @property
    def expert_names(self) -> tuple[str, ...]:
        """The domain that each of the K experts started from."""
        return self.description.expert_names

    def fit(
        self,
        embeddings: NDArray[Any],
        domains: Sequence[str] | NDArray[Any],
        *,
        checkpoint: Path | None = None,
        advance: Advance = lambda *_: None,
    ) -> Self:
        """Learn codes for items of several domains.

        Parameters
        ----------
        embeddings : float [n, D]
        domains : n names; they choose where each expert starts, and which items Eq. 9 takes together
        checkpoint : file to keep progress in after every epoch, and to continue from where it exists
        advance : called with steps done and a note

        Raises
        ------
        InvalidInput : the two do not fit each other, or an embedding is not finite
        """
        x = checked_embeddings(embeddings, None)
        if len(domains) != len(x):
            raise InvalidInput(f"{len(x)} embeddings but {len(domains)} domains; there must be one domain an item")
        if len(x) == 0:
            raise InvalidInput("no embeddings to learn from")
        names, numbers = np.unique(np.asarray(domains, dtype=np.str_), return_inverse=True)
        if self.parameters.experts_per_item > len(names):
            raise InvalidInput(
                f"experts_per_item is {self.parameters.experts_per_item}, but there are {len(names)} domains, "
                "each with one expert"
            )
        hidden = self.parameters.hidden
        description = Description(
            embedding_width=x.shape[1],
            hidden=hidden_widths(x.shape[1], self.parameters.latent_width) if hidden is None else hidden,
            expert_names=tuple(str(name) for name in names),
            parameters=self.parameters,
        )
        torch.manual_seed(self.parameters.seed)
        network = build_network(description)
        items = TrainingItems(
            torch.from_numpy(x), torch.from_numpy(numbers.reshape(-1).astype(np.int64)), description.expert_names
        )
        self.log = Trainer(network, items, self.parameters, checkpoint).run(advance)
        self._fitted = (description, network.eval())
        return self

    def encode(self, embeddings: NDArray[Any]) -> EncodedItems:
        """Codes and experts of embeddings float [n, D], of trained domains or any other.

        Raises
        ------
        InvalidInput : the embeddings have another width than those learned from, or are not finite
        """
        description, network = self._require()
        x = torch.from_numpy(checked_embeddings(embeddings, description.embedding_width))
        with torch.no_grad():
            parts = [network(chunk) for chunk in torch.split(x, CHUNK)]
        joined = {
            name: torch.cat([getattr(part, name) for part in parts]).numpy()
            for name in EncodedItems.__dataclass_fields__
        }
        return EncodedItems(**joined)

    def reconstruct(self, embeddings: NDArray[Any]) -> FloatArray:
        """Embeddings float [n, D] as the decoder gives them back: float32 [n, D]."""
        description, network = self._require()
        x = torch.from_numpy(checked_embeddings(embeddings, description.embedding_width))
        with torch.no_grad():
            decoded: FloatArray = torch.cat([network.reconstruct(chunk) for chunk in torch.split(x, CHUNK)]).numpy()
        return decoded

    def save(self, folder: Path) -> None:
        """Write `tokenizer.safetensors` and, last, `tokenizer.json`."""
        description, network = self._require()
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / (WEIGHTS + ".partial")
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, partial)
        os.replace(partial, folder / WEIGHTS)
        write_atomically(folder / DESCRIPTION, description.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        ConfigError : a file is missing or its description is not understood
        ModelError : weights and description do not fit each other
        """
        try:
            text = (folder / DESCRIPTION).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(f"{folder}: no {DESCRIPTION}; a tokenizer is saved by `unitok train-tokenizer`") from None
        try:
            description = Description.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"{folder / DESCRIPTION}: {error}") from None
        network = build_network(description)
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (FileNotFoundError, SafetensorError, RuntimeError) as error:
            raise ModelError(f"{folder / WEIGHTS}: does not fit {DESCRIPTION}: {error}") from None
        tokenizer = cls(**description.parameters.model_dump())
        tokenizer._fitted = (description, network.eval())
        return tokenizer

    def _require(self) -> tuple[Description, UniTokNetwork]:
        if self._fitted is None:
            raise InvalidInput("this tokenizer is not fitted; call fit, or load one")
        return self._fitted


def build_network(description: Description) -> UniTokNetwork:
    """An untrained network of the described shape."""
    parameters = description.parameters
    return UniTokNetwork(
        embedding_width=description.embedding_width,
        latent_width=parameters.latent_width,
        hidden=description.hidden,
        experts=len(description.expert_names),
        experts_per_item=parameters.experts_per_item,
        levels=parameters.levels,
        codes=parameters.codes,
    )


def checked_embeddings(embeddings: NDArray[Any], width: int | None) -> FloatArray:
    """Float32 [n, D], contiguous, all finite, of the width asked for.

    Raises
    ------
    InvalidInput : anything else; names the row
    """
    array = np.asarray(embeddings)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InvalidInput(f"embeddings have shape {array.shape} and type {array.dtype}, but must be floats [n, D]")
    if width is not None and array.shape[1] != width:
        raise InvalidInput(f"embeddings have {array.shape[1]} columns, but the tokenizer takes {width}")
    result: FloatArray = np.ascontiguousarray(array, dtype=np.float32)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        raise InvalidInput(f"embedding row {int(np.argmin(finite))} holds a value that is not finite")
    return result
