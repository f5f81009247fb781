"""Entries of an experiment's file: tokenizers, recommenders on their IDs, and baselines to train.

Knows nothing of the experiment as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from training.configuration import Seed, Strict, read_toml
from training.laboratory.rows import SWITCHED_OFF

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Values = Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]

PUT_OVER = {
    "seed": "`seeds` of the tokenizer, recommender or baseline",
    "threads": "the command line's `--threads`",
    "domains": "the experiment's `domains`",
    "train_domains": "the experiment's `domains` or `tokenizer_domains`",
    "id_domains": "the experiment's `domains` and `unseen`",
}
"""Parameters that the experiment overrides in every configuration, and where they are set instead."""


class Trained(Strict):
    """Something to train.

    Attributes
    ----------
    name : in rows, tables and plots
    config : TOML file of the stage's parameters, relative to the experiment's file; None: the stage's defaults
    configs : by domain, a file to use instead of `config`; only if each domain is trained separately
    set : parameters that override those of the file; tables are merged key by key
    sweep : by parameter, the values to try, with all else unchanged; each is trained as `NAME@PARAMETER=VALUE`
    """

    name: Name
    config: Path | None = None
    configs: dict[Name, Path] = Field(default_factory=dict)
    set: dict[str, Any] = Field(default_factory=dict)
    sweep: dict[str, Values] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _nothing_is_put_over(self) -> Self:
        for table, keys in (("set", self.set), ("sweep", self.sweep)):
            for key in keys:
                if key in PUT_OVER:
                    raise ValueError(f"{table} of {self.name!r}: {key} is said by {PUT_OVER[key]}; leave it out here")
        return self

    def variants(self, domain: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and parameters of the trainings of this entry: one, or one for each value of the sweep.

        Parameters
        ----------
        domain : the only domain it is trained on; None: several at once

        Raises
        ------
        ConfigError : its file is missing or is not TOML
        """
        config = self.config if domain is None else self.configs.get(domain, self.config)
        base = _put_over(read_toml(config), self.set)
        if not self.sweep:
            yield self.name, base
        for parameter, values in self.sweep.items():
            for value in values:
                yield variant_name(self.name, parameter, value), {**base, parameter: value}


def _put_over(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The parameters of both, where `over` wins; tables that both have are merged."""
    found = {**values, **over}
    for name in values.keys() & over.keys():
        if isinstance(values[name], dict) and isinstance(over[name], dict):
            found[name] = {**values[name], **over[name]}
    return found


class Tokenizer(Trained):
    """A tokenizer, with recommenders on its IDs.

    Attributes
    ----------
    seeds : one training each, of the tokenizer, and of its recommenders unless they have their own seeds
    per_domain : one tokenizer for each domain, trained on that domain alone, instead of one for all
    without_suffix : measure a second time with disambiguation switched off
    recommenders : names of those trained on its IDs; None: all of the experiment
    """

    seeds: Seeds = (0,)
    per_domain: bool = False
    without_suffix: bool = False
    recommenders: tuple[Name, ...] | None = None

    def takes(self, recommender: str) -> bool:
        """Whether the recommender with that name is trained on its IDs."""
        return self.recommenders is None or recommender in self.recommenders


class Recommender(Trained):
    """A T5, trained on the IDs of tokenizers.

    Attributes
    ----------
    per_domain : one recommender for each domain instead of one for all
    seeds : one training each, on the IDs of tokenizers with a single seed; None: the seeds of the tokenizer
    teachers : names of recommenders and baselines to distil from: all of their seeds with a domain in common;
        recommenders must be on the same IDs
    """

    per_domain: bool = False
    seeds: Seeds | None = None
    teachers: tuple[Name, ...] = ()


class Baseline(Trained):
    """A sequence baseline, trained on each domain separately.

    Attributes
    ----------
    domains : a subset of the experiment's; None: all
    """

    seeds: Seeds = (0,)
    domains: tuple[Name, ...] | None = None


def variant_name(name: str, parameter: str, value: Any) -> str:
    """Name of a member of a sweep."""
    return f"{name}@{parameter}={value}"


def parse_variant(name: str) -> tuple[str, str, str] | None:
    """Name, parameter and value of a member of a sweep; None for anything else.

    Measurements without suffixes form a sweep of their own: its name ends in `SWITCHED_OFF`.
    """
    base, at, setting = name.removesuffix(SWITCHED_OFF).partition("@")
    parameter, equals, value = setting.partition("=")
    measured = SWITCHED_OFF if name.endswith(SWITCHED_OFF) else ""
    return (base + measured, parameter, value) if at and equals else None
