"""Parameters of every stage that trains: a number that is not finite is refused, with file and key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from service.errors import ConfigError
from training.baselines.parameters import KINDS as BASELINES
from training.baselines.parameters import read_baseline_parameters
from training.recommender.parameters import RecommenderParameters, read_parameters
from training.tokenizer.configuration import read_stage_parameters
from training.tokenizer.kinds import KINDS as TOKENIZERS


def floats(parameters: type[BaseModel]) -> Iterator[str]:
    """Names of the parameters that may be fractions."""
    for name, field in parameters.model_fields.items():
        if "float" in str(field.annotation):
            yield name


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_that_is_not_finite_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "parameters.toml"
    asked = 0
    kinds: list[tuple[type[BaseModel], str, Callable[..., BaseModel]]] = [(RecommenderParameters, "", read_parameters)]
    kinds += [(made.PARAMETERS, f'kind = "{kind}"', read_stage_parameters) for kind, made in TOKENIZERS.items()]
    kinds += [(parameters, f'kind = "{kind}"', read_baseline_parameters) for kind, parameters in BASELINES.items()]
    for parameters, kind, read in kinds:
        for name in floats(parameters):
            path.write_text(f"{name} = {value}\n{kind}\n", encoding="utf-8")
            with pytest.raises(ConfigError, match=rf"parameters\.toml: {name}: Input should be"):
                read(path, {})
            asked += 1
    assert asked > 50
