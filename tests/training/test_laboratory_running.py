"""One stage of an experiment: what its folder belongs to, and whose code its figures are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from service.errors import UnitokError
from training.checkpoint import CHECKPOINT
from training.laboratory import running
from training.laboratory.planned import PlannedStage
from training.laboratory.recording import Recorder
from training.laboratory.running import Workplace, run_stage
from training.stage import FIGURES

STAGE = PlannedStage("tokenizers/u/seed-0", "train-tokenizer", "u", "none", 0, ("shop",))


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "dataset", tmp_path / "embeddings", tmp_path / "work")


def leaves(place: Workplace, *files: str) -> Callable[[Sequence[str], int], None]:
    """A start that leaves files in the stage's folder, and fails unless its figures are among them."""

    def execute(*_: object) -> None:
        for name in files:
            figures = {"seconds": 1.0, "parameter_counts": {}, "domains": {"shop": {"items": 3}}}
            (place.work / STAGE.name / name).write_text(json.dumps(figures))
        if FIGURES not in files:
            raise UnitokError("no memory")

    return execute


def at(monkeypatch: pytest.MonkeyPatch, commit: str) -> None:
    monkeypatch.setattr(running, "commit", lambda: commit)


def test_figures_are_of_the_code_that_made_them(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not of a first attempt, of which nothing is left."""
    at(monkeypatch, "a")
    with pytest.raises(UnitokError, match="no memory"):
        run_stage(STAGE, "f", place, leaves(place, "training.jsonl"))
    at(monkeypatch, "b")
    assert run_stage(STAGE, "f", place, leaves(place, FIGURES)).commit == "b"
    at(monkeypatch, "c")
    skipped = run_stage(STAGE, "f", place, leaves(place))
    assert (skipped.commit, skipped.skipped) == ("b", True)


def test_figures_of_a_training_that_went_on_name_all_its_code(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for commit in ("a", "a", "b", "a"):
        at(monkeypatch, commit)
        with pytest.raises(UnitokError, match="no memory"):
            run_stage(STAGE, "f", place, leaves(place, CHECKPOINT))
    at(monkeypatch, "c")
    outcome = run_stage(STAGE, "f", place, leaves(place, FIGURES))
    assert outcome.commit == "a..b..a..c"
    (row,) = Recorder("p", STAGE, outcome.commit, 1.0).rows(outcome.figures)
    assert row.commit == outcome.commit

    # Another training has nothing of it.
    assert run_stage(STAGE, "g", place, leaves(place, FIGURES)).commit == "c"
