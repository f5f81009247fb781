"""The plan of an experiment: its stages, each one command line of `unitok` with its own folder.

Knows nothing of running them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from service.errors import ConfigError
from training.laboratory.entries import Tokenizer
from training.laboratory.experiment import Experiment
from training.laboratory.planned import PlannedStage
from training.laboratory.rows import NONE, SWITCHED_OFF
from training.laboratory.teachers import require_teaching


def plan(experiment: Experiment, only: Sequence[str] = ()) -> list[PlannedStage]:
    """All stages in the order in which they run: sorted by seed, but each after the stages that it depends on.

    Parameters
    ----------
    only : names of tokenizers, recommenders and baselines, `*` for any characters; empty: everything

    Raises
    ------
    ConfigError : a name of `only` matches nothing, or a teacher cannot teach
    """
    stages = [stage for tokenizer in experiment.tokenizers for stage in _with_tokenizer(experiment, tokenizer)]
    stages += _baselines(experiment)
    stages.sort(key=lambda stage: stage.seed)
    stages = _ordered(list(_taught(experiment, stages)))
    return _chosen(stages, only) if only else stages


def _with_tokenizer(experiment: Experiment, tokenizer: Tokenizer) -> Iterator[PlannedStage]:
    """Trainings of a tokenizer, and all stages on its IDs."""
    for name, parameters in tokenizer.variants():
        for seed in tokenizer.seeds:
            stage_of: dict[str, str] = {}
            for group in _groups(experiment.domains, tokenizer.per_domain):
                learned = group if tokenizer.per_domain else experiment.tokenizer_domains or group
                named = group if tokenizer.per_domain else (*group, *experiment.unseen)
                domains = {"train_domains": list(learned), "id_domains": list(named)}
                stage = PlannedStage(
                    name=_folder("tokenizers", name, seed, group, tokenizer.per_domain),
                    command="train-tokenizer",
                    tokenizer=name,
                    recommender=NONE,
                    seed=seed,
                    reads=tuple(dict.fromkeys([*learned, *named])),
                    configuration={**parameters, **domains, "seed": seed},
                )
                stage_of |= dict.fromkeys(named, stage.name)
                yield stage
            yield from _recommenders(experiment, tokenizer, name, seed, stage_of)


def _recommenders(
    experiment: Experiment, tokenizer: Tokenizer, name: str, seed: int, stage_of: dict[str, str]
) -> Iterator[PlannedStage]:
    """Recommenders on the IDs of one trained tokenizer, and their evaluations."""
    for recommender in experiment.recommenders:
        if not tokenizer.takes(recommender.name):
            continue
        for group in _groups(experiment.domains, recommender.per_domain):
            for called, parameters in recommender.variants(group[0] if recommender.per_domain else None):
                for own in recommender.seeds or (seed,):
                    trained = PlannedStage(
                        name=_folder(f"recommenders/{name}", called, own, group, recommender.per_domain),
                        command="train-recommender",
                        tokenizer=name,
                        recommender=called,
                        seed=own,
                        reads=group,
                        after=(stage_of[group[0]],),
                        configuration={**parameters, "domains": list(group), "seed": own},
                    )
                    yield trained
                    measured = group if recommender.per_domain else (*group, *experiment.unseen)
                    for switched_off in (False, True) if tokenizer.without_suffix else (False,):
                        yield from _evaluations(experiment, trained, measured, switched_off)


def _evaluations(
    experiment: Experiment, trained: PlannedStage, domains: tuple[str, ...], switched_off: bool
) -> Iterator[PlannedStage]:
    """The evaluations of one trained recommender."""
    rules = experiment.evaluation
    options = ["--domains", ",".join(domains), "--beams", str(rules.beams)]
    options += [] if rules.max_users is None else ["--max-users", str(rules.max_users)]
    options += ["--without-suffix", str(trained.seed)] if switched_off else []
    suffix = SWITCHED_OFF if switched_off else ""
    for part in rules.parts:
        yield PlannedStage(
            name=f"{trained.name.replace('recommenders/', 'evaluations/', 1)}/{part}{suffix}",
            command="evaluate",
            tokenizer=trained.tokenizer,
            recommender=trained.recommender + suffix,
            seed=trained.seed,
            reads=domains,
            after=(trained.name, trained.after[0]),
            options=(*options, "--split", part),
        )


def _baselines(experiment: Experiment) -> Iterator[PlannedStage]:
    users = experiment.evaluation.max_users
    measured = () if users is None else ("--max-users", str(users))
    for baseline in experiment.baselines:
        for domain in experiment.domains if baseline.domains is None else baseline.domains:
            for name, parameters in baseline.variants(domain):
                for seed in baseline.seeds:
                    yield PlannedStage(
                        name=_folder("baselines", name, seed, (domain,), True),
                        command="train-baseline",
                        tokenizer=NONE,
                        recommender=name,
                        seed=seed,
                        reads=(domain,),
                        configuration={**parameters, "seed": seed},
                        options=("--domain", domain, *measured),
                    )


def _taught(experiment: Experiment, stages: Sequence[PlannedStage]) -> Iterator[PlannedStage]:
    """The stages, with each recommender's teachers added to `after`, behind its tokenizer."""
    teachers = {each.name: each.teachers for each in experiment.recommenders}
    for stage in stages:
        names = teachers.get(stage.recommender, ()) if stage.command == "train-recommender" else ()
        teaching = [
            other
            for other in stages
            if other.recommender in names
            # Baselines depend on nothing, recommenders that can teach on the same tokenizer, evaluations on two.
            and other.after in ((), stage.after)
            and set(other.reads) & set(stage.reads)
        ]
        require_teaching(stage, teaching)
        yield replace(stage, after=(*stage.after, *(other.name for other in teaching)))


def _ordered(stages: Sequence[PlannedStage]) -> list[PlannedStage]:
    """The stages in the given order, except that each comes after those it depends on."""
    named = {stage.name: stage for stage in stages}
    ordered: dict[str, PlannedStage] = {}

    def append(stage: PlannedStage) -> None:
        if stage.name not in ordered:
            for name in stage.after:
                append(named[name])
            ordered[stage.name] = stage

    for stage in stages:
        append(stage)
    return list(ordered.values())


def _groups(domains: tuple[str, ...], per_domain: bool) -> list[tuple[str, ...]]:
    """Groups of domains that are trained together."""
    return [(domain,) for domain in domains] if per_domain else [domains]


def _folder(kind: str, name: str, seed: int, group: tuple[str, ...], per_domain: bool) -> str:
    folder = f"{kind}/{name}/seed-{seed}"
    return f"{folder}/{group[0]}" if per_domain else folder


def _chosen(stages: list[PlannedStage], only: Iterable[str]) -> list[PlannedStage]:
    """The stages that match the names, and those that they depend on."""
    wanted: set[str] = set()
    for pattern in only:
        fitting = [
            stage
            for stage in stages
            if any(fnmatchcase(name, pattern) for name in (stage.tokenizer, stage.recommender))
        ]
        if not fitting:
            names = sorted({name for stage in stages for name in stage.labels} - {NONE})
            raise ConfigError(f"--only {pattern}: fits nothing; there are {', '.join(names)}")
        wanted |= {stage.name for stage in fitting}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted |= set(stage.after)
    return [stage for stage in stages if stage.name in wanted]
