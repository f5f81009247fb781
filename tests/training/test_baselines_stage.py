"""The stage from a dataset's folder to a folder, and what a kill or a wrong configuration does to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from baselines_planted import domain_of
from recommender_planted import write_dataset
from safetensors.torch import load_file
from typer.testing import CliRunner

from service.cli.main import build
from service.errors import ConfigError, ModelError
from training.baselines import trainer
from training.baselines.corpus import Corpus
from training.baselines.parameters import KINDS, read_baseline_parameters
from training.baselines.stage import train_baseline
from training.checkpoint import CHECKPOINT
from training.data.dataset import DomainData
from training.stage import FIGURES, LOG, read_figures

CONFIGS = Path(__file__).parents[2] / "training" / "configs" / "baselines"
QUICK = {
    "sasrec": {"width": 8, "epochs": 2},
    "bert4rec": {"width": 8, "epochs": 2},
    "gru4rec": {"width": 8, "epochs": 2},
    "lightgcn": {"width": 8, "epochs": 2},
    "mf": {"width": 8, "iterations": 2},
    "popularity": {},
    "random": {},
}


def ring(items: int, users: int) -> DomainData:
    return domain_of("ring", items, [[(user + step) % items for step in range(4 + user % 5)] for user in range(users)])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"), ring(24, 60))


def configuration(folder: Path, kind: str, **values: object) -> Path:
    path = folder / "config.toml"
    lines = {"kind": kind, "threads": 1, **QUICK[kind], **values}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_one_artefact_and_one_line_of_figures(kind: str, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["train-baseline", str(dataset), "--domain", "ring", "--out", str(out)]
    run = CliRunner().invoke(build(), [*arguments, "--config", str(configuration(tmp_path, kind)), "--seed", "3"])
    assert run.exit_code == 0, run.output
    figures = json.loads(run.stdout)
    assert figures == read_figures(out)
    assert (figures["kind"], figures["users"], figures["items"]) == (kind, 60, 24)
    assert figures["configuration"]["seed"] == 3
    for part in ("validation", "test"):
        for found in (figures[part], figures["history_items_removed"][part]):
            assert list(found) == ["recall_5", "recall_10", "ndcg_5", "ndcg_10"]
            assert 0 <= found["ndcg_10"] <= found["recall_10"] <= 1
    assert ("with_repeats" in figures) == (kind in {"sasrec", "bert4rec", "gru4rec"})
    arrays = load_file(out / trainer.MODEL)
    assert figures["parameters"] == sum(array.numel() for array in arrays.values()) > 0
    assert not (out / CHECKPOINT).exists()


def test_as_many_users_are_measured_as_asked_for_whoever_they_were_trained_with(dataset: Path, tmp_path: Path) -> None:
    parameters = read_baseline_parameters(configuration(tmp_path, "sasrec"), {})
    whole, part = (train_baseline(dataset, "ring", tmp_path / str(users), parameters, users) for users in (None, 7))
    assert (whole["users"], part["users"]) == (60, 7)
    assert (whole["training"]["best_epoch"], whole["repeats"]) == (part["training"]["best_epoch"], part["repeats"])
    assert part["test"]["recall_10"] * 7 == pytest.approx(round(part["test"]["recall_10"] * 7), abs=1e-3)
    assert load_file(tmp_path / "7" / trainer.MODEL)["items.table"].equal(
        load_file(tmp_path / "None" / trainer.MODEL)["items.table"]
    )


def test_an_epoch_is_scored_by_the_better_of_history_kept_and_removed(dataset: Path, tmp_path: Path) -> None:
    """As our own recommenders are: in a ring no item comes again, so what takes the history out finds more."""
    values = {"epochs": 6, "patience": 9, "learning_rate": 1e-2}
    parameters = read_baseline_parameters(configuration(tmp_path, "sasrec", **values), {})
    figures = train_baseline(dataset, "ring", tmp_path / "out", parameters)
    scored = [json.loads(line)["ndcg_10"] for line in (tmp_path / "out" / LOG).read_text().splitlines()]
    removed = figures["history_items_removed"]["validation"]["ndcg_10"]
    assert removed > figures["validation"]["ndcg_10"]
    assert max(scored) == scored[figures["training"]["best_epoch"] - 1] == removed


@pytest.mark.parametrize(("kind", "average"), [("sasrec", 0.0), ("sasrec", 0.9), ("bert4rec", 0.0), ("lightgcn", 0.0)])
def test_a_killed_training_ends_with_the_same_weights(
    kind: str, average: float, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"epochs": 4, "patience": 9, "learning_rate": 1e-2, "average": average}
    parameters = read_baseline_parameters(configuration(tmp_path, kind, **values), {})
    train_baseline(dataset, "ring", tmp_path / "whole", parameters)
    save, saved = trainer.save_checkpoint, []

    def killed(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        train_baseline(dataset, "ring", tmp_path / "parts", parameters)
    assert not (tmp_path / "parts" / FIGURES).exists()
    figures = train_baseline(dataset, "ring", tmp_path / "parts", parameters)
    assert len(saved) == 4, "the two finished epochs were not made again"
    assert figures["test"] == read_figures(tmp_path / "whole")["test"]
    whole, parts = (load_file(tmp_path / name / trainer.MODEL) for name in ("whole", "parts"))
    for name, array in whole.items():
        torch.testing.assert_close(parts[name], array, rtol=0, atol=0)


def test_a_checkpoint_of_another_training_is_refused(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = trainer.save_checkpoint

    def killed(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "save_checkpoint", killed)
    config = configuration(tmp_path, "gru4rec")
    parameters, others = read_baseline_parameters(config, {}), read_baseline_parameters(config, {"seed": 1})
    with pytest.raises(KeyboardInterrupt):
        train_baseline(dataset, "ring", tmp_path / "out", parameters)
    with pytest.raises(ConfigError, match="a checkpoint of other parameters or other data"):
        train_baseline(dataset, "ring", tmp_path / "out", others)


def test_a_loss_that_is_no_number_is_named(dataset: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path, "gru4rec", learning_rate=1e38, warmup_steps=1, epochs=3)
    with pytest.raises(ModelError, match=r"the training loss is nan; lower learning_rate"):
        train_baseline(dataset, "ring", tmp_path / "out", read_baseline_parameters(config, {}))


def test_a_domain_without_two_training_interactions_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", domain_of("ring", 9, [[1, 2, 3], [4, 5, 6]]))
    config = configuration(tmp_path, "sasrec")
    with pytest.raises(ConfigError, match="ring: no user has two interactions to learn from"):
        train_baseline(dataset, "ring", tmp_path / "out", read_baseline_parameters(config, {}))
    figures = train_baseline(
        dataset, "ring", tmp_path / "out", read_baseline_parameters(configuration(tmp_path, "mf"), {})
    )
    assert figures["users"] == 2


def test_a_domain_without_a_validation_item_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", domain_of("ring", 9, [[1, 2], [4, 5]]))
    with pytest.raises(ConfigError, match="ring: no user has the 3 interactions"):
        train_baseline(
            dataset, "ring", tmp_path / "out", read_baseline_parameters(configuration(tmp_path, "sasrec"), {})
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width = 8", "kind is None; it must be one of sasrec, bert4rec"),
        ('kind = "svd"', "kind is 'svd'; it must be one of"),
        ('kind = "mf"\nheads = 2', r"heads: unknown key \(known keys: .*alpha"),
        ('kind = "sasrec"\ndropout = 1.5', "dropout: Input should be less than 1"),
        ("kind = ", "not TOML"),
    ],
)
def test_a_wrong_configuration_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_baseline_parameters(path, {})


def test_every_shipped_configuration_can_be_read() -> None:
    kinds = {read_baseline_parameters(path, {}).kind for path in CONFIGS.rglob("*.toml")}
    assert kinds == set(KINDS)


def test_the_training_part_leaves_the_last_two_out() -> None:
    corpus = Corpus.of(domain_of("few", 9, [[1, 2, 3, 4], [5, 6], [7, 8, 0]]), 20)
    had = corpus.interactions()
    assert had.users.tolist() == [0, 0, 1, 1, 2]
    assert had.items.tolist() == [1, 2, 5, 6, 7]
