"""The stage from folders to a folder, in one process and in two that share the work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recommender_planted import RINGS, TINY, random_values, tiny_parameters

from service.errors import ConfigError, ModelError
from service.semantic_ids import TokenLayout
from training.checkpoint import CHECKPOINT
from training.data.dataset import Dataset
from training.ids.table import DomainIds, write_ids
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import WEIGHTS, load_recommender
from training.recommender import stage
from training.recommender.likeness import likeness_rows
from training.recommender.stage import load_corpus, train_recommender
from training.recommender.trainer import Trainer
from training.stage import FIGURES, LOG, read_figures


@pytest.mark.parametrize(("domain_token", "expert_first"), [(False, False), (True, False), (False, True)])
def test_the_folder_holds_all_that_an_export_needs(
    dataset: Path, tokenizer: Path, tmp_path: Path, domain_token: bool, expert_first: bool
) -> None:
    parameters = tiny_parameters(
        epochs=1, domains=["other", "ring"], domain_token=domain_token, expert_first=expert_first, threads=1
    )
    figures = train_recommender(dataset, tokenizer, tmp_path, parameters)
    assert figures is not None
    assert figures == read_figures(tmp_path)
    assert (figures["domains"], figures["items"], figures["devices"]) == (["other", "ring"], 48, 1)
    found = load_recommender(tmp_path)
    assert (found.trained_on, found.settings, found.max_history) == (("other", "ring"), TINY, 20)
    assert found.layout.domains == (("other", "ring") if domain_token else ())
    assert found.layout.expert_first == expert_first
    assert found.model.config.vocab_size == found.layout.vocabulary == figures["vocabulary"]
    assert figures["parameters"] == sum(each.numel() for each in found.model.parameters())


def test_where_there_is_no_expert_none_comes_first(dataset: Path, tmp_path: Path) -> None:
    rng, layout = (
        np.random.default_rng(1),
        {"levels": 2, "codes": 8, "experts": 1, "experts_per_item": 0, "suffixes": 4},
    )
    values = {name: random_values(TokenLayout(**layout), 24, rng) for name in RINGS}
    none = np.zeros((24, 0), dtype=np.int32)
    (tmp_path / "tokenizer").mkdir()
    write_ids(
        tmp_path / "tokenizer",
        [
            DomainIds(name, [f"{name}-{row}" for row in range(24)], each[:, :2], none, each[:, 2])
            for name, each in values.items()
        ],
    )
    (tmp_path / "tokenizer" / FIGURES).write_text(json.dumps({"layout": layout}))
    corpus = load_corpus(Dataset.open(dataset), tmp_path / "tokenizer", tiny_parameters(expert_first=True))
    assert corpus.layout == TokenLayout(**layout)


def test_domains_without_ids_or_histories_are_named(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no IDs for films; there are some for ring, other"):
        train_recommender(dataset, tokenizer, tmp_path, tiny_parameters(domains=["films"]))
    with pytest.raises(ConfigError, match=r"ids\.parquet: no such file"):
        train_recommender(dataset, dataset, tmp_path, tiny_parameters())


def test_training_begins_from_content_only_where_it_is_given(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    parameters = tiny_parameters(epochs=1, domains=["other", "ring"], content_start=0.8)
    with pytest.raises(ConfigError, match="give --embeddings the folder"):
        train_recommender(dataset, tokenizer, tmp_path, parameters)
    rng = np.random.default_rng(0)
    for name in RINGS:
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(24, 6)).astype(np.float32))
    losses = []
    for share in (0.0, 0.8):
        out = tmp_path / str(share)
        train_recommender(dataset, tokenizer, out, parameters.model_copy(update={"content_start": share}), tmp_path)
        losses.append(json.loads((out / LOG).read_text().splitlines()[0])["loss"])
    assert losses[0] != losses[1]


def test_likeness_is_made_of_content_and_stays_as_it_was_made(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    network = {**TINY.model_dump(), "history": "items", "item_head": 0.6, "likeness": True}
    parameters = tiny_parameters(epochs=1, domains=["other", "ring"], network=network, average=0.9)
    with pytest.raises(ConfigError, match="give --embeddings the folder"):
        train_recommender(dataset, tokenizer, tmp_path, parameters)
    vectors = np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32)
    for name, part in zip(("other", "ring"), np.split(vectors, 2), strict=True):
        np.save(tmp_path / f"{name}.npy", part)
    train_recommender(dataset, tokenizer, tmp_path / "out", parameters, tmp_path)
    corpus, trained = load_corpus(Dataset.open(dataset), tokenizer, parameters), load_recommender(tmp_path / "out")
    tokens = torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
    expected = likeness_rows(corpus.layout, tokens, vectors, TINY.d_model)
    assert isinstance(trained.model, SemanticT5)
    torch.testing.assert_close(trained.model.item_likeness, expected, rtol=0, atol=0)
    assert trained.settings.likeness


# A group that the averaging of gradients is the last to hold may wait for ever, so none may be left at the end.
ENDING = """
import gc
import sys
import typer
from accelerate import Accelerator
from torch.nn.parallel import DistributedDataParallel
from training.commands.train_recommender import train_recommender

