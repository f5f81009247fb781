"""The exported item tokenizer: equal to the network, proven, and run by the engine that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.bundle.manifest import ItemTokenizerPart
from service.engine.item_tokenizer import CHUNK, ItemTokenizer
from service.engine.sessions import Runtime
from service.errors import BundleError, InvalidInput, ModelError
from training.export.item_tokenizer import TOLERANCE, export_item_tokenizer, prove_item_tokenizer
from training.tokenizer.estimator import UniTok

Array = np.ndarray[Any, Any]
WIDTH = 12
ONE_THREAD = Runtime(threads=1)


def embeddings(items: int, seed: int = 0) -> Array:
    rows = np.random.default_rng(seed).normal(size=(items, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fitted(experts_per_item: int) -> UniTok:
    torch.set_num_threads(1)
    tokenizer = UniTok(
        levels=3,
        codes=8,
        latent_width=4,
        hidden=(16,),
        experts_per_item=experts_per_item,
        warmup_epochs=1,
        epochs=1,
        batch_size=64,
    )
    return tokenizer.fit(embeddings(240), np.repeat(["a", "b", "c"], 80))


@pytest.fixture(scope="module", params=[1, 2])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    tokenizer = fitted(request.param)
    path = tmp_path_factory.mktemp("graph") / "item_tokenizer.onnx"
    return tokenizer, path, export_item_tokenizer(tokenizer, path)


def test_graph_and_network_give_the_same_codes(exported: Any) -> None:
    tokenizer, path, part = exported
    rows = embeddings(CHUNK + 300, seed=1)
    proof = prove_item_tokenizer(tokenizer, path, rows)
    assert proof.items == len(rows)
    assert proof.ties <= 1
    assert max(proof.differences.values()) < 1e-5
    found = ItemTokenizer.open(path, part, ONE_THREAD).tokenize(rows)
    expected = tokenizer.encode(rows)
    assert (found.codes == expected.codes).all(axis=1).mean() > 0.999
    assert found.codes.dtype == found.experts.dtype == np.int32
    assert found.experts.shape == (len(rows), tokenizer.parameters.experts_per_item)
    np.testing.assert_allclose(found.gate.sum(axis=1), 1, atol=1e-5)


def test_a_batch_gives_what_its_singles_give(exported: Any) -> None:
    _, path, part = exported
    tokenizer = ItemTokenizer.open(path, part, ONE_THREAD)
    rows = embeddings(50, seed=2)
    together = tokenizer.tokenize(rows)
    for row in range(50):
        alone = tokenizer.tokenize(rows[row : row + 1])
        for name in ("codes", "experts"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[row])
        np.testing.assert_allclose(alone.latent[0], together.latent[row], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alone.quantization_error[0], together.quantization_error[row], rtol=1e-4, atol=1e-6)


def test_no_items_give_no_codes(exported: Any) -> None:
    _, path, part = exported
    found = ItemTokenizer.open(path, part, ONE_THREAD).tokenize(np.empty((0, WIDTH), dtype=np.float32))
    assert found.codes.shape == (0, 3)
    assert found.gate.shape == (0, 3)


def test_wrong_embeddings_are_refused_with_their_row(exported: Any) -> None:
    _, path, part = exported
    tokenizer = ItemTokenizer.open(path, part, ONE_THREAD)
    rows = embeddings(5)
    with pytest.raises(InvalidInput, match=f"have 7 values, but this bundle's have {WIDTH}"):
        tokenizer.tokenize(rows[:, :7])
    for value in (np.nan, np.inf):
        broken = rows.copy()
        broken[3, 2] = value
        with pytest.raises(InvalidInput, match="embedding 3 holds"):
            tokenizer.tokenize(broken)
    with pytest.raises(InvalidInput, match="embedding 0 holds"):
        tokenizer.tokenize(np.full((1, WIDTH), 1e300))
    with pytest.raises(InvalidInput, match="must be floats"):
        tokenizer.tokenize(rows[0])
    with pytest.raises(InvalidInput, match="must be floats"):
        tokenizer.tokenize(np.ones((2, WIDTH), dtype=np.int64))


def test_what_the_graph_cannot_bear_is_a_model_error(exported: Any) -> None:
    _, path, part = exported
    with pytest.raises(ModelError, match="embedding 1 is not finite"):
        ItemTokenizer.open(path, part, ONE_THREAD).tokenize(np.array([[0.0] * WIDTH, [3e38] * WIDTH]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding_width": 13}, "D is 12, but the manifest says 13"),
        ({"latent_width": 5}, "d is 4, but the manifest says 5"),
        ({"expert_names": ["a", "b"]}, "K is 3, but the manifest says 2"),
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(exported: Any, change: dict[str, Any], message: str) -> None:
    _, path, part = exported
    other = ItemTokenizerPart(**{**part.model_dump(), **change})
    with pytest.raises(BundleError, match=message):
        ItemTokenizer.open(path, other, ONE_THREAD)


def test_equal_tokenizers_give_equal_files(exported: Any, tmp_path: Path) -> None:
    tokenizer, path, _ = exported
    export_item_tokenizer(tokenizer, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def changed(tokenizer: UniTok, change: str, folder: Path) -> UniTok:
    """The tokenizer with one tensor altered."""
    tokenizer.save(folder)
    other = UniTok.load(folder)
    with torch.no_grad():
        if change == "latent":
            other.network.encoder.layers[-1].bias[1] += 0.01
        elif change == "gate":
            other.network.moe.router.bias[0] += 0.01
        else:
            other.network.moe.experts.codebooks += 0.05
    return other


@pytest.mark.parametrize("change", ["latent", "gate", "codes"])
def test_the_proof_names_the_tensor_that_differs(exported: Any, change: str, tmp_path: Path) -> None:
    tokenizer, path, _ = exported
    with pytest.raises(ModelError, match=rf"exported {change}\b.*differs from the network"):
        prove_item_tokenizer(changed(tokenizer, change, tmp_path), path, embeddings(100, seed=3))


def test_the_proof_accepts_what_rounding_makes_of_a_gate_between_large_logits(exported: Any, tmp_path: Path) -> None:
    """As of many small domains, whose items are close to each other and far from those of all others."""
    tokenizer, _, _ = exported
    tokenizer.save(tmp_path)
    other, path = UniTok.load(tmp_path), tmp_path / "sure.onnx"
    with torch.no_grad():
        # All logits are large, and no further from each other than before.
        other.network.moe.router.weight += 1e5
    export_item_tokenizer(other, path)
    assert prove_item_tokenizer(other, path, embeddings(4000, seed=5)).differences["gate"] > TOLERANCE


def test_the_proof_accepts_ties_and_counts_them(exported: Any, tmp_path: Path) -> None:
    tokenizer, _, _ = exported
    tokenizer.save(tmp_path)
    other = UniTok.load(tmp_path)
    with torch.no_grad():
        # The same codes in another order at the last level, after two codes were made equal: both choices are right.
        books = other.network.moe.experts.codebooks
        books[:, 2, 1] = books[:, 2, 0]
        twin = tmp_path / "twin.onnx"
        export_item_tokenizer(other, twin)
        books[:, 2, 0] += 1e-7
    rows = embeddings(300, seed=4)
    used = np.isin(other.encode(rows).codes[:, 2], (0, 1)).sum()
    proof = prove_item_tokenizer(other, twin, rows)
    assert 0 < proof.ties <= used
