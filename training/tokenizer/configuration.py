"""The configuration file of `unitok train-tokenizer`: keys of the stage and of one kind of tokenizer.

Knows nothing of data sets or networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from service.errors import ConfigError
from training.configuration import Natural, Strict, checked, read_toml
from training.tokenizer.kinds import DEFAULT, KINDS, AnyParameters
from training.tokenizer.parameters import Parameters


class StageParameters(Strict):
    """The keys of the configuration file.

    Attributes
    ----------
    tokenizer : parameters of one kind; in the file its keys are at the same level as those of the stage, and `kind`
        names the kind
    train_domains : domains to learn from, with one expert each if the kind has experts; None: all of the dataset
    id_domains : domains to give IDs to, trained on or not; None: all of the dataset
    align : whether domains that it was not trained on are aligned with the one whose expert takes most of their items,
        see `alignment.py`
    hold_out : share of the contents of every training domain that is held out, to measure the IDs of such items; see
        `holding_out.py`. Held-out items get IDs like all others
    repair : whether items of different content with equal codes are separated, using free codes of the last level
    suffixes : how many items of one domain may share their codes and experts
    threads : CPU threads; 0 takes every core
    """

    tokenizer: AnyParameters = Parameters()
    train_domains: tuple[str, ...] | None = None
    id_domains: tuple[str, ...] | None = None
    align: bool = False
    hold_out: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    repair: bool = False
    suffixes: Annotated[int, Field(ge=1, le=65536)] = 1024
    threads: Natural = 0

    @model_validator(mode="after")
    def _domains_differ(self) -> Self:
        for key in ("train_domains", "id_domains"):
            names = getattr(self, key)
            if names is not None and len(set(names)) != len(names):
                raise ValueError(f"{key} names a domain twice")
            if names == ():
                raise ValueError(f"{key} is empty; leave it out for every domain")
        if self.repair and not self.tokenizer.MOVABLE:
            raise ValueError(f"repair must be false: items of kind {self.tokenizer.kind!r} cannot take other codes")
        return self


def stage_parameters(values: Mapping[str, Any], where: str) -> StageParameters:
    """Parameters from one mapping with the keys of both the stage and the tokenizer, as in the file.

    Raises
    ------
    ConfigError : a key is unknown or a value is wrong; names every such key, and their source `where`
    """
    kind = values.get("kind", DEFAULT)
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind: no kind of tokenizer is {kind!r}; there are {', '.join(KINDS)}")
    own = [name for name in StageParameters.model_fields if name != "tokenizer"]
    of_tokenizer = {name: value for name, value in values.items() if name not in own}
    tokenizer = checked(KINDS[kind].PARAMETERS, of_tokenizer, where, also_known=own)
    return checked(
        StageParameters, {name: values[name] for name in own if name in values} | {"tokenizer": tokenizer}, where
    )


def read_stage_parameters(path: Path | None, overrides: Mapping[str, Any]) -> StageParameters:
    """Read a TOML file (None: the defaults) and override it with the values of the command line.

    Raises
    ------
    ConfigError : the file is missing, no TOML, or holds an unknown key or a wrong value
    """
    return stage_parameters({**read_toml(path), **overrides}, "command line" if path is None else str(path))
