"""What kinds add to the loss, and the uniform mapping, against slow NumPy float64 twins; collaborative vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import ConfigError, InvalidInput
from training.data.dataset import DomainData
from training.networks.residual_quantizer import Balance, ResidualQuantizer
from training.networks.sinkhorn import balanced_codes
from training.networks.unitok import Passed, UniTokNetwork
from training.tokenizer.autoencoders import Letter
from training.tokenizer.extras import collaborative_vectors
from training.tokenizer.items import Extras
from training.tokenizer.terms import Alignment, Contrast, Diversity

Array = np.ndarray[Any, Any]


def network(codes: int = 7) -> UniTokNetwork:
    torch.manual_seed(0)
    return UniTokNetwork(
        embedding_width=6,
        latent_width=4,
        hidden=(8,),
        experts=1,
        experts_per_item=0,
        levels=2,
        codes=codes,
        shared=False,
    )


def passed(net: UniTokNetwork, rows: int = 12) -> Passed:
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))
    z = net.encoder(x)
    mixed = net.moe(z)
    return Passed(x, z, mixed, net.decoder(mixed.z_hat))


def unit(rows: Array) -> Array:
    return rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


def twin_info_nce(similar: Array, positive: int, allowed: list[int]) -> float:
    return float(np.log(sum(np.exp(similar[other]) for other in allowed)) - similar[positive])


def test_contrast_is_info_nce_over_the_batch() -> None:
    way = passed(network())
    similar = unit(way.decoded.detach().numpy()) @ unit(way.x.numpy()).T / 0.2
    expected = np.mean([twin_info_nce(similar[row], row, list(range(12))) for row in range(12)])
    found = Contrast(1.0, 0.2)(way, torch.arange(12))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_alignment_compares_items_of_one_domain_that_histories_hold() -> None:
    net = network()
    way = passed(net)
    vectors = unit(np.random.default_rng(2).normal(size=(20, 4))).astype(np.float32)
    vectors[5] = 0
    domains = np.arange(20) % 2
    rows = np.arange(3, 15)  # row 2 of the batch is item 5, which no history holds
    term = Alignment(1.0, torch.from_numpy(vectors), torch.from_numpy(domains))
    similar = way.mixed.z_hat.detach().double().numpy() @ vectors[rows].T.astype(np.float64)
    known = [row for row in range(12) if rows[row] != 5]
    expected = np.mean(
        [
            twin_info_nce(similar[row], row, [o for o in known if domains[rows[o]] == domains[rows[row]]])
            for row in known
        ]
    )
    found = term(way, torch.from_numpy(rows))
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    gradient = net.encoder.layers[0].weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert term(way, torch.tensor([5] * 12)).item() == 0


def test_diversity_draws_a_code_to_another_of_its_cluster() -> None:
    net = network(codes=6)
    with torch.no_grad():
        near = torch.tensor(
            [[9.0, 0, 0, 0], [9.0, 1, 0, 0], [9.0, 0, 1, 0], [0, 9.0, 0, 0], [0, 9.0, 1, 0], [1, 9.0, 0, 0]]
        )
        net.moe.experts.codebooks[0] = torch.stack([near, near.flip(0)])
    term = Diversity(1.0, clusters=2, seed=0)
    term.start_epoch(net, 3)
    partner = term._partner.numpy()
    for level in range(2):
        for code, other in enumerate(partner[level]):
            assert other != code
            assert (code < 3) == (other < 3)
    way = passed(net)
    codes = way.mixed.codes().numpy()
    expected = 0.0
    for level in range(2):
        book = net.moe.experts.codebooks[0, level].detach().double().numpy()
        similar = book @ book.T
        # Of every item, so a code that serves five items counts five times.
        assert len(np.unique(codes[:, level])) < len(codes)
        expected += np.mean(
            [
                twin_info_nce(similar[code], partner[level, code], [o for o in range(6) if o != code])
                for code in codes[:, level]
            ]
        )
    found = term(way, torch.arange(12))
    assert found.item() == pytest.approx(expected / 2, rel=1e-5)
    found.backward()
    assert net.moe.experts.codebooks.grad is not None


@settings(max_examples=25)
@given(codes=st.integers(2, 6), times=st.integers(3, 8), seed=st.integers(0, 999))
def test_balanced_codes_use_every_code_evenly(codes: int, times: int, seed: int) -> None:
    distances = torch.from_numpy(np.random.default_rng(seed).random((codes * times, codes)))
    counts = torch.bincount(balanced_codes(distances, 0.01, 300), minlength=codes)
    # A plan of least cost splits fewer rows than there are codes; each may end on the one or the other.
    assert (counts - times).abs().sum() / 2 < codes


def test_balanced_codes_are_the_nearest_where_those_are_even() -> None:
    rows = torch.randperm(24, generator=torch.Generator().manual_seed(0)) % 4
    distances = 1 - torch.nn.functional.one_hot(rows, 4) + 0.1 * torch.rand(24, 4)
    assert torch.equal(balanced_codes(distances, 0.003, 50), rows)


def test_the_last_level_is_balanced_in_training_alone() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(1, 2, 4, 3)
    quantizer.balance = Balance(0.01, 300)
    with torch.no_grad():
        quantizer.codebooks[0, 1] *= torch.tensor([[0.1], [4.0], [4.0], [4.0]])  # all rows are nearest to the first
    z, sets = torch.randn(40, 3), torch.zeros(40, dtype=torch.int64)
    nearest = quantizer.eval()(z, sets).codes
    balanced = quantizer.train()(z, sets).codes
    assert torch.equal(nearest[:, 0], balanced[:, 0])
    assert torch.bincount(nearest[:, 1], minlength=4).max() > 20
    assert torch.bincount(balanced[:, 1], minlength=4).max() <= 11


# --- collaborative vectors


def domain(histories: list[list[int]], items: int) -> DomainData:
    lengths = [len(history) for history in histories]
    return DomainData(
        "books",
        pl.DataFrame({"item_id": [str(row) for row in range(items)]}),
        [str(user) for user in range(len(histories))],
        np.asarray([item for history in histories for item in history], dtype=np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def test_items_of_the_same_users_get_like_vectors() -> None:
    rng = np.random.default_rng(0)
    histories = [[int(item) for item in rng.permutation(10)[:7] + 10 * (user % 2)] for user in range(40)]
    vectors = collaborative_vectors(domain(histories, 20), 2, seed=0)
    similar = vectors @ vectors.T
    assert similar[:10, :10].min() > similar[:10, 10:].max()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(vectors, collaborative_vectors(domain(histories, 20), 2, seed=0))


def test_no_target_of_validation_or_test_enters_a_vector() -> None:
    histories = [[0, 1, 2, 3, 4], [1, 0, 2, 4, 3], [2, 1, 0, 5, 6]]
    vectors = collaborative_vectors(domain(histories, 8), 2, seed=0)
    assert (vectors[:3] != 0).any(axis=1).all()
    assert (vectors[3:] == 0).all()
    changed = [[*history[:3], 7, 7] for history in histories]
    np.testing.assert_array_equal(vectors, collaborative_vectors(domain(changed, 8), 2, seed=0))


def test_a_domain_without_histories_has_no_vectors() -> None:
    assert not collaborative_vectors(domain([], 5), 3, seed=0).any()
    assert collaborative_vectors(domain([[0, 1, 2, 3]], 5), 3, seed=0).shape == (5, 3)


def test_letter_says_what_it_needs() -> None:
    x, domains = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32), ["a"] * 20
    with pytest.raises(ConfigError, match="'letter' needs collaborative of every item"):
        Letter(latent_width=4).fit(x, domains)
    with pytest.raises(InvalidInput, match=r"vectors have 3 values, but latent_width is 4"):
        Letter(latent_width=4).fit(x, domains, Extras(collaborative=np.ones((20, 3), dtype=np.float32)))
    with pytest.raises(InvalidInput, match="20 embeddings but 19 collaborative"):
        Letter(latent_width=4).fit(x, domains, Extras(collaborative=np.ones((19, 4), dtype=np.float32)))
