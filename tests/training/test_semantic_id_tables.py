"""Suffixes of equal IDs, the table of IDs, and the figures that score them, each against a slow twin."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ConfigError, SuffixExhausted
from training.ids.counts import groups_of, perplexities, perplexity, sharing
from training.ids.quality import id_quality, neighbourhood, relative_error, share_of_spread
from training.ids.table import IDS, DomainIds, read_ids, suffixes_of, write_ids

Array = np.ndarray[Any, Any]


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[Array, Array, list[str]]:
    """codes [n, L], experts [n, N], texts; few values, so that many are equal."""
    items, levels, chosen = draw(st.integers(1, 30)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    codes = rng.integers(0, 3, size=(items, levels)).astype(np.int32)
    experts = rng.integers(0, 2, size=(items, chosen)).astype(np.int32)
    texts = [f"text {number}" for number in rng.integers(0, 8, size=items)]
    return codes, experts, texts


def tuples(codes: Array, experts: Array) -> list[tuple[int, ...]]:
    return [tuple(map(int, (*code, *expert))) for code, expert in zip(codes, experts, strict=True)]


@given(catalogue=catalogues())
def test_suffixes_count_equal_items_in_row_order(catalogue: tuple[Array, Array, list[str]]) -> None:
    codes, experts, _ = catalogue
    seen: Counter[tuple[int, ...]] = Counter()
    expected = []
    for key in tuples(codes, experts):
        expected.append(seen[key])
        seen[key] += 1
    found = suffixes_of("books", codes, experts, suffixes=30)
    assert found.dtype == np.int32
    assert found.tolist() == expected


def test_a_group_larger_than_the_layout_is_named() -> None:
    codes = np.array([[1, 2]] + [[3, 4]] * 3, dtype=np.int32)
    experts = np.zeros((4, 1), dtype=np.int32)
    assert suffixes_of("books", codes, experts, suffixes=3).tolist() == [0, 0, 1, 2]
    with pytest.raises(SuffixExhausted, match=r"books: 3 items have codes \[3, 4\] and experts \[0\].* 2 suffixes"):
        suffixes_of("books", codes, experts, suffixes=2)


def test_no_items_have_no_suffixes() -> None:
    nothing = np.empty((0, 2), dtype=np.int32)
    assert suffixes_of("books", nothing, nothing, suffixes=1).tolist() == []


def test_ids_are_read_as_they_were_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    domains = [
        DomainIds(
            name,
            [f"{name}-{row}" for row in range(items)],
            rng.integers(0, 256, size=(items, 4)).astype(np.int32),
            rng.integers(0, 10, size=(items, 2)).astype(np.int32),
            rng.integers(0, 5, size=items).astype(np.int32),
        )
        for name, items in [("toys", 5), ("beauty", 3)]
    ]
    write_ids(tmp_path, domains)
    found = read_ids(tmp_path)
    assert list(found) == ["toys", "beauty"]
    for ids in domains:
        assert list(found[ids.domain].item_ids) == list(ids.item_ids)
        for part in ("codes", "experts", "suffix"):
            array = getattr(found[ids.domain], part)
            assert array.dtype == np.int32
            np.testing.assert_array_equal(array, getattr(ids, part))
    with pytest.raises(ConfigError, match="no such file"):
        read_ids(tmp_path / "elsewhere")
    rows = pl.read_parquet(tmp_path / IDS)
    for column in rows.columns:
        holed = rows.with_columns(pl.when(pl.int_range(pl.len()) != 6).then(column).alias(column))
        holed.write_parquet(tmp_path / IDS)
        with pytest.raises(ConfigError, match="not the IDs"):
            read_ids(tmp_path)


@given(catalogue=catalogues())
def test_id_quality_equals_its_twin(catalogue: tuple[Array, Array, list[str]]) -> None:
    codes, experts, texts = catalogue
    keys = tuples(codes, experts)
    sizes = Counter(keys)
    found = id_quality(codes, experts, texts)
    assert found.items == len(keys)
    assert found.sharing == pytest.approx(sum(sizes[key] > 1 for key in keys) / len(keys))
    assert found.largest_group == max(sizes.values())
    entropy = -sum(size / len(keys) * math.log10(size / len(keys)) for size in sizes.values())
    assert found.entropy_hartleys == pytest.approx(entropy, abs=1e-12)
    first_of = dict(reversed(list(zip(texts, keys, strict=True))))
    distinct = Counter(first_of.values())
    beyond = sum(distinct[key] > 1 for key in first_of.values()) / len(first_of)
    assert found.distinct_contents == len(first_of)
    assert found.sharing_beyond_equal_content == pytest.approx(beyond)
    main = Counter(experts[:, 0].tolist()).most_common(1)[0][1]
    assert found.main_expert_share == pytest.approx(main / len(keys))
    served = codes[experts[:, 0] == found.main_expert]
    for level in range(codes.shape[1]):
        assert found.codes_used[level] == len(set(codes[:, level].tolist()))
        assert found.main_expert_codes_used[level] == len(set(served[:, level].tolist()))
        use = Counter(codes[:, level].tolist())
        shares = [size / len(keys) for size in use.values()]
        assert found.perplexity[level] == pytest.approx(math.exp(-sum(share * math.log(share) for share in shares)))


def test_quality_of_planted_ids() -> None:
    """Eight items: three on one ID, two on another, of which two have one content; six by expert 2, two by expert 0."""
    codes = np.array([[0, 5], [0, 5], [0, 5], [1, 5], [1, 5], [3, 4], [0, 5], [9, 9]], dtype=np.int32)
    experts = np.array([[2, 0], [2, 0], [2, 0], [2, 0], [2, 0], [2, 0], [0, 2], [0, 2]], dtype=np.int32)
    texts = ["a", "b", "", "c", "c", "d", "e", ""]
    found = id_quality(codes, experts, texts)
    # IDs: (0, 5 of 2) three times, (1, 5 of 2) twice, and (3, 4 of 2), (0, 5 of 0) and (9, 9 of 0) once each.
    assert (found.items, found.distinct_contents, found.largest_group, found.main_expert) == (8, 7, 3, 2)
    assert found.sharing == 5 / 8
    # Of seven contents ("" is two) the three on the first ID share it; the two items of "c" are one.
    assert found.sharing_beyond_equal_content == pytest.approx(3 / 7)
    shares = [3 / 8, 2 / 8, 1 / 8, 1 / 8, 1 / 8]
    assert found.entropy_hartleys == pytest.approx(-sum(share * math.log10(share) for share in shares))
    assert found.codes_used == [4, 3]
    assert found.perplexity == pytest.approx([evenness(4, 2, 1, 1), evenness(6, 1, 1)])
    assert found.main_expert_share == 6 / 8
    assert found.main_expert_codes_used == [3, 2]
    assert found.main_expert_perplexity == pytest.approx([evenness(3, 2, 1), evenness(5, 1)])


def test_without_experts_one_serves_all() -> None:
    codes = np.array([[1, 2], [1, 2], [3, 4]], dtype=np.int32)
    found = id_quality(codes, np.empty((3, 0), dtype=np.int32), ["a", "b", "c"])
    assert (found.main_expert, found.main_expert_share, found.largest_group) == (0, 1.0, 2)
    assert found.main_expert_perplexity == found.perplexity == pytest.approx([evenness(2, 1)] * 2)
    assert found.main_expert_codes_used == found.codes_used == [2, 2]


def evenness(*uses: int) -> float:
    """exp of the entropy of so many uses each."""
    total = sum(uses)
    return math.exp(-sum(use / total * math.log(use / total) for use in uses))


def test_equal_content_may_share_an_id() -> None:
    codes = np.array([[1], [1], [2], [2], [3]], dtype=np.int32)
    experts = np.zeros((5, 1), dtype=np.int32)
    found = id_quality(codes, experts, ["a", "a", "b", "c", "d"])
    assert found.sharing == pytest.approx(4 / 5)
    assert found.sharing_beyond_equal_content == pytest.approx(2 / 4)


def test_perplexity_of_known_use() -> None:
    counts = np.array([[5, 5, 5, 5], [20, 0, 0, 0], [0, 0, 0, 0], [10, 10, 0, 0], [3, 3, 0, 3]])
    np.testing.assert_allclose(perplexity(counts), [4, 1, 0, 2, 3])
    assert perplexities(np.array([[0, 7], [0, 2], [0, 7], [0, 2]])) == pytest.approx([1, 2])


def test_sharing_counts_items_not_groups() -> None:
    groups = groups_of(np.asarray([[1, 2], [1, 2], [1, 3], [1, 2], [0, 0]]))
    assert groups[0] == groups[1] == groups[3]
    assert sorted(set(groups.tolist())) == [0, 1, 2]
    assert sharing(groups) == pytest.approx(3 / 5)
    assert sharing(np.zeros(0, dtype=np.int64)) == 0.0


def test_relative_error_of_known_approximations() -> None:
    values = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=np.float32) + 5
    assert relative_error(values, values) == 0
    assert relative_error(values, np.full_like(values, 5)) == pytest.approx(1)
    assert relative_error(values[:1], values[:1]) == 0
    assert relative_error(values[:1], values[:1] + 1) == 1


def test_an_error_of_equal_values_is_none_or_all() -> None:
    rng = np.random.default_rng(0)
    equal = np.repeat(rng.normal(size=(1, 16)).astype(np.float32), 50, axis=0)
    rounded = equal * (1 + rng.choice([-1, 0, 1], size=equal.shape).astype(np.float32) * np.finfo(np.float32).eps)
    for values in (equal, rounded):
        assert share_of_spread(1e-13, values) == relative_error(values, equal) == 0
        assert share_of_spread(0.5, values) == relative_error(values, equal + 1) == 1


def test_neighbourhood_equals_its_twin() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 4)).astype(np.float32)
    codes = rng.integers(0, 4, size=(60, 2)).astype(np.int32)
    distances = np.square(embeddings[:, None] - embeddings[None]).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1)[:, :10]
    kept = (codes[near, 0] == codes[:, :1]).mean()
    found = neighbourhood(embeddings, codes)
    assert found.asked == 60
    assert found.kept == pytest.approx(kept)
    shares = np.bincount(codes[:, 0]) / 60
    assert found.chance == pytest.approx(float((shares**2).sum()))
    assert neighbourhood(embeddings, codes, most=7).asked == 7


def test_few_items_are_asked_for_all_others() -> None:
    embeddings, codes = np.eye(4, dtype=np.float32), np.array([[0], [0], [1], [2]], dtype=np.int32)
    found = neighbourhood(embeddings, codes)
    # Of the three others, item 0 and item 1 have one with their code, the rest none.
    assert (found.asked, found.kept, found.chance) == (4, pytest.approx(2 / 12), pytest.approx((4 + 1 + 1) / 16))


def test_neighbourhood_of_equal_items_leaves_out_the_item_alone() -> None:
    embeddings = np.ones((30, 3), dtype=np.float32)
    codes = np.zeros((30, 1), dtype=np.int32)
    assert neighbourhood(embeddings, codes).kept == 1
    assert neighbourhood(embeddings[:1], codes[:1]).asked == 0
