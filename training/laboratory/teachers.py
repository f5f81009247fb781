"""Checks an experiment's teachers by its configurations, before anything is trained.

Otherwise `unitok train-recommender --teacher` would refuse them, perhaps hours later. Knows nothing of data sets:
whether a domain has more items than the student can distinguish is only checked when its stage runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.errors import ConfigError
from training.configuration import checked

if TYPE_CHECKING:
    from training.baselines.parameters import GRU4RecParameters, SASRecParameters
    from training.laboratory.planned import PlannedStage
    from training.recommender.parameters import RecommenderParameters


def require_teaching(taught: PlannedStage, teachers: Sequence[PlannedStage]) -> None:
    """Refuse teachers that cannot teach, and a recommender that cannot learn from any.

    Parameters
    ----------
    taught : a stage that trains a recommender
    teachers : those that it learns from; if empty, nothing is checked

    Raises
    ------
    ConfigError : names both, and says what would be right; or a configuration of one has a wrong key
    """
    if not teachers:
        return
    own = _recommender(taught)
    if own.network.history != "items":
        raise _refused(taught, 'it reads tokens, and only a network with history = "items" can learn from teachers')
    if own.item_loss == 0:
        raise _refused(taught, "its item_loss is 0, so its head over items learns nothing from teachers; raise it")
    learned: dict[str, str] = {}
    for teacher in teachers:
        parameters = _teaching(taught, teacher)
        if parameters.max_history < own.max_history:
            raise _refused(
                taught,
                f"{teacher.recommender!r} reads {parameters.max_history} items of a history, but is asked about "
                f"{own.max_history}; raise its max_history to as many",
            )
        if teacher.command != "train-baseline":
            continue  # what it learns depends on its own teachers too
        said = f"{teacher.reads} {parameters.model_dump_json(exclude={'threads'})}"
        other = learned.setdefault(said, teacher.recommender)
        if other != teacher.recommender:
            raise _refused(
                taught,
                f"{other!r} and {teacher.recommender!r} learn the same with seed {teacher.seed}, and would count "
                "twice; name one of them, or give it other seeds",
            )


def _refused(taught: PlannedStage, wrong: str) -> ConfigError:
    return ConfigError(f"teachers of {taught.recommender!r}: {wrong}")


def _recommender(stage: PlannedStage) -> RecommenderParameters:
    # Imported here, as below, so that experiments without teachers do not wait for the import.
    from training.recommender.parameters import RecommenderParameters  # noqa: PLC0415

    return checked(RecommenderParameters, stage.configuration, stage.name)


def _teaching(
    taught: PlannedStage, teacher: PlannedStage
) -> RecommenderParameters | SASRecParameters | GRU4RecParameters:
    """Parameters of a teacher, whose kind must be able to teach."""
    from training.recommender.teachers import SEQUENCES  # noqa: PLC0415

    name = teacher.recommender
    if teacher.command == "train-baseline":
        kind = str(teacher.configuration.get("kind"))
        if kind not in SEQUENCES:
            raise _refused(
                taught, f"{name!r} is of kind {kind}; of baselines those of {' or '.join(SEQUENCES)} can teach"
            )
        return checked(SEQUENCES[kind], teacher.configuration, teacher.name)
    parameters = _recommender(teacher)
    if parameters.network.history != "items":
        raise _refused(taught, f'{name!r} scores no items; of recommenders those with history = "items" can teach')
    if parameters.domain_token:
        raise _refused(taught, f"{name!r} reads a token of the domain first, with which none can teach; leave it out")
    return parameters
