"""The effective parameters of a stage of an experiment: its configuration, completed by the defaults.

So a default that changes in the code makes a different training of the same file. Knows nothing of folders or running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from training.laboratory.planned import PlannedStage


def effective_parameters(stage: PlannedStage) -> dict[str, Any]:
    """All parameters of a stage in JSON form, except the threads, which do not make a different training.

    Empty for a stage that takes no configuration.

    Raises
    ------
    ConfigError : a key of its configuration is unknown, or a value is wrong; names the stage
    """
    found = _checked(stage)
    return {} if found is None else found.model_dump(mode="json", exclude={"threads"})


def _checked(stage: PlannedStage) -> BaseModel | None:
    # Imported here, since two of them import torch, which takes long.
    match stage.command:
        case "train-tokenizer":
            from training.tokenizer.configuration import stage_parameters  # noqa: PLC0415

            return stage_parameters(stage.configuration, stage.name)
        case "train-recommender":
            from training.configuration import checked  # noqa: PLC0415
            from training.recommender.parameters import RecommenderParameters  # noqa: PLC0415

            return checked(RecommenderParameters, stage.configuration, stage.name)
        case "train-baseline":
            from training.baselines.parameters import baseline_parameters  # noqa: PLC0415

            return baseline_parameters(stage.configuration, stage.name)
        case "evaluate":
            return None
