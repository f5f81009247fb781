"""The text encoder of the service: order, batching, wrong input, wrong files.

The graph is a small real one (a token table with a weighted sum), so that these tests need neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_graphs import write_table_encoder
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from service.engine.sessions import Runtime, open_session
from service.engine.text_encoder import INPUTS, OUTPUTS, TextEncoder
from service.errors import BundleError, InvalidInput, ModelError

WORDS = [f"w{number}" for number in range(30)]
MAX_TOKENS = 12


def write_model(path: Path, width: int = 6, poison: int | None = None) -> Path:
    """Sum of the rows of a random table over the unmasked tokens, divided by its norm; row `poison` is NaN."""
    table = np.random.default_rng(1).normal(size=(len(WORDS) + 3, width)).astype(np.float32)
    if poison is not None:
        table[poison] = np.nan
    write_table_encoder(path, table)
    return path


def write_tokenizer(path: Path, special: bool = True) -> Path:
    """Words separated by spaces, with padding and truncation built in as some published tokenizers have them."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special:
        tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(path))
    return path


class Spy:
    """Stands between a session and ONNX Runtime and keeps the shapes that pass."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.shapes: list[tuple[int, int]] = []

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> Any:
        self.shapes.append(feeds["input_ids"].shape)
        return self.session.run(outputs, feeds)


def open_spied(folder: Path, token_budget: int) -> tuple[TextEncoder, Spy]:
    session = open_session(write_model(folder / "text_encoder.onnx"), Runtime(threads=1), INPUTS, OUTPUTS)
    spy = Spy(session._session)
    tokenizer = Tokenizer.from_file(str(write_tokenizer(folder / "tokenizer.json")))
    return TextEncoder(replace(session, _session=spy), tokenizer, MAX_TOKENS, token_budget), spy


@pytest.fixture(scope="module")
def spied(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, Spy]:
    return open_spied(tmp_path_factory.mktemp("encoder"), token_budget=20)


texts_of_all_lengths = st.lists(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), max_size=12)


@given(texts=texts_of_all_lengths)
@settings(max_examples=60)
def test_a_batch_gives_what_its_singles_give_within_the_budget(
    spied: tuple[TextEncoder, Spy], texts: list[str]
) -> None:
    encoder, spy = spied
    singles = [encoder.encode([text])[0] for text in texts]
    spy.shapes.clear()
    together = encoder.encode(texts)
    assert together.shape == (len(texts), 6)
    assert together.dtype == np.float32
    for got, alone in zip(together, singles, strict=True):
        np.testing.assert_allclose(got, alone, atol=1e-6)
        assert np.linalg.norm(got) == pytest.approx(1.0, abs=1e-5)
    assert sum(rows for rows, _ in spy.shapes) == len(texts)
    assert all(rows * longest <= 20 or rows == 1 for rows, longest in spy.shapes)
    assert all(longest <= MAX_TOKENS for _, longest in spy.shapes)


def test_rows_of_a_batch_are_no_longer_than_needed(tmp_path: Path) -> None:
    encoder, spy = open_spied(tmp_path, token_budget=8)
    encoder.encode(["w1", "w1 w2 w3", "w2", "w4 w5 w6"])
    assert spy.shapes == [(2, 4), (2, 2)]


def test_progress_counts_every_text_once(spied: tuple[TextEncoder, Spy]) -> None:
    done: list[int] = []
    spied[0].encode(["w1 w2"] * 25, done.append)
    assert sum(done) == 25
    assert len(done) > 1


def test_counts_tokens_as_they_are_cut(spied: tuple[TextEncoder, Spy]) -> None:
    assert spied[0].count_tokens(["", "w1", " ".join(WORDS)]) == [1, 2, MAX_TOKENS]


def test_no_texts_give_no_rows(spied: tuple[TextEncoder, Spy]) -> None:
    assert spied[0].encode([]).shape == (0, 6)


def test_what_is_not_text_is_refused_by_row(spied: tuple[TextEncoder, Spy]) -> None:
    with pytest.raises(InvalidInput, match="text 1: character 2 is half a surrogate pair"):
        spied[0].encode(["w1", "ab\ud800", "w2"])
    with pytest.raises(InvalidInput, match="text 2: is of type int"):
        spied[0].encode(["w1", "w2", 3])  # type: ignore[list-item]


def test_a_text_without_tokens_is_refused(tmp_path: Path) -> None:
    model, tokenizer = write_model(tmp_path / "m.onnx"), write_tokenizer(tmp_path / "t.json", special=False)
    with pytest.raises(InvalidInput, match="text 1: ' ' gives no token"):
        TextEncoder.open(model, tokenizer, MAX_TOKENS).encode(["w1", " "])


def test_a_vector_that_is_not_finite_never_leaves(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.onnx", poison=5)
    encoder = TextEncoder.open(model, write_tokenizer(tmp_path / "t.json"), MAX_TOKENS)
    with pytest.raises(ModelError, match=r"m\.onnx: sentence_embedding of text 1 is not finite"):
        encoder.encode(["w1", WORDS[2]])


def test_wrong_files_are_named(tmp_path: Path) -> None:
    model, tokenizer = write_model(tmp_path / "m.onnx"), write_tokenizer(tmp_path / "t.json")
    with pytest.raises(BundleError, match=r"absent\.json: no such file"):
        TextEncoder.open(model, tmp_path / "absent.json", MAX_TOKENS)
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(BundleError, match=r"broken\.json: not a tokenizer file"):
        TextEncoder.open(model, tmp_path / "broken.json", MAX_TOKENS)
    with pytest.raises(BundleError, match=r"absent\.onnx: no such file"):
        TextEncoder.open(tmp_path / "absent.onnx", tokenizer, MAX_TOKENS)
