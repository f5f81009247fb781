"""What a stage of an experiment will really be run with: its configuration, and the defaults of all that it leaves out.

A default that the code has changed makes another training of the same file. Knows nothing of folders and of running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

    from training.laboratory.planned import PlannedStage


def effective_parameters(stage: PlannedStage) -> dict[str, Any]:
    """Every parameter of a stage, as JSON has them, but the threads, by which nothing is another training; none for a
    stage that takes no configuration.

    Raises
    ------
    ConfigError : a key of its configuration is unknown, or a value is wrong; names the stage
    """
    found = _checked(stage)
    return {} if found is None else found.model_dump(mode="json", exclude={"threads"})


def _checked(stage: PlannedStage) -> BaseModel | None:
    # Imported here, as two of them wait for torch.
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
