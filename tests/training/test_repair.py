"""Items that share an ID are moved apart: against exhaustive search, and by what must hold of any repair."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.tokenized_items import TokenizedItems
from training.ids.quality import id_quality
from training.ids.table import contents_of
from training.networks.unitok import UniTokNetwork
from training.tokenizer.repair import Repaired, repair, repair_encoded

Array = np.ndarray[Any, Any]
CODES = 5


def nearest(distances: Array) -> Array:
    return distances.argmin(axis=1).astype(np.int32)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[Array, Array, list[str], Array]:
    """codes [n, 2], experts [n, 1], texts, distances [n, T]; items of equal text are equal in everything."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    contents = rng.integers(0, 8, size=draw(st.integers(1, 14)))
    distances = rng.random((8, CODES)).astype(np.float32)
    first, experts = rng.integers(0, 2, size=(8, 1)), rng.integers(0, 2, size=(8, 1))
    codes = np.concatenate([first, nearest(distances)[:, None]], axis=1).astype(np.int32)
    return codes[contents], experts[contents].astype(np.int32), [f"text {c}" for c in contents], distances[contents]


def contents_by_id(codes: Array, experts: Array, texts: list[str]) -> dict[tuple[int, ...], set[str]]:
    found: dict[tuple[int, ...], set[str]] = {}
    for code, expert, text in zip(codes, experts, texts, strict=True):
        found.setdefault((*code, *expert), set()).add(text)
    return found


@given(catalogue=catalogues())
def test_no_content_shares_an_id_and_no_more_contents_move_than_must(
    catalogue: tuple[Array, Array, list[str], Array],
) -> None:
    codes, experts, texts, distances = catalogue
    repaired: Repaired = repair(codes, experts, texts, lambda rows: distances[rows])
    after = contents_by_id(repaired.codes, experts, texts)
    below: dict[tuple[int, ...], set[str]] = {}
    for key, own in after.items():
        below.setdefault((key[0], key[2]), set()).update(own)
    for key, own in after.items():
        assert len(own) == 1 or len(below[key[0], key[2]]) > CODES
    assert (repaired.codes[:, 0] == codes[:, 0]).all()
    assert (repaired.moved == (repaired.codes[:, 1] != codes[:, 1])).all()
    # Equal content stays together.
    by_text: dict[str, set[tuple[int, ...]]] = {}
    for code, text in zip(repaired.codes, texts, strict=True):
        by_text.setdefault(text, set()).add(tuple(code))
    assert all(len(ids) == 1 for ids in by_text.values())
    # One content a code stays, the others move: nothing else does.
    moved = {text for text, is_moved in zip(texts, repaired.moved, strict=True) if is_moved}
    if all(len(own) <= CODES for own in below.values()):
        assert len(moved) == sum(len(own) - 1 for own in contents_by_id(codes, experts, texts).values())


def test_what_moves_goes_where_the_sum_of_distances_is_least() -> None:
    rng = np.random.default_rng(3)
    distances = rng.random((3, CODES)).astype(np.float32)
    distances[:, 0] = [0.0, 0.01, 0.02]  # all three want code 0; the first is nearest to it
    codes = np.zeros((3, 1), dtype=np.int32)
    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["a", "b", "c"], lambda rows: distances[rows])
    assert repaired.codes[0, 0] == 0
    best = min(permutations(range(1, CODES), 2), key=lambda pair: distances[1, pair[0]] + distances[2, pair[1]])
    assert tuple(repaired.codes[1:, 0]) == best


def test_the_content_of_most_items_keeps_its_code() -> None:
    distances = np.array([[0.0, 1.0], [0.1, 1.0], [0.1, 1.0]], dtype=np.float32)
    codes = np.zeros((3, 1), dtype=np.int32)
    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["near", "often", "often"], lambda rows: distances[rows])
    assert repaired.codes[:, 0].tolist() == [1, 0, 0]
    assert repaired.moved.tolist() == [True, False, False]


def test_without_a_collision_nothing_is_asked_or_moved() -> None:
    codes = np.array([[0, 1], [0, 2], [1, 1]], dtype=np.int32)

    def never(rows: Array) -> Array:
        raise AssertionError("asked for distances")

    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["a", "b", "c"], never)
    assert (repaired.codes == codes).all()
    assert not repaired.moved.any()


def test_items_without_text_are_moved_apart_as_other_contents_are() -> None:
    distances = np.tile([[0.0, 1.0, 2.0, 3.0, 4.0]], (4, 1)) + np.arange(4)[:, None] / 10
    codes, experts = np.zeros((4, 1), dtype=np.int32), np.zeros((4, 1), dtype=np.int32)
    texts = ["", "a", "", "a"]
    before, repaired = id_quality(codes, experts, texts), repair(codes, experts, texts, lambda rows: distances[rows])
    assert (before.distinct_contents, before.sharing_beyond_equal_content) == (3, 1.0)
    assert repaired.codes[:, 0].tolist() == [1, 0, 2, 0]
    assert id_quality(repaired.codes, experts, texts).sharing_beyond_equal_content == 0.0


