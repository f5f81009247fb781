"""A bundle folder whose text encoder and item tokenizer are small real graphs, made without torch.

Its recommender is a file that nobody can open: for what must not need one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from service.bundle.files import Bundle, hash_files, write_manifest
from service.bundle.manifest import SCHEMA_VERSION, Manifest
from service.items import TEXT_RECIPE

WIDTH, LEVELS, CODES, EXPERTS = 6, 3, 4, 2
WORDS = [str(number) for number in range(100)]
SUFFIXES = 256


def write_text_encoder(folder: Path) -> None:
    """Sum of the rows of a random table over a text's words, divided by its norm."""
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(0).normal(size=(len(WORDS) + 1, WIDTH)).astype(np.float32)
    write_table_encoder(folder / "text_encoder.onnx", table)


def write_table_encoder(path: Path, table: NDArray[np.float32]) -> None:
    """Sum of the rows of a table, float32 [tokens, D], over a text's unmasked tokens, divided by its norm."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["rows", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["summed"], keepdims=0),
        helper.make_node("LpNormalization", ["summed"], ["sentence_embedding"], axis=-1, p=2),
    ]
    constants = {"table": table, "last": np.array([2]), "one": np.array([1])}
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["B", "S"]) for n in ("input_ids", "attention_mask")]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["B", table.shape[1]])]
    _save(path, nodes, inputs, outputs, constants)


def write_item_tokenizer(folder: Path) -> None:
    """Codes from the first numbers of a vector, cut into equal steps; the expert is where the last two are greatest."""
    nodes = [
        helper.make_node("Slice", ["embedding", "zero", "levels", "one"], ["first"]),
        helper.make_node("Mul", ["first", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "scale"], ["shifted"]),
        helper.make_node("Cast", ["shifted"], ["codes"], to=TensorProto.INT32),
        helper.make_node("Slice", ["embedding", "experts_at", "width", "one"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["best"], axis=1, keepdims=1),
        helper.make_node("Cast", ["best"], ["experts"], to=TensorProto.INT32),
        helper.make_node("Softmax", ["logits"], ["gate"], axis=1),
        helper.make_node("ReduceSumSquare", ["embedding", "one"], ["quantization_error"], keepdims=0),
        helper.make_node("Identity", ["embedding"], ["latent"]),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "levels": np.array([LEVELS]),
        "width": np.array([WIDTH]),
        "experts_at": np.array([WIDTH - EXPERTS]),
        "scale": np.array([CODES / 2 - 0.01], dtype=np.float32),
    }
    inputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", WIDTH])]
    outputs = [
        helper.make_tensor_value_info("codes", TensorProto.INT32, ["B", LEVELS]),
        helper.make_tensor_value_info("experts", TensorProto.INT32, ["B", 1]),
        helper.make_tensor_value_info("gate", TensorProto.FLOAT, ["B", EXPERTS]),
        helper.make_tensor_value_info("quantization_error", TensorProto.FLOAT, ["B"]),
        helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["B", WIDTH]),
    ]
    # Slices are cut along axis 0 unless axes are given: "one" names axis 1.
    _save(folder / "item_tokenizer.onnx", nodes, inputs, outputs, constants)


def write_bundle(folder: Path) -> Bundle:
    """The bundle `tiny`, generation 1, with two items of its own in domain `films`."""
    (folder / "catalogue").mkdir(parents=True)
    write_text_encoder(folder)
    write_item_tokenizer(folder)
    (folder / "recommender.onnx").write_bytes(b"never opened")
    catalogue = pl.DataFrame(
        {"domain": ["films"] * 2, "item_id": ["own-0", "own-1"], "title": ["A", None], "suffix": [0, 1]}
    ).with_columns(codes=pl.lit([1] * LEVELS), experts=pl.lit([0]))
    catalogue.write_parquet(folder / "catalogue" / "items.parquet")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": "tiny",
        "generation": 1,
        "created": "2026-01-01T00:00:00Z",
        "description": "small graphs",
        "layout": {"levels": LEVELS, "codes": CODES, "experts": EXPERTS, "experts_per_item": 1, "suffixes": SUFFIXES},
        "text_encoder": {"max_tokens": 16, "recipe": TEXT_RECIPE, "source": "a random table"},
        "item_tokenizer": {"embedding_width": WIDTH, "latent_width": WIDTH, "expert_names": ["one", "two"]},
        "recommenders": [
            {"name": "all", "model": "recommender.onnx", "domains": [], "domain_tokens": [], "max_history": 5}
        ],
        "catalogue": {"items": len(catalogue)},
        "files": hash_files(folder),
    }
    write_manifest(folder, Manifest.model_validate(manifest))
    return Bundle.open(folder)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray],
) -> None:
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
