"""Registry of the kinds of tokenizer by name: make one from its parameters, or load one of any kind.

Knows nothing of data sets.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from service.errors import ConfigError
from training.tokenizer.autoencoders import (
    Cost,
    CostParameters,
    LcRec,
    LcRecParameters,
    Letter,
    LetterParameters,
    RqVae,
    RqVaeParameters,
)
from training.tokenizer.clusterings import (
    HierarchicalKMeans,
    HierarchicalParameters,
    ProductParameters,
    ProductQuantization,
    RqKMeans,
    RqKMeansParameters,
)
from training.tokenizer.description import DESCRIPTION, read_description
from training.tokenizer.estimator import UniTok
from training.tokenizer.interface import Tokenizer
from training.tokenizer.lookups import (
    Atomic,
    AtomicParameters,
    CategoryPath,
    CategoryPathParameters,
    TitleTokens,
    TitleTokensParameters,
)
from training.tokenizer.parameters import Parameters, TokenizerParameters

AnyParameters = Annotated[
    Parameters
    | RqVaeParameters
    | LetterParameters
    | LcRecParameters
    | CostParameters
    | RqKMeansParameters
    | ProductParameters
    | HierarchicalParameters
    | CategoryPathParameters
    | TitleTokensParameters
    | AtomicParameters,
    Field(discriminator="kind"),
]
"""Parameters of any kind, discriminated by `kind`."""

DEFAULT = Parameters().kind

KINDS: dict[str, type[Tokenizer]] = {
    "unitok": UniTok,
    "rq-vae": RqVae,
    "letter": Letter,
    "lc-rec": LcRec,
    "cost": Cost,
    "rq-kmeans": RqKMeans,
    "product": ProductQuantization,
    "hierarchical": HierarchicalKMeans,
    "category-path": CategoryPath,
    "title-tokens": TitleTokens,
    "atomic": Atomic,
}


def make_tokenizer(parameters: TokenizerParameters) -> Tokenizer:
    """Make an untrained tokenizer."""
    return KINDS[parameters.kind](**parameters.model_dump())


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a saved tokenizer of any kind.

    Raises
    ------
    ConfigError : a file is missing, or its description is not understood
    ModelError : weights and description do not fit each other
    """
    kind = read_description(folder).parameters.get("kind", DEFAULT)
    if kind not in KINDS:
        raise ConfigError(f"{folder / DESCRIPTION}: no kind of tokenizer is {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind].load(folder)
