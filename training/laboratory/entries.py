"""What an experiment's file may have trained: tokenizers, recommenders on their IDs, and baselines.

Knows nothing of what makes an experiment of them.
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
"""Parameters that the experiment puts over every configuration, and what says them."""


class Trained(Strict):
    """Something to train.

    Attributes
    ----------
    name : in rows, tables and plots
    config : TOML file of the stage's parameters, beside which the experiment lies; None: the stage's defaults
    configs : by domain, a file in place of `config`; only where each domain has a training of its own
    set : parameters put over those of the file, those of a table key by key
    sweep : parameters, each with the values to try one after the other beside the rest: `NAME@PARAMETER=VALUE`
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
        """Names and parameters of all that is to be trained: itself, or one for each value of the sweep.

        Parameters
        ----------
        domain : that it is trained for alone; None: for several at once

        Raises
        ------
        ConfigError : its file is missing or no TOML
        """
        config = self.config if domain is None else self.configs.get(domain, self.config)
        base = _put_over(read_toml(config), self.set)
        if not self.sweep:
            yield self.name, base
        for parameter, values in self.sweep.items():
            for value in values:
                yield variant_name(self.name, parameter, value), {**base, parameter: value}


def _put_over(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """The parameters of both; of a table that both have, the keys of both."""
    found = {**values, **over}
    for name in values.keys() & over.keys():
        if isinstance(values[name], dict) and isinstance(over[name], dict):
            found[name] = {**values[name], **over[name]}
    return found


class Tokenizer(Trained):
    """A tokenizer, with recommenders on its IDs.

    Attributes
    ----------
    seeds : one training each, of tokenizer and recommenders alike unless these have seeds of their own
    per_domain : one tokenizer for each domain, trained on that alone, rather than one for all
    without_suffix : measure once more with the disambiguation switched off
    recommenders : names of those trained on its IDs; None: all of the experiment
    """

    seeds: Seeds = (0,)
    per_domain: bool = False
    without_suffix: bool = False
    recommenders: tuple[Name, ...] | None = None

    def takes(self, recommender: str) -> bool:
        """Whether the recommender of that name is trained on its IDs."""
        return self.recommenders is None or recommender in self.recommenders


class Recommender(Trained):
    """A T5, trained on the IDs of tokenizers.

    Attributes
    ----------
    per_domain : one recommender for each domain rather than one for all
    seeds : one training each, on the IDs of tokenizers of one seed; None: the seeds of the tokenizer
    teachers : names of recommenders and baselines to learn from as well, every seed of them that learned from the same
        domains; of recommenders those on the same IDs
    """

    per_domain: bool = False
    seeds: Seeds | None = None
    teachers: tuple[Name, ...] = ()


class Baseline(Trained):
    """A sequence baseline, trained on every domain by itself.

    Attributes
    ----------
    domains : of the experiment's; None: all
    """

    seeds: Seeds = (0,)
    domains: tuple[Name, ...] | None = None


def variant_name(name: str, parameter: str, value: Any) -> str:
    """Name of a member of a sweep."""
    return f"{name}@{parameter}={value}"


def parse_variant(name: str) -> tuple[str, str, str] | None:
    """Name, parameter and value of a member of a sweep; None for anything else.

    What was measured without suffixes is a sweep of its own: its name ends in that.
    """
    base, at, setting = name.removesuffix(SWITCHED_OFF).partition("@")
    parameter, equals, value = setting.partition("=")
    measured = SWITCHED_OFF if name.endswith(SWITCHED_OFF) else ""
    return (base + measured, parameter, value) if at and equals else None
