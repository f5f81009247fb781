"""An experiment, read from a small TOML file: what to train, on which domains, with which seeds, how to measure it.

Knows nothing of how the stages are run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service.errors import ConfigError
from training.configuration import Count, Strict, checked, read_toml
from training.laboratory.entries import Baseline, Name, Names, Recommender, Tokenizer
from training.laboratory.rows import EVERY, NONE, POPULARITY, SWITCHED_OFF


class Evaluation(Strict):
    """How ranked lists are measured.

    Attributes
    ----------
    parts : which items are the targets
    beams : beam width of every search
    max_users : per domain, drawn at random; None: all
    """

    parts: Annotated[tuple[Literal["validation", "test"], ...], Field(min_length=1)] = ("validation", "test")
    beams: Annotated[int, Field(ge=10, le=1000)] = 20
    max_users: Count | None = None


class Experiment(Strict):
    """Contents of the file.

    Attributes
    ----------
    protocol : name of this set of sizes and rules; rows are stored under it
    domains : domains to learn from and to measure
    tokenizer_domains : domains that tokenizers learn from; None: `domains`
    unseen : further domains, not trained on, that get IDs; recommenders for all domains are measured on them too
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
        self._refuse_teachers()
        if not self.tokenizers and not self.baselines:
            raise ValueError("nothing to train: there are neither tokenizers nor baselines")
        for baseline in self.baselines:
            strange = sorted(set(baseline.domains or ()) - set(self.domains))
            if strange:
                raise ValueError(f"domains of {baseline.name!r}: {strange[0]!r} is no domain of the experiment")
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
                if tokenizer.takes(recommender.name):
                    self._refuse_pair(tokenizer, recommender)
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

    def _refuse_pair(self, tokenizer: Tokenizer, recommender: Recommender) -> None:
        """Refuse a recommender that cannot be trained on the tokenizer's IDs."""
        if tokenizer.per_domain and not recommender.per_domain:
            raise ValueError(
                f"recommender {recommender.name!r} learns from all domains at once, but tokenizer "
                f"{tokenizer.name!r} is another one for each; set per_domain on the recommender, or choose "
                "others by `recommenders` on the tokenizer"
            )
        if recommender.seeds is not None and len(tokenizer.seeds) > 1:
            raise ValueError(
                f"recommender {recommender.name!r} has seeds of its own, but tokenizer {tokenizer.name!r} has several "
                "too; leave one seed there, or none here"
            )
        others = {each.name for each in self.recommenders if not tokenizer.takes(each.name)}
        strange = [name for name in recommender.teachers if name in others]
        if strange:
            raise ValueError(
                f"recommender {recommender.name!r} on IDs of {tokenizer.name!r}: its teacher {strange[0]!r} is not "
                "trained on these; add it to `recommenders` of the tokenizer"
            )

    def _refuse_teachers(self) -> None:
        """Refuse teachers that are not trained before the recommender, and any with a sweep."""
        for number, taught in enumerate(self.recommenders):
            before = {each.name: each for each in (*self.baselines, *self.recommenders[:number])}
            later = {each.name for each in self.recommenders[number + 1 :]}
            for name in taught.teachers:
                if name == taught.name:
                    wrong = "it cannot teach itself"
                elif name in later:
                    wrong = f"{name!r} stands later in the file; put it before what it teaches"
                elif name not in before:
                    wrong = f"no recommender or baseline is called {name!r}"
                elif taught.sweep or before[name].sweep:
                    wrong = f"{(taught if taught.sweep else before[name]).name!r} is a sweep; write its values out"
                else:
                    continue
                raise ValueError(f"teachers of {taught.name!r}: {wrong}")


def read_experiment(path: Path) -> Experiment:
    """Read the file; paths in it are relative to its folder.

    Raises
    ------
    ConfigError : the file is missing or is not TOML, a file that it names is missing, or a key is unknown or wrong
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
