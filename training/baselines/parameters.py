"""Parameters of all baselines, checked strictly: an unknown key or a wrong value is an error that names it.

The key `kind` selects the baseline, and so which keys a file may hold. The defaults suit domains of some thousand
items. Knows nothing of data sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.errors import ConfigError
from training.configuration import (
    BelowOne,
    Count,
    Natural,
    NotNegative,
    Positive,
    Seed,
    Share,
    Strict,
    checked,
    read_toml,
)


class BaselineParameters(Strict):
    """Parameters of every baseline.

    Attributes
    ----------
    max_history : number of latest items of a history that are read
    seed : of everything random
    threads : CPU threads; 0: all cores
    """

    max_history: Count = 20
    seed: Seed = 0
    threads: Natural = 0


class EpochParameters(BaselineParameters):
    """Further parameters of baselines trained by gradient descent.

    Attributes
    ----------
    width : of the embeddings
    epochs : upper limit
    patience : validations without a new best before training ends; one validation per epoch
    learning_rate, weight_decay : of AdamW; the rate falls along a cosine to 0 at `epochs`
    warmup_steps : steps over which the rate rises
    clip_norm : largest norm of a gradient
    average : decay of a moving average of the weights, which is validated and saved in their place; 0: no average
    """

    width: Count = 64
    epochs: Count = 20
    patience: Count = 5
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 0.05
    warmup_steps: Count = 50
    clip_norm: Positive = 1.0
    average: BelowOne = 0.0


class SequenceParameters(EpochParameters):
    """Further parameters of networks over sequences.

    Attributes
    ----------
    layers : of the network
    dropout : share of activations dropped in training
    batch_tokens : size of a batch in items, padding included
    """

    layers: Count = 2
    dropout: BelowOne = 0.4
    batch_tokens: Annotated[int, Field(ge=64)] = 1024


class TransformerParameters(SequenceParameters):
    """Further parameters of transformers. `heads`: attention heads, which must divide the width."""

    heads: Count = 2

    @model_validator(mode="after")
    def _heads_part_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width is {self.width}, but must be a multiple of heads, which is {self.heads}")
        return self


class SASRecParameters(TransformerParameters):
    """A causal transformer that predicts the next item at every position."""

    kind: Literal["sasrec"] = "sasrec"


class BERT4RecParameters(TransformerParameters):
    """A bidirectional transformer that predicts masked items.

    Attributes
    ----------
    mask_share : share of the items that is masked
    last_share : share of the rows in which only the last item is masked, as in inference
    """

    kind: Literal["bert4rec"] = "bert4rec"
    epochs: Count = 60
    patience: Count = 8
    mask_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    last_share: Share = 0.2


class GRU4RecParameters(SequenceParameters):
    """A gated recurrent network that predicts the next item at every position."""

    kind: Literal["gru4rec"] = "gru4rec"
    layers: Count = 1


class LightGCNParameters(EpochParameters):
    """Embeddings smoothed over the user-item graph, trained on pairs (BPR).

    Attributes
    ----------
    layers : steps of smoothing
    batch_pairs : interactions per batch, each paired with a random negative
    regularization : weight of the squared embeddings of a batch
    """

    kind: Literal["lightgcn"] = "lightgcn"
    layers: Count = 3
    epochs: Count = 100
    patience: Count = 10
    learning_rate: Positive = 5e-3
    weight_decay: NotNegative = 0.0
    batch_pairs: Count = 2048
    regularization: NotNegative = 1e-4


class FactorizationParameters(BaselineParameters):
    """Implicit-feedback matrix factorisation by alternating least squares.

    Attributes
    ----------
    width : number of factors
    regularization, alpha : penalty on the factors; confidence in an interaction
    iterations : passes over all users and items
    """

    kind: Literal["mf"] = "mf"
    width: Count = 8
    regularization: NotNegative = 10.0
    alpha: Positive = 20.0
    iterations: Count = 15


class PopularityParameters(BaselineParameters):
    """The most frequent items of the training part, for every user."""

    kind: Literal["popularity"] = "popularity"


class RandomParameters(BaselineParameters):
    """A random order of the items for each user."""

    kind: Literal["random"] = "random"


AnyParameters = (
    SASRecParameters
    | BERT4RecParameters
    | GRU4RecParameters
    | LightGCNParameters
    | FactorizationParameters
    | PopularityParameters
    | RandomParameters
)

KINDS: dict[str, type[AnyParameters]] = {
    "sasrec": SASRecParameters,
    "bert4rec": BERT4RecParameters,
    "gru4rec": GRU4RecParameters,
    "lightgcn": LightGCNParameters,
    "mf": FactorizationParameters,
    "popularity": PopularityParameters,
    "random": RandomParameters,
}


def baseline_parameters(values: Mapping[str, Any], where: str) -> AnyParameters:
    """Parameters of the kind named in `values`.

    Raises
    ------
    ConfigError : the kind is missing or unknown, a key is unknown or a value is wrong; names it and `where` it stands
    """
    kind = values.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    return checked(KINDS[kind], values, where)


def read_baseline_parameters(path: Path, overrides: Mapping[str, Any]) -> AnyParameters:
    """Read a TOML file and override it with the command line's values.

    Raises
    ------
    ConfigError : the file is missing or is not TOML, names no known kind, or holds an unknown key or a wrong value
    """
    return baseline_parameters({**read_toml(path), **overrides}, str(path))
