"""The network's files: what is saved is loaded, and what does not fit is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from recommender_planted import LAYOUT, TINY
from safetensors.torch import load_file, save_file

from service.errors import ConfigError, ModelError
from training.networks.t5 import (
    RECORD,
    TIED,
    WEIGHTS,
    LayoutRecord,
    RecommenderRecord,
    T5Settings,
    build_t5,
    load_recommender,
    save_record,
    save_weights,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_weights(tmp_path, build_t5(LAYOUT, TINY).state_dict())
    record = RecommenderRecord(t5=TINY, layout=LayoutRecord.of(LAYOUT), max_history=20, trained_on=("ring",))
    save_record(tmp_path, record)
    return tmp_path


def test_loading_gives_back_what_was_saved(folder: Path) -> None:
    torch.manual_seed(0)
    expected = build_t5(LAYOUT, TINY)
    found = load_recommender(folder)
    assert (found.layout, found.settings, found.max_history, found.trained_on) == (LAYOUT, TINY, 20, ("ring",))
    assert not found.model.training
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], tensor, rtol=0, atol=0)


def test_the_tied_embedding_is_stored_once_and_tied_again(folder: Path) -> None:
    assert not set(TIED) & set(load_file(folder / WEIGHTS))
    model = load_recommender(folder).model
    assert model.lm_head.weight is model.shared.weight is model.encoder.embed_tokens.weight
    assert model.config.scale_decoder_outputs


def test_tiger_size_by_default() -> None:
    config = T5Settings().config(LAYOUT)
    assert (config.d_model, config.d_ff, config.num_heads, config.d_kv) == (128, 1024, 6, 64)
    assert (config.num_layers, config.num_decoder_layers, config.vocab_size) == (4, 4, LAYOUT.vocabulary)
    assert (config.pad_token_id, config.decoder_start_token_id, config.eos_token_id) == (0, 0, 1)


def test_missing_file_is_named(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors: no such file"):
        load_recommender(folder)


def test_unknown_key_is_named(folder: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    record["t5"]["hedas"] = 3
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"t5\.hedas"):
        load_recommender(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    record = json.loads((folder / RECORD).read_text())
    record["t5"]["d_ff"] = 128
    (folder / RECORD).write_text(json.dumps(record))
    with pytest.raises(ModelError, match=r"wi\.weight"):
        load_recommender(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    del state["encoder.final_layer_norm.weight"]
    save_file(state, folder / WEIGHTS)
    with pytest.raises(ModelError, match=r"encoder\.final_layer_norm\.weight"):
        load_recommender(folder)
