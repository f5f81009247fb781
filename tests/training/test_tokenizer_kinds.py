"""One contract for every kind of tokenizer, on tiny planted data: clusters of items in two domains."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.engine.item_tokenizer import ItemTokenizer
from service.engine.sessions import Runtime
from service.errors import ConfigError, InvalidInput
from training.export.item_tokenizer import export_item_tokenizer, prove_item_tokenizer
from training.ids.quality import id_quality
from training.tokenizer.configuration import read_stage_parameters
from training.tokenizer.figures import domain_figures
from training.tokenizer.interface import Tokenizer
from training.tokenizer.items import Extras
from training.tokenizer.kinds import KINDS, load_tokenizer

Array = np.ndarray[Any, Any]
WIDTH, CLUSTERS, ITEMS = 18, 6, 40
NAMES = ("alpha", "bravo", "delta", "gamma", "kappa", "omega")
AUTOENCODER: dict[str, Any] = {
    "levels": 3,
    "codes": 8,
    "latent_width": 6,
    "hidden": (24,),
    "batch_size": 40,
    "warmup_epochs": 15,
    "epochs": 4,
    "learning_rate": 3e-3,
}


@dataclass(frozen=True)
class Case:
    """A kind with small parameters.

    Attributes
    ----------
    experts_per_item : N
    separates : items of one planted cluster get one first code, of different clusters different ones
    """

    kind: str
    parameters: dict[str, Any]
    experts_per_item: int = 0
    separates: bool = True


CASES = {
    "unitok": Case("unitok", AUTOENCODER, experts_per_item=1, separates=False),
    "unitok-3": Case("unitok", {**AUTOENCODER, "lambda_mi": 0.0}, experts_per_item=1, separates=False),
    "unitok-2": Case(
        "unitok", {**AUTOENCODER, "lambda_mi": 0.0, "shared_expert": False}, experts_per_item=1, separates=False
    ),
    "unitok-1": Case(
        "unitok", {**AUTOENCODER, "lambda_mi": 0.0, "shared_expert": False, "domain_experts": False}, separates=False
    ),
    "rq-vae": Case("rq-vae", AUTOENCODER, separates=False),
    "letter": Case("letter", {**AUTOENCODER, "clusters": 2}, separates=False),
    "lc-rec": Case("lc-rec", AUTOENCODER, separates=False),
    "cost": Case("cost", AUTOENCODER, separates=False),
    "rq-kmeans": Case("rq-kmeans", {"levels": 3, "codes": 6}),
    "product": Case("product", {"levels": 4, "codes": 6, "rotation_iterations": 5}, separates=False),
    "hierarchical": Case("hierarchical", {"levels": 3, "codes": 6}),
    "category-path": Case("category-path", {"levels": 3}),
    "title-tokens": Case("title-tokens", {"levels": 3, "codes": 120}),
    "atomic": Case("atomic", {}, separates=False),
}
GRAPHS = ("rq-vae", "rq-kmeans", "product", "hierarchical", "atomic")
"""One of every graph that the exporter meets, besides UniTok's, which has tests of its own."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Planted:
    """Items around well separated centres, three clusters a domain; unit length."""

    embeddings: Array
    clusters: Array
    domains: Array
    extras: Extras


