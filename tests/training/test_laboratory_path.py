"""From an experiment's file to rows, through the real stages: planted transitions are found, a killed run goes on."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.synchronize import Event as EventType
from pathlib import Path

import pytest
from laboratory_planted import ITEMS, TWINS, USERS, experiment_file, in_this_process, planted

from service.errors import ConfigError, UnitokError
from training.laboratory.experiment import read_experiment
from training.laboratory.planned import PlannedStage
from training.laboratory.rows import Row, read_rows
from training.laboratory.running import Outcome, Workplace, run_stage
from training.laboratory.stage import run_experiment, time_left

DEADLINE = 500.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("planted")


@pytest.fixture(scope="module")
def place(folder: Path) -> Workplace:
    return planted(folder)


@pytest.fixture(scope="module")
def rows(folder: Path, place: Workplace) -> list[Row]:
    """What the experiment says, run without a break."""
    said: list[str] = []
    experiment = read_experiment(experiment_file(folder))
    path = folder / "rows.jsonl"
    figures = run_experiment(experiment, place, path, execute=in_this_process, say=said.append)
    assert (figures["run"], figures["skipped"]) == (6, 0)
    assert said[0] == "[1/6] train-tokenizer tokenizers/unitok/seed-0"
    assert said[-1].startswith("[6/6] evaluate evaluations/unitok/t5/seed-0/test-without-suffix")
    return read_rows(path)


def value(rows: list[Row], recommender: str, part: str, level: str, metric: str) -> float:
    found = [
        row.value
        for row in rows
        if (row.recommender, row.part, row.level, row.metric) == (recommender, part, level, metric)
    ]
    assert len(found) == 1
    return found[0]


def test_planted_transitions_are_found_through_the_whole_path(rows: list[Row]) -> None:
    """A random list of five would hold the next of 36 items for 14 % of the users."""
    for part in ("validation", "test"):
        assert value(rows, "t5", part, "item", "recall_5") > 0.75
        assert value(rows, "t5", part, "item", "users") == USERS
        assert value(rows, "t5", part, "tuple", "recall_10") >= value(rows, "t5", part, "item", "recall_10")
        # Each item is as popular as another, so that the ten most frequent tuples find little more than chance finds.
        assert value(rows, "popularity", part, "tuple", "recall_10") < 0.6
        assert value(rows, "t5", part, "tuple", "items_sharing") > 2 * TWINS / ITEMS - 1e-4
        # Nothing tells twins apart any more, and half of them come second.
        without = value(rows, "t5-without-suffix", part, "item", "ndcg_10")
        assert without < value(rows, "t5-without-suffix", part, "tuple", "ndcg_10")
    assert value(rows, "none", "items", "id", "items") == ITEMS
    assert value(rows, "none", "items", "id", "perplexity_1") > 8
    assert {row.protocol for row in rows} == {"planted"}


def test_what_is_finished_is_skipped(folder: Path, place: Workplace, rows: list[Row]) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("nothing is left to run")

    experiment = read_experiment(experiment_file(folder))
    figures = run_experiment(experiment, place, folder / "rows.jsonl", execute=refuse, say=lambda _: None)
    assert (figures["run"], figures["skipped"], figures["new_rows"]) == (0, 6, 0)
    assert read_rows(folder / "rows.jsonl") == rows


def test_other_parameters_run_anew_what_they_concern(folder: Path, place: Workplace, rows: list[Row]) -> None:
    experiment = read_experiment(experiment_file(folder))
    wider = experiment.model_copy(update={"evaluation": experiment.evaluation.model_copy(update={"beams": 11})})
    ran: list[str] = []

    def fail(arguments: list[str], _: int) -> None:
        ran.append(arguments[0])
        raise UnitokError("not here")

    elsewhere = Workplace(place.dataset, place.embeddings, place.work, threads=2)
    with pytest.raises(UnitokError, match=r"4 of 6 stages failed:\n  evaluations/unitok/t5/seed-0/validation: not"):
        run_experiment(wider, elsewhere, folder / "other.jsonl", execute=fail, say=lambda _: None)
    assert ran == ["evaluate"] * 4


def test_what_builds_on_a_failed_stage_is_not_run(folder: Path, place: Workplace, tmp_path: Path) -> None:
    experiment = read_experiment(experiment_file(tmp_path))
    ran: list[str] = []

    def fail(arguments: list[str], _: int) -> None:
        ran.append(arguments[0])
        raise UnitokError("no memory")

    elsewhere = Workplace(place.dataset, place.embeddings, tmp_path / "work")
    with pytest.raises(UnitokError, match=r"6 of 6 stages failed(.|\n)*seed-0: builds on tokenizers/unitok/seed-0"):
        run_experiment(experiment, elsewhere, tmp_path / "rows.jsonl", execute=fail, say=lambda _: None)
    assert ran == ["train-tokenizer"]


def test_a_folder_of_others_is_left_alone(place: Workplace, tmp_path: Path) -> None:
    mine = tmp_path / "work" / "tokenizers" / "unitok" / "seed-0"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").write_text("years of work")
    experiment = read_experiment(experiment_file(tmp_path))
    elsewhere = Workplace(place.dataset, place.embeddings, tmp_path / "work")
    with pytest.raises(UnitokError, match="holds files that no experiment wrote there"):
        run_experiment(experiment, elsewhere, tmp_path / "rows.jsonl", execute=in_this_process, say=lambda _: None)
    assert (mine / "thesis.txt").read_text() == "years of work"


def test_a_domain_without_vectors_is_named_before_anything_runs(place: Workplace, tmp_path: Path) -> None:
    experiment = read_experiment(experiment_file(tmp_path))
    elsewhere = Workplace(place.dataset, tmp_path, tmp_path / "work")
    with pytest.raises(ConfigError, match=r"ring\.npy: no such file, but the experiment names its domain"):
        run_experiment(experiment, elsewhere, tmp_path / "rows.jsonl", execute=in_this_process, say=lambda _: None)
    assert not (tmp_path / "work").exists()


def command(place: Workplace, folder: Path, file: Path) -> subprocess.Popen[bytes]:
    """`unitok experiment`, running in a session of its own; works and writes its rows below the folder."""
    words = [sys.executable, "-m", "service.cli.main", "experiment", str(file), "--threads", "1"]
    words += ["--dataset", str(place.dataset), "--embeddings", str(place.embeddings)]
    words += ["--work", str(folder / "work"), "--rows", str(folder / "rows.jsonl")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(words, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)


def has_torch(process: str) -> bool:
    """Whether a process is well under way."""
    try:
        return "libtorch" in Path(f"/proc/{process}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_stage_ends_with_the_experiment_that_is_told_to_end(place: Workplace, tmp_path: Path) -> None:
    """Its process would go on training for hours, and nobody would know."""
    folder = tmp_path / "work" / "tokenizers" / "unitok" / "seed-0"
    with command(place, tmp_path, experiment_file(tmp_path)) as running:
        deadline, pause = time.monotonic() + DEADLINE, threading.Event()
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        while not (folder / "run.json").is_file() or not any(map(has_torch, children.read_text().split())):
            assert running.poll() is None, "the experiment ended before it could be told to"
            assert time.monotonic() < deadline
            pause.wait(0.05)
        running.terminate()
    assert running.returncode == 128 + signal.SIGTERM
    with (folder.parent / ".seed-0.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not (folder / "figures.json").exists()


def test_a_killed_experiment_ends_with_the_same_rows(place: Workplace, rows: list[Row], tmp_path: Path) -> None:
    """The whole process group dies while the recommender learns: one SIGKILL each, no chance to tidy up."""
    work, file, written = tmp_path / "work", experiment_file(tmp_path), tmp_path / "rows.jsonl"
    log = work / "recommenders" / "unitok" / "t5" / "seed-0" / "training.jsonl"
    with command(place, tmp_path, file) as running:
        deadline, pause = time.monotonic() + DEADLINE, threading.Event()
        while not log.is_file() or log.read_text().count("\n") < 3:
            assert running.poll() is None, "the experiment ended before it could be killed"
            assert time.monotonic() < deadline
            pause.wait(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    begun = read_rows(written)
    assert {row.level for row in begun} == {"id"}

    resumed = Workplace(place.dataset, place.embeddings, work, threads=1)
    figures = run_experiment(read_experiment(file), resumed, written, execute=in_this_process, say=lambda _: None)
    assert (figures["run"], figures["skipped"]) == (5, 1)
    assert [row.model_dump(exclude={"seconds"}) for row in read_rows(written)] == [
        row.model_dump(exclude={"seconds"}) for row in rows
    ]


def _orphan(folder: Path, holds: EventType) -> None:
    """What is left of a killed experiment: the process of one stage, which still holds the stage's lock."""
    with (folder.parent / f".{folder.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        holds.set()
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"fingerprint": "f", "commit": "c"}))
        (folder / "figures.json").write_text(json.dumps({"seconds": 2.0}))


def test_a_stage_that_still_runs_is_waited_for(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    holds = context.Event()
    orphan = context.Process(target=_orphan, args=(tmp_path / "stage", holds))
    orphan.start()
    assert holds.wait(DEADLINE)

    def refuse(*_: object) -> None:
        raise AssertionError("the other process has run it")

    stage = PlannedStage("stage", "train-tokenizer", "unitok", "none", 0, ("ring",))
    outcome = run_stage(stage, "f", Workplace(tmp_path, tmp_path, tmp_path), refuse)
    orphan.join()
    assert outcome == Outcome({"seconds": 2.0}, "c", skipped=True)


def test_time_left_is_told_as_far_as_it_is_known() -> None:
    taken = {"train-tokenizer": [60.0, 120.0], "evaluate": []}
    assert time_left(taken, ["evaluate"]) == ""
    assert time_left(taken, ["train-tokenizer"] * 4) == ", about 6 min left"
    assert time_left(taken, ["train-tokenizer"] * 80 + ["evaluate"]) == ", more than 2 h 0 min left"
