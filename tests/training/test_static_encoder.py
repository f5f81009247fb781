"""The distilled token table: equal to a slow twin, close to its teacher's geometry, never without a direction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_encoder import SPECIAL, WIDTH, WORDS, write_tiny_encoder
from tokenizers import Tokenizer

from service.errors import ConfigError
from training.encoders.folder import open_encoder
from training.encoders.sentence_encoder import load_encoder, load_tokenizer, read_spec
from training.encoders.static import COMMON, StaticEncoder, distil, export_static_encoder

TEXTS = ["pen", "the large red pens", "a small green lamp, a blue book", "猫", "", "chair " * 40]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("tiny") / "source")


def test_the_exported_table_equals_a_sum_over_tokens(source: Path, tmp_path: Path) -> None:
    card = export_static_encoder(source, tmp_path, max_tokens=12, width=8)
    assert (card.width, card.max_tokens) == (8, 12)
    got = open_encoder(tmp_path).encode(TEXTS)
    table = distil(load_encoder(read_spec(source)), load_tokenizer(source), 8).numpy().astype(np.float64)
    scales = np.abs(table).max(axis=1, keepdims=True) / 127
    rounded = np.where(scales > 0, np.round(table / np.where(scales > 0, scales, 1)) * scales, 0)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_truncation(12)
    for vector, text in zip(got, TEXTS, strict=True):
        total = sum(rounded[token] for token in tokenizer.encode(text).ids)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-5)


def test_eight_bits_change_a_vector_by_little(source: Path) -> None:
    table = distil(load_encoder(read_spec(source)), load_tokenizer(source), 8)
    ids = torch.tensor([[3, 7, 9, 12, 4]])
    exact = torch.nn.functional.normalize(table[ids].sum(dim=1), dim=-1)
    coarse = StaticEncoder(table)(ids, torch.ones_like(ids))
    assert float((exact * coarse).sum()) > 0.9995


def test_the_table_keeps_the_teachers_distances_between_words(source: Path) -> None:
    # With as many axes as the teacher has, turning and centring leave distances alone; only the weights differ.
    teacher, tokenizer = load_encoder(read_spec(source)), load_tokenizer(source)
    table = distil(teacher, tokenizer, WIDTH)
    words = torch.arange(len(SPECIAL), len(SPECIAL) + len(WORDS))
    rows = torch.stack([torch.tensor([3, int(word), 4]) for word in words])
    with torch.no_grad():
        vectors = teacher(rows, torch.ones_like(rows))
    ranks = torch.arange(1, len(WORDS) + 1, dtype=torch.float32)
    frequency = (1 / ranks) / (1 / ranks).sum()
    unweighted = table[words] * ((COMMON + frequency) / COMMON)[:, None]
    torch.testing.assert_close(torch.cdist(unweighted, unweighted), torch.cdist(vectors, vectors), atol=1e-4, rtol=0)


def test_frequent_words_weigh_less_and_special_tokens_nothing(source: Path) -> None:
    table = distil(load_encoder(read_spec(source)), load_tokenizer(source), 8)
    norms = table.norm(dim=1)
    special = [SPECIAL.index(token) for token in ("[PAD]", "[unused0]", "[UNK]", "[SEP]")]
    assert (norms[special] == 0).all()
    assert 0 < norms[SPECIAL.index("[CLS]")] < 0.01 * norms[len(SPECIAL) :].median()
    assert norms[len(SPECIAL) : len(SPECIAL) + 4].mean() < norms[-4:].mean()


def test_a_teacher_that_is_too_narrow_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"width {WIDTH + 1} needs a teacher at least as wide, not {WIDTH}"):
        export_static_encoder(source, tmp_path, 12, width=WIDTH + 1)
