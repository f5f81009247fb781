"""Own vectors that items learn in part by their words: which words there are, what is learned, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from recommender_planted import LAYOUT, TINY, ring_corpus, tiny_parameters, write_ring_ids, write_rings
from safetensors.torch import load_file
from torch.nn.utils import parametrize

from service.errors import ConfigError
from service.items import ItemContent
from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import WEIGHTS, T5Settings, build_t5, load_recommender
from training.networks.word_vectors import WordsOfRows, plain_state, share_words
from training.recommender.parameters import RecommenderParameters, read_parameters
from training.recommender.stage import train_recommender
from training.recommender.trainer import Trainer
from training.recommender.words import ItemWords, item_words, words_of

OWN = ("encoder.reader_own.weight", "item_own.weight")
READS: T5Settings = TINY.model_copy(update={"history": "items", "item_head": 1.0})


def parameters(**changes: Any) -> RecommenderParameters:
    return tiny_parameters(network=READS, word_items=1, **changes)


def brands(items: int, count: int = 4) -> ItemWords:
    """So many brands, in turns."""
    return item_words([[ItemContent(brand=f"brand {item % count}") for item in range(items)]], 1)


def test_words_are_those_that_enough_items_of_a_domain_share() -> None:
    lamp = ItemContent(title="A Lamp, a LAMP!", brand="Hell Co", categories=("Home", "Lights"))
    assert words_of(lamp) == {"title a", "title lamp", "brand hell co", "category home", "category lights"}
    assert words_of(ItemContent(title="Cafe\u0301", brand="  ", categories=("",))) == {"title cafe"}
    one = [lamp, ItemContent(title="lamp"), ItemContent(title="spoon"), ItemContent(description="lamp")]
    both = item_words([one, [ItemContent(title="lamp"), ItemContent(title="Lamp")]], 2)
    assert both.count == 2, "one word of each domain"
    np.testing.assert_array_equal(np.diff(both.starts), [1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(both.words, [0, 0, 1, 1])
    assert item_words([one], 1).count == 6
    assert item_words([one], 5).count == 0
    assert item_words([one], 1).digest != item_words([one[::-1]], 1).digest


def test_an_item_has_equal_shares_of_its_words_whatever_their_number() -> None:
    words = item_words([[ItemContent(title="a b c d"), ItemContent(title="a"), ItemContent(description="none")]], 1)
    shares = dense(words.of_rows(torch.tensor([3, 1, 2]), 5))
    np.testing.assert_allclose(shares[3], [0.5] * 4)
    np.testing.assert_allclose(shares[1], [1, 0, 0, 0])
    assert not shares[[0, 2, 4]].any()
    together = dense(words.of_rows(torch.tensor([3, 3, 1]), 5))
    np.testing.assert_allclose(together[3], np.array([2, 1, 1, 1]) / np.sqrt(5), rtol=1e-6)


def dense(of_rows: WordsOfRows) -> torch.Tensor:
    """The share that each row takes of each word, float32 [R, W]."""
    table = torch.zeros(len(of_rows.starts), of_rows.count)
    ends = [*of_rows.starts[1:].tolist(), len(of_rows.words)]
    for row, (start, end) in enumerate(zip(of_rows.starts.tolist(), ends, strict=True)):
        for place in range(start, end):
            table[row, of_rows.words[place]] += of_rows.shares[place]
    return table


def network(tokens: torch.Tensor) -> SemanticT5:
    torch.manual_seed(0)
    known = KnownIds.of(LAYOUT, tokens)
    model = build_t5(LAYOUT, READS, known.sizes)
    assert isinstance(model, SemanticT5)
    model.know(known)
    model.eval()
    return model


def test_what_is_written_is_one_table_that_says_the_same() -> None:
    corpus = ring_corpus()
    tokens = torch.from_numpy(corpus.layout.tokens(corpus.values).astype(np.int64))
    shared, plain = network(tokens), network(tokens)
    rows = shared.encoder.known_rows(shared.hash_parts[tokens].sum(dim=1))
    titles = [" ".join(f"w{number}" for number in range(item % 5)) for item in range(len(tokens))]
    words = item_words([[ItemContent(title=title) for title in titles]], 1)
    with torch.no_grad():
        for table in (shared.encoder.reader_own, shared.item_own):
            table.weight[1:].normal_()
            own, of_rows = table.weight.clone(), words.of_rows(rows, len(table.weight))
            share_words(table, of_rows)
            vectors = table.parametrizations.weight[0].vectors.normal_()  # type: ignore[index,union-attr]
            torch.testing.assert_close(table.weight, own + dense(of_rows) @ vectors)
    state = plain_state(shared)
    assert state.keys() == plain.state_dict().keys()
    assert plain_state(plain).keys() == plain.state_dict().keys()
    plain.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(plain.item_vectors(tokens), shared.item_vectors(tokens))
        asked = tokens[:5, :-1].reshape(1, -1)
        found, expected = (each.encoder(asked, torch.ones_like(asked)) for each in (plain, shared))
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)


def trained(folder: Path, words: ItemWords | None, **changes: Any) -> dict[str, torch.Tensor]:
    chosen = parameters(epochs=2, **changes) if words else tiny_parameters(network=READS, epochs=2, **changes)
    folder.mkdir()
    Trainer(ring_corpus(), chosen, folder, Accelerator(cpu=True), words=words).run()
    weights: dict[str, torch.Tensor] = load_file(folder / WEIGHTS)
    return weights


def test_what_one_item_learns_its_brand_learns_too(tmp_path: Path) -> None:
    # Targets are told from a few items, so that only these learn by themselves.
    few, items = {"item_negatives": 1, "batch_tokens": 256, "average": 0.0}, 24
    alone, together = trained(tmp_path / "alone", None, **few), trained(tmp_path / "together", brands(items), **few)
    assert alone.keys() == together.keys()
    for name in OWN:
        own, shared = alone[name][1:].numpy(), together[name][1:].numpy()
        assert not together[name][0].any()
        alike = [
            np.corrcoef(table)[np.arange(items) % 4 == np.arange(items)[:, None] % 4].mean() for table in (own, shared)
        ]
        assert alike[1] > alike[0] + 0.2


def test_a_killed_training_ends_with_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, steady = brands(24), {"average": 0.9, "checkpoint_seconds": 0}
    whole = trained(tmp_path / "whole", words, **steady)
    step, steps = Trainer._step, list[int]()

    class Killed(Exception):
        pass

    def deadly(self: Trainer, *arguments: Any) -> None:
        if len(steps) == 3:
            raise Killed
        steps.append(1)
        step(self, *arguments)

    folder = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", deadly)
        with pytest.raises(Killed):
            trained(folder, words, **steady)
    resumed = Trainer(ring_corpus(), parameters(epochs=2, **steady), folder, Accelerator(cpu=True), words=words)
    assert resumed.at.step == 3
    assert parametrize.is_parametrized(resumed.network.item_own)
    resumed.run()
    kept = load_file(folder / WEIGHTS)
    for name in OWN:
        torch.testing.assert_close(kept[name], whole[name])
    with pytest.raises(ConfigError, match="other parameters or other data"):
        Trainer(ring_corpus(), parameters(epochs=2, **steady), folder, Accelerator(cpu=True), words=brands(24, 3))


def test_the_stage_reads_words_and_the_recommender_opens_like_any(tmp_path: Path) -> None:
    (tmp_path / "ids").mkdir()
    dataset, ids = write_rings(tmp_path / "data", ("ring",)), write_ring_ids(tmp_path / "ids", ("ring",))
    train_recommender(dataset, ids, tmp_path / "out", parameters(epochs=1))
    assert load_recommender(tmp_path / "out").settings.history == "items"


def test_words_without_items_to_read_are_refused() -> None:
    with pytest.raises(ConfigError, match='word_items: of use only to a network with history = "items"'):
        read_parameters(None, {"word_items": 3})
