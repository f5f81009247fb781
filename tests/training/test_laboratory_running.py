"""One stage of an experiment: what its folder belongs to, and whose code its figures are of."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from service.errors import ConfigError, UnitokError
from training.baselines.parameters import KINDS as BASELINES
from training.baselines.parameters import SASRecParameters
from training.checkpoint import CHECKPOINT
from training.data.dataset import INTERACTIONS, ITEMS
from training.laboratory import running
from training.laboratory.planned import PlannedStage
from training.laboratory.recording import Recorder
from training.laboratory.running import Workplace, fingerprints, run_stage
from training.recommender import parameters as recommender_parameters
from training.recommender.parameters import RecommenderParameters
from training.stage import FIGURES
from training.tokenizer.clusterings import RqKMeansParameters
from training.tokenizer.kinds import KINDS as TOKENIZERS

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


CONFIGURED = (
    PlannedStage("t", "train-tokenizer", "u", "none", 0, ("shop",), configuration={"kind": "rq-kmeans"}),
    PlannedStage("r", "train-recommender", "u", "t5", 0, ("shop",), ("t",), {"epochs": 2}),
    PlannedStage("e", "evaluate", "u", "t5", 0, ("shop",), ("r", "t"), options=("--beams", "10")),
    PlannedStage("b", "train-baseline", "none", "s", 0, ("shop",), configuration={"kind": "sasrec", "dropout": 0.2}),
)


@pytest.fixture
def stocked(place: Workplace) -> Workplace:
    """With files where a stage's data lie; what they hold is but digested."""
    (place.dataset / "shop").mkdir(parents=True)
    place.embeddings.mkdir()
    for path in (place.dataset / "shop" / ITEMS, place.dataset / "shop" / INTERACTIONS, place.embeddings / "shop.npy"):
        path.write_bytes(b"x")
    return place


class LongerRqKMeans(RqKMeansParameters):
    levels: int = RqKMeansParameters().levels + 1


class LongerRecommender(RecommenderParameters):
    patience: int = RecommenderParameters().patience + 1


class LongerSASRec(SASRecParameters):
    patience: int = SASRecParameters().patience + 1


def test_a_default_that_has_changed_is_another_training(stocked: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures are no longer those that the same file would get, nor are those of what builds on it."""
    before = fingerprints(CONFIGURED, stocked)
    assert fingerprints(CONFIGURED, stocked) == before

    def changed() -> set[str]:
        found = fingerprints(CONFIGURED, stocked)
        return {name for name in before if found[name] != before[name]}

    with monkeypatch.context() as patched:
        patched.setattr(TOKENIZERS["rq-kmeans"], "PARAMETERS", LongerRqKMeans)
        assert changed() == {"t", "r", "e"}
    with monkeypatch.context() as patched:
        patched.setattr(recommender_parameters, "RecommenderParameters", LongerRecommender)
        assert changed() == {"r", "e"}
    with monkeypatch.context() as patched:
        patched.setitem(BASELINES, "sasrec", LongerSASRec)
        assert changed() == {"b"}


def test_what_says_the_same_is_the_same_training(stocked: Workplace) -> None:
    """A default that is written out, and other threads, change nothing."""
    written = {"epochs": 2, "patience": RecommenderParameters().patience, "threads": 7}
    stages = [replace(stage, configuration=written) if stage.name == "r" else stage for stage in CONFIGURED]
    assert fingerprints(stages, stocked) == fingerprints(CONFIGURED, stocked)


def test_a_mistyped_key_is_refused_before_anything_runs(stocked: Workplace) -> None:
    stages = [replace(stage, configuration={"epoch": 2}) if stage.name == "r" else stage for stage in CONFIGURED]
    with pytest.raises(ConfigError, match="r: epoch: unknown key"):
        fingerprints(stages, stocked)
