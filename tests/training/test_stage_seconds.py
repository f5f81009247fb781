"""`seconds` of a stage that was killed: all of its starts count, up to the checkpoint that the last goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory_planted import planted
from recommender_planted import tiny_parameters
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.baselines.parameters import SASRecParameters
from training.baselines.stage import train_baseline
from training.checkpoint import CHECKPOINT, Checkpoint, load_checkpoint, save_checkpoint
from training.laboratory.running import Workplace
from training.recommender.stage import train_recommender
from training.stage import Clock, Stage
from training.tokenizer.configuration import stage_parameters
from training.tokenizer.stage import train_tokenizer

LONG = 1000.0
"""Seconds that none of the stages here takes."""
TOKENIZER: dict[str, Any] = {"levels": 2, "codes": 16, "latent_width": 4, "hidden": [16], "threads": 1}


class Killed(Exception):
    """Stands for the moment at which the process would have ended."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def tokenizer(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    _tokenizer(place, folder, folder)
    return folder


def _tokenizer(place: Workplace, _: Path, out: Path) -> dict[str, Any]:
    parameters = stage_parameters({**TOKENIZER, "warmup_epochs": 1, "epochs": 1}, "parameters")
    return train_tokenizer(place.dataset, place.embeddings, out, parameters)


def _recommender(place: Workplace, tokenizer: Path, out: Path) -> dict[str, Any]:
    parameters = tiny_parameters(epochs=1, threads=1, checkpoint_seconds=0)
    figures = train_recommender(place.dataset, tokenizer, out, parameters)
    assert figures is not None
    return figures


def _baseline(place: Workplace, _: Path, out: Path) -> dict[str, Any]:
    return train_baseline(place.dataset, "ring", out, SASRecParameters(width=8, epochs=1, threads=1))


def written(path: Path, seconds: float | None) -> float:
    """Let a checkpoint say that so many seconds went before it, or nothing of it; what it said."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata())
    said = float(header.pop("seconds"))
    save_file(load_file(path), path, metadata=header if seconds is None else {**header, "seconds": str(seconds)})
    return said


@pytest.mark.parametrize("run", [_tokenizer, _recommender, _baseline])
def test_all_starts_of_a_killed_stage_count(
    run: Callable[[Workplace, Path, Path], dict[str, Any]],
    place: Workplace,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    for before in (LONG, None):
        with monkeypatch.context() as patched:
            patched.setattr(Stage, "finish", killed)
            with pytest.raises(Killed):
                run(place, tokenizer, tmp_path)
        assert 0 < written(tmp_path / CHECKPOINT, before) < LONG
        # A checkpoint from before seconds were written down is gone on from as ever.
        assert (run(place, tokenizer, tmp_path)["seconds"] >= LONG) == (before is not None)


def test_a_checkpoint_counts_the_starts_before_its_own(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    save_checkpoint(Checkpoint(tmp_path / CHECKPOINT, Clock(before=LONG)), network, optimizer, "", {})
    later = Checkpoint(tmp_path / CHECKPOINT)
    assert load_checkpoint(later, network, optimizer, "") == {}
    assert later.clock.before >= LONG
