"""A recommender is measured and exported with the IDs that it learned, and with no others of their shape."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recommender_planted import RINGS, tiny_parameters, write_ring_ids, write_rings
from tiny import TOKENIZER, TinyStages, write_recommender

from service.engine.sessions import Runtime
from service.errors import ConfigError
from training.evaluation.trained import trained_subject
from training.export.sources import open_sources
from training.ids.table import DomainIds, read_ids, write_ids
from training.networks.t5 import RECORD
from training.recommender.learned_ids import LEARNED_IDS, ids_digest
from training.recommender.stage import train_recommender
from training.stage import FIGURES, read_figures
from training.tokenizer.stage import train_tokenizer

RUNTIME = Runtime(threads=1)


@pytest.fixture(scope="module")
def recommender(dataset: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one of the two domains."""
    folder = tmp_path_factory.mktemp("recommender")
    train_recommender(dataset, tokenizer, folder, tiny_parameters(epochs=1, domains=["ring"], threads=1))
    return folder


def write_ids_of(folder: Path, *ids: DomainIds) -> Path:
    folder.mkdir()
    write_ids(folder, list(ids))
    return folder


def test_ids_of_another_tokenizer_are_not_measured(
    dataset: Path, tokenizer: Path, recommender: Path, tmp_path: Path
) -> None:
    """Of the same shape: a graph over them is proven like any other, and its lists are noise."""
    own, others = read_ids(tokenizer), read_ids(write_ring_ids(tmp_path, RINGS, seed=9))
    mixed = write_ids_of(tmp_path / "mixed", others["ring"], own["other"])
    with pytest.raises(ConfigError, match="learned other IDs of ring than this tokenizer gave; give the tokenizer"):
        trained_subject(mixed, recommender, dataset, tmp_path / "out", RUNTIME)
    assert not (tmp_path / "out").exists()
    fitting = write_ids_of(tmp_path / "fitting", own["ring"], others["other"])
    assert set(trained_subject(fitting, recommender, dataset, tmp_path / "out", RUNTIME).ids) == set(RINGS)


def test_other_histories_of_the_same_ids_are_measured(tokenizer: Path, recommender: Path, tmp_path: Path) -> None:
    since = write_rings(tmp_path / "since", RINGS[::-1])
    assert trained_subject(tokenizer, recommender, since, tmp_path / "out", RUNTIME).parts[0].domains == ["ring"]


def test_ids_are_the_same_in_any_order_of_their_items(tokenizer: Path) -> None:
    ids = read_ids(tokenizer)["ring"]
    rows = np.random.default_rng(0).permutation(len(ids.item_ids))
    item_ids = [ids.item_ids[row] for row in rows]
    moved = DomainIds("ring", item_ids, ids.codes[rows], ids.experts[rows], ids.suffix[rows])
    assert ids_digest(moved) == ids_digest(ids)
    for other in (replace(ids, item_ids=item_ids), replace(ids, suffix=ids.suffix + 1), replace(ids, domain="rung")):
        assert ids_digest(other) != ids_digest(ids)


def test_folders_of_before_are_told_by_histories_and_ids_together(
    dataset: Path, tokenizer: Path, recommender: Path, tmp_path: Path
) -> None:
    older = shutil.copytree(recommender, tmp_path / "older")
    said: dict[str, Any] = {key: value for key, value in read_figures(older).items() if key != LEARNED_IDS}
    (older / FIGURES).write_text(json.dumps(said))
    assert trained_subject(tokenizer, older, dataset, tmp_path / "out", RUNTIME).parts[0].name == "older"
    since, strange = write_rings(tmp_path / "since", RINGS[::-1]), tmp_path / "strange"
    strange.mkdir()
    write_ring_ids(strange, RINGS, seed=9)
    for given in ((strange, dataset), (tokenizer, since)):
        with pytest.raises(ConfigError, match="learned other IDs or other histories of ring than are given here"):
            trained_subject(given[0], older, given[1], tmp_path / "out", RUNTIME)
    (older / FIGURES).write_text(json.dumps({key: said[key] for key in said if key != "learned_from"}))
    with pytest.raises(ConfigError, match="does not say which IDs of ring it learned; train it again"):
        trained_subject(tokenizer, older, dataset, tmp_path / "out", RUNTIME)


def test_an_unfinished_training_is_not_measured(
    dataset: Path, tokenizer: Path, recommender: Path, tmp_path: Path
) -> None:
    """It has weights from its first validation on, but they may not be those that it would have kept."""
    unfinished = shutil.copytree(recommender, tmp_path / "unfinished")
    (unfinished / FIGURES).unlink()
    with pytest.raises(ConfigError, match=r"unfinished: no figures\.json; the stage .* has not finished"):
        trained_subject(tokenizer, unfinished, dataset, tmp_path / "out", RUNTIME)
    (unfinished / RECORD).unlink()
    with pytest.raises(ConfigError, match="has not finished"):
        trained_subject(tokenizer, unfinished, dataset, tmp_path / "out", RUNTIME)


def test_ids_of_another_tokenizer_are_not_exported(stages: TinyStages, tmp_path: Path) -> None:
    """It gave them itself, so that nothing is wrong with them but that the recommender learned others."""
    folders = stages.folders
    seeded = TOKENIZER.model_copy(update={"tokenizer": TOKENIZER.tokenizer.model_copy(update={"seed": 7})})
    train_tokenizer(folders.dataset, folders.embeddings, tmp_path / "tokenizer", seeded)
    other = replace(folders, tokenizer=tmp_path / "tokenizer")
    with pytest.raises(ConfigError, match="recommender: learned other IDs of books than this tokenizer gave"):
        open_sources(other, None)
    assert len(open_sources(folders, None).domains) == 3

    # Of a domain that it did not learn from, it has learned no IDs.
    write_recommender(tmp_path / "books_only", folders.tokenizer, ("books",))
    new = replace(other, recommenders=(tmp_path / "books_only",))
    assert [domain.data.name for domain in open_sources(new, ("tools",)).domains] == ["tools"]
    with pytest.raises(ConfigError, match="books_only: learned other IDs of books"):
        open_sources(new, ("tools", "books"))


def test_an_unfinished_training_is_not_exported(stages: TinyStages, tmp_path: Path) -> None:
    unfinished = shutil.copytree(stages.folders.recommenders[0], tmp_path / "unfinished")
    (unfinished / FIGURES).unlink()
    with pytest.raises(ConfigError, match=r"unfinished: no figures\.json; the stage .* has not finished"):
        open_sources(replace(stages.folders, recommenders=(unfinished,)), None)