def plant() -> Planted:
    rng = np.random.default_rng(1)
    centres = np.linalg.qr(rng.normal(size=(WIDTH, CLUSTERS)))[0].T
    clusters = rng.permutation(np.repeat(np.arange(CLUSTERS), ITEMS))
    rows = centres[clusters] + 0.05 * rng.normal(size=(len(clusters), WIDTH))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    domains = np.where(clusters < CLUSTERS // 2, "books", "films")
    collaborative = centres[clusters][:, :6].astype(np.float32)
    collaborative /= np.linalg.norm(collaborative, axis=1, keepdims=True)
    collaborative[:3] = 0  # items that no history holds
    extras = Extras(
        titles=[f"{NAMES[cluster]} number {row % 4}" for row, cluster in enumerate(clusters)],
        categories=[(NAMES[cluster], "even" if row % 2 == 0 else "odd") for row, cluster in enumerate(clusters)],
        collaborative=collaborative,
    )
    return Planted(rows, clusters, domains, extras)


PLANTED = plant()
CONFIGS = Path(__file__).resolve().parents[2] / "training" / "configs" / "tokenizers"


def learned(name: str) -> Tokenizer:
    case = CASES[name]
    return KINDS[case.kind](**case.parameters).fit(PLANTED.embeddings, PLANTED.domains, PLANTED.extras)


@cache
def fitted(name: str) -> Tokenizer:
    """Learned once, for every test that only looks."""
    return learned(name)


@pytest.fixture(params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tokenizer(name: str) -> Tokenizer:
    return fitted(name)


def assert_equal(one: Any, other: Any) -> None:
    for field in ("codes", "experts", "gate", "quantization_error", "latent"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


def test_every_kind_is_tested() -> None:
    assert {case.kind for case in CASES.values()} == set(KINDS)


def test_shapes_and_types_are_those_of_the_interface(name: str, tokenizer: Tokenizer) -> None:
    encoded, shape = tokenizer.encode(PLANTED.embeddings), tokenizer.shape
    items = len(PLANTED.embeddings)
    assert shape.experts_per_item == CASES[name].experts_per_item
    assert encoded.codes.shape == (items, shape.levels)
    assert encoded.experts.shape == (items, shape.experts_per_item)
    assert encoded.gate.shape == (items, shape.experts)
    assert encoded.latent.shape == (items, shape.latent_width)
    assert encoded.codes.dtype == encoded.experts.dtype == np.int32
    assert encoded.codes.min() >= 0
    assert encoded.codes.max() < shape.codes
    np.testing.assert_allclose(encoded.gate.sum(axis=1), 1, atol=1e-5)
    assert len(tokenizer.expert_names) == shape.experts
    assert tokenizer.reconstruct(PLANTED.embeddings).shape == PLANTED.embeddings.shape


def test_codes_tell_planted_clusters_apart(name: str, tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(PLANTED.embeddings)
    if CASES[name].separates:
        first = [set(encoded.codes[PLANTED.clusters == cluster, 0].tolist()) for cluster in range(CLUSTERS)]
        assert [len(codes) for codes in first] == [1] * CLUSTERS
        assert len(set().union(*first)) == CLUSTERS
    full = np.column_stack([encoded.codes, encoded.experts])
    for row in np.unique(full, axis=0):
        assert len(set(PLANTED.clusters[(full == row).all(axis=1)].tolist())) == 1, "two clusters share an ID"


def test_what_the_codes_keep_is_near_the_embedding(tokenizer: Tokenizer) -> None:
    error = np.square(PLANTED.embeddings - tokenizer.reconstruct(PLANTED.embeddings)).sum()
    assert error < 0.5 * np.square(PLANTED.embeddings - PLANTED.embeddings.mean(axis=0)).sum()


def test_equal_seeds_give_equal_tokenizers(name: str, tokenizer: Tokenizer) -> None:
    assert_equal(learned(name).encode(PLANTED.embeddings), tokenizer.encode(PLANTED.embeddings))


def test_a_saved_tokenizer_is_loaded_whatever_its_kind(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.parameters == tokenizer.parameters
    assert loaded.shape == tokenizer.shape
    assert_equal(loaded.encode(PLANTED.embeddings), tokenizer.encode(PLANTED.embeddings))
    np.testing.assert_array_equal(loaded.reconstruct(PLANTED.embeddings), tokenizer.reconstruct(PLANTED.embeddings))
    assert loaded.parameter_counts() == tokenizer.parameter_counts()


def graph_of(name: str) -> tuple[str, int, bool]:
    """What decides how a kind's graph looks: its network, and whether there is a router and a rotation."""
    network = fitted(name).network
    return type(network).__name__, network.shape.experts_per_item, "rotation" in network.state_dict()


def test_every_graph_is_exported() -> None:
    assert {graph_of(name) for name in CASES} == {graph_of(name) for name in ("unitok", *GRAPHS)}


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_exported_graph_is_proven_and_serves_batches_and_singles_alike(graph: str, tmp_path: Path) -> None:
    tokenizer = fitted(graph)
    path = tmp_path / "item_tokenizer.onnx"
    part = export_item_tokenizer(tokenizer, path)
    rng = np.random.default_rng(2)
    rows = np.concatenate([PLANTED.embeddings, rng.normal(size=(60, WIDTH)).astype(np.float32)])
    assert prove_item_tokenizer(tokenizer, path, rows).ties <= 1
    served = ItemTokenizer.open(path, part, Runtime(threads=1))
    assert served.experts_per_item == tokenizer.shape.experts_per_item
    together = served.tokenize(rows)
    for row in range(0, len(rows), 10):
        alone = served.tokenize(rows[row : row + 1])
        np.testing.assert_array_equal(alone.codes[0], together.codes[row])
        np.testing.assert_array_equal(alone.experts[0], together.experts[row])


def test_an_unknown_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"lamda.*known keys"):
        KINDS[CASES[name].kind](lamda=1)


def test_wrong_input_is_refused(name: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidInput, match=f"takes {WIDTH}"):
        tokenizer.encode(PLANTED.embeddings[:, 1:])
    with pytest.raises(InvalidInput, match="domains"):
        KINDS[CASES[name].kind](**CASES[name].parameters).fit(PLANTED.embeddings, PLANTED.domains[1:], PLANTED.extras)


def test_domains_that_are_no_name_an_item_are_refused() -> None:
    count, fresh = len(PLANTED.embeddings), KINDS["rq-kmeans"](levels=3, codes=6)
    with pytest.raises(InvalidInput, match=f"{count} embeddings but 1 domains"):
        fresh.fit(PLANTED.embeddings, "b" * count)
    with pytest.raises(InvalidInput, match=f"{count} embeddings but {2 * count} domains"):
        fresh.fit(PLANTED.embeddings, np.column_stack([PLANTED.domains, PLANTED.domains]))


def test_learning_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    KINDS["rq-vae"](**{**AUTOENCODER, "warmup_epochs": 1, "epochs": 1}).fit(PLANTED.embeddings, PLANTED.domains)
    assert torch.equal(torch.rand(3), expected)


def test_figures_are_finite(tokenizer: Tokenizer) -> None:
    rows = PLANTED.domains == "books"
    encoded = tokenizer.encode(PLANTED.embeddings[rows])
    figures = domain_figures(tokenizer, PLANTED.embeddings[rows], encoded, [str(row) for row in range(rows.sum())])
    numbers = [value for value in figures.values() if isinstance(value, int | float)]
    assert len(numbers) > 8
    assert np.isfinite(numbers).all()
    assert figures["sharing"] == pytest.approx(
        id_quality(encoded.codes, encoded.experts, ["x"] * len(encoded.codes)).sharing, abs=1e-4
    )
    assert tokenizer.parameter_counts()["total"] > 0


def test_loading_names_an_unknown_kind(tmp_path: Path) -> None:
    tokenizer = fitted("rq-kmeans")
    tokenizer.save(tmp_path)
    description = tmp_path / "tokenizer.json"
    description.write_text(description.read_text(encoding="utf-8").replace("rq-kmeans", "rq-kmean"), encoding="utf-8")
    with pytest.raises(ConfigError, match="no kind of tokenizer is 'rq-kmean'; there are unitok, "):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_configurations_are_valid(path: Path) -> None:
    assert len(read_stage_parameters(path, {}).train_domains or ()) == 10


def test_every_kind_has_a_shipped_configuration() -> None:
    assert {read_stage_parameters(path, {}).tokenizer.kind for path in CONFIGS.glob("*.toml")} == set(KINDS)


@pytest.mark.parametrize("items", [1, 3, WIDTH, 100])
def test_product_quantization_learns_of_fewer_items_than_codes(items: int) -> None:
    rows = PLANTED.embeddings[:items]
    tokenizer = KINDS["product"](levels=4, codes=128, rotation_iterations=5).fit(rows, ["books"] * items)
    encoded = tokenizer.encode(rows)
    assert len(np.unique(encoded.codes, axis=0)) == items
    figures = domain_figures(tokenizer, rows, encoded, [str(row) for row in range(items)])
    assert figures["relative_quantization_error"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("items", [1, 50])
def test_the_error_of_equal_items_is_a_share(items: int) -> None:
    rows = np.repeat(PLANTED.embeddings[:1], items, axis=0)
    tokenizer = fitted("rq-vae")
    figures = domain_figures(tokenizer, rows, tokenizer.encode(rows), ["one"] * items)
    assert figures["relative_quantization_error"] in (0, 1)
    assert figures["relative_reconstruction_error"] in (0, 1)


def test_a_configuration_is_checked_by_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.toml"
    path.write_text('kind = "rq-kmeans"\nlambda_mi = 0.1\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer\.toml: lambda_mi: .*known keys: kind, seed, levels.*threads"):
        read_stage_parameters(path, {})
    path.write_text('kind = "atomic"\nrepair = true\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tokenizer\.toml: .*items of kind 'atomic' cannot take other codes"):
        read_stage_parameters(path, {})
    path.write_text('kind = "rqkmeans"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"no kind of tokenizer is 'rqkmeans'; there are unitok"):
        read_stage_parameters(path, {})
