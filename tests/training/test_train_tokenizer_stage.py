"""The stage train-tokenizer, from a prepared dataset to IDs and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizer_planted import ITEMS, WIDTH, small, write_prepared

from service.errors import ConfigError, InvalidInput, SuffixExhausted
from training.checkpoint import CHECKPOINT
from training.commands.train_tokenizer import train_tokenizer as command
from training.ids.table import IDS, read_ids
from training.stage import FIGURES, Stage, read_figures
from training.tokenizer import stage
from training.tokenizer.estimator import UniTok
from training.tokenizer.holding_out import learned_from


@pytest.fixture
def prepared(tmp_path: Path) -> tuple[Path, Path]:
    return write_prepared(tmp_path)


def test_every_item_of_every_domain_gets_an_id(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    figures = stage.train_tokenizer(*prepared, out, small(train_domains=("books", "films")))
    assert figures == read_figures(out)
    assert figures["layout"] == {"levels": 2, "codes": 16, "experts": 2, "experts_per_item": 1, "suffixes": 1024}
    assert figures["expert_names"] == ["books", "films"]
    counts = figures["parameter_counts"]
    assert counts["codebook"] == 3 * 2 * 16 * 4
    assert counts["router"] == 2 * 4 + 2
    assert counts["autoencoder"] == (10 * 16 + 16 + 16 * 4 + 4) + (4 * 16 + 16 + 16 * 10 + 10)
    assert counts["total"] == counts["codebook"] + counts["router"] + counts["autoencoder"]
    assert [figures["domains"][name]["trained"] for name in ITEMS] == [True, True, False]
    ids = read_ids(out)
    tokenizer = UniTok.load(out)
    for name, count in ITEMS.items():
        assert list(ids[name].item_ids) == [f"{name}-{row}" for row in range(count)]
        encoded = tokenizer.encode(np.load(prepared[1] / f"{name}.npy"))
        np.testing.assert_array_equal(ids[name].codes, encoded.codes)
        np.testing.assert_array_equal(ids[name].experts, encoded.experts)
        full = np.column_stack([ids[name].codes, ids[name].experts, ids[name].suffix])
        assert len(np.unique(full, axis=0)) == count
        quality = figures["domains"][name]
        assert quality["items"] == count
        assert sum(quality["expert_share"].values()) == pytest.approx(1, abs=1e-4)
        assert len(quality["perplexity"]) == 2
        assert quality["relative_reconstruction_error"] > 0
    assert ids["books"].codes[-1].tolist() == ids["books"].codes[-2].tolist()
    assert ids["books"].suffix[-1] > ids["books"].suffix[-2]
    assert figures["domains"]["books"]["distinct_contents"] == 89
    assert len(figures["log"]) == 4
    assert not (out / CHECKPOINT).exists()


def test_repair_moves_items_of_different_content_apart_and_counts_them(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    before = stage.train_tokenizer(*prepared, tmp_path / "nearest", small())
    after = stage.train_tokenizer(*prepared, tmp_path / "repaired", small(repair=True))
    nearest, repaired = read_ids(tmp_path / "nearest"), read_ids(tmp_path / "repaired")
    for name in ITEMS:
        quality = after["domains"][name]
        # Figures of the nearest codes stand as they are; what the repair did stands beside them.
        assert {key: quality[key] for key in before["domains"][name]} == before["domains"][name]
        assert quality["sharing_beyond_equal_content"] > 0
        assert quality["repaired_sharing_beyond_equal_content"] == 0
        changed = repaired[name].codes != nearest[name].codes
        assert not changed[:, 0].any()
        assert quality["items_moved"] == changed[:, 1].sum() > 0
    assert repaired["books"].codes[-1].tolist() == repaired["books"].codes[-2].tolist()
    assert repaired["books"].suffix[-1] > repaired["books"].suffix[-2]


class Killed(Exception):
    pass


@pytest.mark.parametrize(("where", "what"), [(stage, "domain_figures"), (Stage, "finish")])
def test_a_killed_stage_continues(
    prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, what: str
) -> None:
    whole = stage.train_tokenizer(*prepared, tmp_path / "whole", small())
    out = tmp_path / "killed"

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(where, what, kill)
        with pytest.raises(Killed):
            stage.train_tokenizer(*prepared, out, small())
    assert (out / CHECKPOINT).exists()
    with pytest.raises(ConfigError, match="has not finished"):
        read_figures(out)
    with monkeypatch.context() as patch:
        # Every epoch is done: a run that trained again would fail.
        patch.setattr(torch.optim.AdamW, "step", kill)
        resumed = stage.train_tokenizer(*prepared, out, small())
    assert resumed["domains"] == whole["domains"]
    for name, value in UniTok.load(tmp_path / "whole").network.state_dict().items():
        assert torch.equal(value, UniTok.load(out).network.state_dict()[name])


def test_a_folder_of_another_stage_is_left_as_it_is(tmp_path: Path) -> None:
    figures = Stage("train-tokenizer", tmp_path).finish({"layout": {}})
    with pytest.raises(ConfigError, match="holds what `unitok train-tokenizer` wrote; choose another folder"):
        Stage("evaluate", tmp_path)
    assert read_figures(tmp_path) == figures
    Stage("train-tokenizer", tmp_path)
    with pytest.raises(ConfigError, match="has not finished"):
        read_figures(tmp_path)
    Stage("evaluate", tmp_path).finish({})


def test_only_the_domains_asked_for_get_ids(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    (prepared[1] / "films.npy").unlink()
    parameters = small(train_domains=("books",), id_domains=("songs",))
    figures = stage.train_tokenizer(*prepared, tmp_path / "tokenizer", parameters)
    assert list(figures["domains"]) == ["songs"]
    assert list(read_ids(tmp_path / "tokenizer")) == ["songs"]


def test_what_is_missing_is_named_before_training_starts(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "tokenizer"
    with pytest.raises(ConfigError, match=r"train_domains: no domain 'boks' .* there are books, films, songs"):
        stage.train_tokenizer(*prepared, out, small(train_domains=("boks",)))
    with pytest.raises(ConfigError, match=r"id_domains: no domain 'boks'"):
        stage.train_tokenizer(*prepared, out, small(id_domains=("boks",)))
    np.save(prepared[1] / "songs.npy", np.ones((39, WIDTH), dtype=np.float32))
    with pytest.raises(InvalidInput, match=r"songs\.npy: .*39.*40"):
        stage.train_tokenizer(*prepared, out, small())
    assert not (out / CHECKPOINT).exists()


def test_too_many_equal_items_are_an_error(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(prepared[1] / "songs.npy", np.ones((40, WIDTH), dtype=np.float32))
    with pytest.raises(SuffixExhausted, match="songs: 40 items"):
        stage.train_tokenizer(*prepared, tmp_path / "tokenizer", small(suffixes=39))


def test_the_command_prints_one_line_of_figures(
    prepared: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tokenizer.toml"
    config.write_text(
        "levels = 2\ncodes = 16\nlatent_width = 4\nhidden = [16]\nwarmup_epochs = 1\nepochs = 1\nthreads = 1\n",
        encoding="utf-8",
    )
    command(*prepared, out=tmp_path / "tokenizer", config=config, train_domains=["films"])
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed)["expert_names"] == ["films"]
    config.write_text("epoch = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer\.toml: epoch: "):
        command(*prepared, out=tmp_path / "tokenizer", config=config)


def test_a_tokenizer_of_other_embeddings_is_not_reused(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    """Its codes would say little of these, and its figures that it was trained on them."""
    dataset, embeddings = prepared
    before, asked = tmp_path / "before", small(train_domains=("books", "films"))
    figures = stage.train_tokenizer(dataset, embeddings, before, asked)
    assert set(figures[stage.LEARNED_FROM]) == {"books", "films"}

    # Of a domain that it did not learn from, all embeddings are new to it.
    np.save(embeddings / "songs.npy", np.load(embeddings / "songs.npy")[:, ::-1])
    again = stage.train_tokenizer(dataset, embeddings, tmp_path / "again", asked, before)
    assert again[stage.LEARNED_FROM] == figures[stage.LEARNED_FROM]
    np.save(embeddings / "films.npy", np.load(embeddings / "films.npy")[:, ::-1])
    with pytest.raises(ConfigError, match="before: learned from other embeddings of films than are given here"):
        stage.train_tokenizer(dataset, embeddings, tmp_path / "other", asked, before)
    assert not (tmp_path / "other" / IDS).exists()

    # A tokenizer from before this was written down is believed, and so is what is made of it.
    del figures[stage.LEARNED_FROM]
    (before / FIGURES).write_text(json.dumps(figures))
    for folder, reused in (("believed", before), ("passed_on", tmp_path / "believed")):
        with pytest.warns(UserWarning, match="does not say which embeddings of books, films it learned from"):
            unsaid = stage.train_tokenizer(dataset, embeddings, tmp_path / folder, asked, reused)
        assert unsaid[stage.LEARNED_FROM] == {}


def test_what_was_held_out_may_be_other_when_a_tokenizer_is_reused(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, embeddings = prepared
    asked = small(hold_out=0.2)
    stage.train_tokenizer(dataset, embeddings, tmp_path / "before", asked)
    vectors = np.load(embeddings / "films.npy")
    held_out = ~learned_from([f"films {row}" for row in range(ITEMS["films"])], 0.2)
    vectors[held_out] = vectors[held_out][:, ::-1]
    np.save(embeddings / "films.npy", vectors)
    stage.train_tokenizer(dataset, embeddings, tmp_path / "again", asked, tmp_path / "before")
    vectors[~held_out] *= -1
    np.save(embeddings / "films.npy", vectors)
    with pytest.raises(ConfigError, match="other embeddings of films"):
        stage.train_tokenizer(dataset, embeddings, tmp_path / "other", asked, tmp_path / "before")
