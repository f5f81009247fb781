"""`tokenizer.json`: the description from which a tokenizer's network is built, before its weights are loaded.

Knows nothing of networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from service.errors import ConfigError
from training.configuration import Count, Strict, problems

WEIGHTS = "tokenizer.safetensors"
DESCRIPTION = "tokenizer.json"
EVERYTHING = "all"
"""Name of the only expert of a tokenizer without a router."""


class Description(Strict):
    """`tokenizer.json`: all that is needed to build the network.

    Attributes
    ----------
    hidden : widths of the encoder's hidden layers; empty for kinds without an encoder
    expert_names : for each of the K experts, the domain from which it was initialised
    sizes : sizes, by name, that depend on the training items
    parameters : of the kind `parameters["kind"]`
    """

    format: Literal[1] = 1
    embedding_width: Count
    hidden: tuple[int, ...] = ()
    expert_names: tuple[str, ...] = (EVERYTHING,)
    sizes: dict[str, int] = Field(default_factory=dict)
    parameters: dict[str, Any]


def read_description(folder: Path) -> Description:
    """Read `tokenizer.json`.

    Raises
    ------
    ConfigError : the file is missing or not understood
    """
    try:
        return Description.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no {DESCRIPTION}; a tokenizer is saved by `unitok train-tokenizer`") from None
    except ValidationError as error:
        raise ConfigError(f"{folder / DESCRIPTION}: {problems(error, 'description')}") from None