end = Accelerator.end_training

def end_training(self):
    assert not any(type(thing) is DistributedDataParallel for thing in gc.get_objects())
    print("nothing holds the group", file=sys.stderr)
    end(self)

Accelerator.end_training = end_training
typer.run(train_recommender)
"""


def test_two_processes_train_one_recommender(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Each takes every second batch; by chance, 42 % of the lists would hold the target."""
    config = tmp_path / "config.toml"
    network = "\n".join(f"{name} = {json.dumps(value)}" for name, value in TINY.model_dump().items())
    config.write_text(
        "epochs = 12\npatience = 12\nbatch_tokens = 512\nlearning_rate = 5e-3\nwarmup_steps = 10\n"
        f"validation_users = 120\nvalidation_beams = 10\n[network]\n{network}\n"
    )
    script = tmp_path / "script.py"
    script.write_text(ENDING)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(script), str(dataset), str(tokenizer), "--out", str(out), "--config", str(config)]
    command += ["--threads", "1"]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("nothing holds the group") == 2
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == 1, "one line of figures, from the first process alone"
    figures = json.loads(lines[0])
    assert figures == read_figures(out)
    assert figures["devices"] == 2
    assert figures["best"]["recall_10"] > 0.6


def test_what_is_learned_of_repeats_is_in_the_folder(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    """A walk around a ring of 24 comes to no item twice."""
    network = {**TINY.model_dump(), "history": "items", "item_head": 0.6}
    parameters = tiny_parameters(epochs=3, domains=["other", "ring"], network=network, threads=1)
    figures = train_recommender(dataset, tokenizer, tmp_path, parameters)
    assert figures is not None
    repeats = load_recommender(tmp_path).repeats
    assert {name: learned.model_dump() for name, learned in repeats.items()} == figures["repeats"]
    assert set(repeats) == {"other", "ring"}
    assert all(learned.bonus <= 0 for learned in repeats.values())
    assert min(learned.bonus for learned in repeats.values()) < 0
    assert load_recommender(tmp_path).model.item_share == 0.6


def test_a_stage_killed_after_its_training_does_not_train_again(
    dataset: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = tiny_parameters(epochs=2, domains=["ring"], threads=1, checkpoint_seconds=0)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage, "learn_repeats", killed)
        with pytest.raises(KeyboardInterrupt):
            train_recommender(dataset, tokenizer, tmp_path, parameters)
    trained = (tmp_path / WEIGHTS).read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_step", killed)
        figures = train_recommender(dataset, tokenizer, tmp_path, parameters)
    assert figures is not None
    assert figures == read_figures(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == trained
    assert not (tmp_path / CHECKPOINT).exists()
    # Over both starts.
    log = [json.loads(line) for line in (tmp_path / LOG).read_text(encoding="utf-8").splitlines()]
    assert figures["training_seconds"] >= log[-1]["seconds"]


def test_a_training_that_begins_anew_leaves_no_weights_of_one_before(
    dataset: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new record would say of them what they are not, such as how long a history they read."""
    train_recommender(dataset, tokenizer, tmp_path, tiny_parameters(epochs=1, domains=["ring"], threads=1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", killed)
    other = tiny_parameters(epochs=1, domains=["ring"], threads=1, max_history=2, seed=9)
    with pytest.raises(KeyboardInterrupt):
        train_recommender(dataset, tokenizer, tmp_path, other)
    with pytest.raises(ConfigError, match=r"model\.safetensors: no such file"):
        load_recommender(tmp_path)


def test_damaged_artefacts_are_named(dataset: Path, tokenizer: Path, tmp_path: Path) -> None:
    parameters = tiny_parameters(epochs=1, domains=["ring"], threads=1)
    train_recommender(dataset, tokenizer, tmp_path, parameters)
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors: is damaged"):
        load_recommender(tmp_path)
    (tmp_path / FIGURES).write_text("{")
    with pytest.raises(ConfigError, match=r"figures\.json: is damaged.*stage again"):
        read_figures(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(dataset, copy)
    (copy / "ring" / "interactions.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"interactions\.parquet: is missing or damaged.*prepare anew"):
        Dataset.open(copy)["ring"]
    (copy / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match=r"dataset\.json: is damaged"):
        Dataset.open(copy)
