"""An experiment as a small TOML file says it: what to train, on which domains, how often, and how to measure it.

Knows nothing of how the stages are run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from service.errors import ConfigError
from training.configuration import Count, Seed, Strict, checked, read_toml
from training.laboratory.rows import EVERY, NONE, POPULARITY, SWITCHED_OFF

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]
Values = Annotated[tuple[bool | int | float | str, ...], Field(min_length=1)]

PUT_OVER = {
    "seed": "`seeds` of the tokenizer or baseline",
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
    seeds : one training each, of tokenizer and recommenders alike
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
    """

    per_domain: bool = False


class Baseline(Trained):
    """A sequence baseline, trained on every domain by itself."""

    seeds: Seeds = (0,)


class Evaluation(Strict):
    """How ranked lists are measured.

    Attributes
    ----------
    parts : which items are the targets
    beams : of every search
    max_users : a domain, drawn at random; None: all
    """

    parts: Annotated[tuple[Literal["validation", "test"], ...], Field(min_length=1)] = ("validation", "test")
    beams: Annotated[int, Field(ge=10, le=1000)] = 20
    max_users: Count | None = None


class Experiment(Strict):
    """What the file may hold.

    Attributes
    ----------
    protocol : name of the set of sizes and rules, under which the rows are kept
    domains : domains to learn from and to measure
    tokenizer_domains : domains that tokenizers learn from; None: `domains`
    unseen : further domains that get IDs and, where one recommender serves all, are measured without training
    """

    protocol: Name
    domains: Names
    tokenizer_domains: Names | None = None
    unseen: tuple[Name, ...] = ()
    evaluation: Evaluation = Evaluation()
    tokenizers: tuple[Tokenizer, ...] = ()
    recommenders: tuple[Recommender, ...] = ()
    baselines: tuple[Baseline, ...] = ()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        for group in (self.tokenizers, self.recommenders, self.baselines):
            names = [each.name for each in group]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two entries are called {twice[0]!r}; rows are told apart by the name")
        self._refuse_reserved()
        if not self.tokenizers and not self.baselines:
            raise ValueError("nothing to train: there are neither tokenizers nor baselines")
        for each in (*self.tokenizers, *self.recommenders, *self.baselines):
            if not each.configs:
                continue
            alone = isinstance(each, Baseline) or (isinstance(each, Recommender) and each.per_domain)
            strange = sorted(set(each.configs) - set(self.domains))
            if strange or not alone:
                wrong = f"{strange[0]!r} is no domain of the experiment" if strange else "it is not trained by domain"
                raise ValueError(f"configs of {each.name!r}: {wrong}; it names files by domain, for `per_domain` alone")
        for tokenizer in self.tokenizers:
            unknown = [name for name in tokenizer.recommenders or () if name not in {r.name for r in self.recommenders}]
            if unknown:
                raise ValueError(f"tokenizer {tokenizer.name!r}: no recommender is called {unknown[0]!r}")
            for recommender in self.recommenders:
                if tokenizer.per_domain and tokenizer.takes(recommender.name) and not recommender.per_domain:
                    raise ValueError(
                        f"recommender {recommender.name!r} learns from all domains at once, but tokenizer "
                        f"{tokenizer.name!r} is another one for each; set per_domain on the recommender, or choose "
                        "others by `recommenders` on the tokenizer"
                    )
        return self

    def _refuse_reserved(self) -> None:
        """Refuse names that mean something else in rows. A baseline may be called `popularity`: it has no tokenizer."""
        if EVERY in (*self.domains, *(self.tokenizer_domains or ()), *self.unseen):
            raise ValueError(
                f"a domain is called {EVERY!r}, as rows call what belongs to none; prepare it by another name"
            )
        for each in (*self.tokenizers, *self.recommenders, *self.baselines):
            if each.name == NONE or (each.name == POPULARITY and isinstance(each, Recommender)):
                raise ValueError(f"an entry is called {each.name!r}, which means something else in rows; rename it")
            if each.name.endswith(SWITCHED_OFF):
                raise ValueError(
                    f"{each.name!r} ends in {SWITCHED_OFF!r}, as rows of `without_suffix` do; name it otherwise"
                )


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


def read_experiment(path: Path) -> Experiment:
    """Read the file; paths in it start from the folder it lies in.

    Raises
    ------
    ConfigError : the file or one that it names is missing or no TOML, or a key is unknown or wrong
    """
    values = read_toml(path)
    for group in ("tokenizers", "recommenders", "baselines"):
        for entry in values.get(group, ()):
            if isinstance(entry, dict) and isinstance(entry.get("config"), str):
                entry["config"] = path.parent / entry["config"]
            if isinstance(entry, dict) and isinstance(entry.get("configs"), dict):
                entry["configs"] = {name: path.parent / str(file) for name, file in entry["configs"].items()}
    experiment = checked(Experiment, values, str(path))
    for each in (*experiment.tokenizers, *experiment.recommenders, *experiment.baselines):
        for file in (each.config, *each.configs.values()):
            if file is not None and not file.is_file():
                raise ConfigError(f"{path}: {each.name}: {file}: no such file")
    return experiment
