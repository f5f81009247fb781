"""Parameters of every stage that trains: a number that is not finite is refused, with file and key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from service.errors import ConfigError
from training.baselines.parameters import KINDS as BASELINES
from training.baselines.parameters import read_baseline_parameters
from training.networks.token_moe import TokenMoE
from training.recommender.parameters import RecommenderParameters, read_parameters
from training.tokenizer.configuration import read_stage_parameters
from training.tokenizer.kinds import KINDS as TOKENIZERS
from training.tokenizer.start import start_moe


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


def test_seeds_are_taken_as_far_as_all_that_draws_goes(tmp_path: Path) -> None:
    path = tmp_path / "parameters.toml"
    path.write_text("", encoding="utf-8")
    assert read_parameters(path, {"seed": 2_000_000_000}).seed == 2_000_000_000
    for read in (read_parameters, read_stage_parameters):
        with pytest.raises(ConfigError, match="seed: Input should be less than or equal to"):
            read(path, {"seed": 2**31})
    with pytest.raises(ConfigError, match="seed: Input should be less than or equal to"):
        read_baseline_parameters(path, {"kind": "mf", "seed": 2**31})


def test_the_largest_seed_starts_codes() -> None:
    latents = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    moe = TokenMoE(2, 1, 2, 4, 3)
    start_moe(moe, latents, np.repeat(np.arange(2), 20), 2, 2_000_000_000)
    assert bool(moe.experts.codebooks.isfinite().all())


def test_shapes_that_no_network_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "parameters.toml"
    for kind in ("sasrec", "bert4rec"):
        path.write_text(f'kind = "{kind}"\nwidth = 10\nheads = 4\n', encoding="utf-8")
        with pytest.raises(ConfigError, match="width is 10, but must be a multiple of heads, which is 4"):
            read_baseline_parameters(path, {})
    for greatest in (15, 16, 17):
        path.write_text(f"[network]\nrelative_max_distance = {greatest}\n", encoding="utf-8")
        if greatest > 16:
            assert read_parameters(path, {}).network.relative_max_distance == greatest
            continue
        with pytest.raises(ConfigError, match=f"relative_max_distance is {greatest}, but must be more than half"):
            read_parameters(path, {})