def test_texts_that_an_encoder_reads_alike_are_one_content() -> None:
    texts = [
        "Café  Noir. Coffee",
        "cafe noir. coffee",
        "CAFÉ NOIR. Coffee",
        "Cafe Noir. Tea",
        "Straße",
        "STRASSE",
        "",
        "",
    ]
    contents = contents_of(texts)
    assert len(set(contents[:3])) == 1
    assert contents[4] == contents[5]
    assert len(set(contents)) == 5


def test_items_of_one_text_that_already_differ_are_not_put_on_one_id() -> None:
    """Vectors from elsewhere differ where the text does not."""
    distances = np.random.default_rng(0).random((4, CODES))
    codes = np.array([[0], [1], [0], [0]], dtype=np.int32)
    repaired = repair(codes, np.zeros((4, 1), dtype=np.int32), ["a", "a", "a", "b"], lambda rows: distances[rows])
    assert repaired.codes[:3, 0].tolist() == [0, 1, 0]
    assert repaired.codes[3, 0] > 1


def test_of_equally_many_items_the_nearest_keeps_the_code() -> None:
    distances = np.array([[0.3, 1.0, 9.0], [0.1, 1.0, 9.0], [0.2, 2.0, 1.0]], dtype=np.float32)
    codes = np.zeros((3, 1), dtype=np.int32)
    repaired = repair(codes, np.zeros((3, 1), dtype=np.int32), ["far", "near", "between"], lambda rows: distances[rows])
    assert repaired.codes[:, 0].tolist() == [1, 0, 2]


def test_a_content_of_many_items_goes_before_one_of_few() -> None:
    """Both that move are nearest to code 1: the three items of one content would have further to go than the other."""
    texts = ["keeps"] * 4 + ["few", "many", "many", "many"]
    of = {"keeps": [0.0, 9.0, 9.0], "few": [1.0, 2.0, 4.0], "many": [1.0, 2.0, 3.0]}
    distances = np.array([of[text] for text in texts])
    codes = np.zeros((8, 1), dtype=np.int32)
    repaired = repair(codes, np.zeros((8, 1), dtype=np.int32), texts, lambda rows: distances[rows])
    assert repaired.codes[:, 0].tolist() == [0] * 4 + [2] + [1] * 3


def test_no_code_is_free_that_another_item_below_the_prefix_has() -> None:
    distances = np.array([[0.0, 1.0, 2.0], [0.1, 1.0, 2.0], [5.0, 0.0, 5.0]])
    codes, experts = np.array([[7, 0], [7, 0], [7, 1]], dtype=np.int32), np.zeros((3, 1), dtype=np.int32)
    repaired = repair(codes, experts, ["a", "b", "c"], lambda rows: distances[rows])
    assert repaired.codes[:, 1].tolist() == [0, 2, 1]
    codes[2, 0] = 6  # what lies below another prefix is in nobody's way
    assert repair(codes, experts, ["a", "b", "c"], lambda rows: distances[rows]).codes[:, 1].tolist() == [0, 1, 1]


def planted_network(experts: int) -> UniTokNetwork:
    """Codes on a line: those of the first level are tens, those of the last ones; of expert k all of them k further."""
    network = UniTokNetwork(
        embedding_width=1, latent_width=1, hidden=(), experts=experts, experts_per_item=1, levels=2, codes=CODES
    )
    steps = torch.arange(CODES, dtype=torch.float32)
    with torch.no_grad():
        network.moe.experts.codebooks[:] = torch.stack([10 * steps, steps])[..., None]
        network.moe.experts.codebooks[:, 1] += torch.arange(experts)[:, None, None]
    return network.eval()


@pytest.mark.parametrize("expert", [0, 1])
def test_what_a_network_encoded_goes_to_its_nearest_free_code(expert: int) -> None:
    """Three items are encoded as 20 + 3; what is left of them after 20 is nearest to 3, then to 4, and then to 2."""
    latents = np.array([[23.05], [23.4], [22.9], [10.0]], dtype=np.float32) + expert
    codes = np.array([[2, 3], [2, 3], [2, 3], [1, 0]], dtype=np.int32)
    experts, nothing = np.full((4, 1), expert, dtype=np.int32), np.zeros(4, dtype=np.float32)
    encoded = TokenizedItems(codes, experts, np.ones((4, 2), dtype=np.float32), nothing, latents)
    repaired = repair_encoded(planted_network(experts=2), encoded, ["a", "b", "c", "d"])
    assert repaired.codes.tolist() == [[2, 3], [2, 4], [2, 2], [1, 0]]
    assert repaired.moved.tolist() == [False, True, True, False]
