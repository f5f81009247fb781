"""The corpus and its batches: every example once, no history longer than allowed, the target never in it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recommender_planted import LAYOUT, random_values, ring_corpus, ring_domain

from service.engine.history_tokens import history_tokens
from service.errors import ConfigError, InvalidInput
from training.ids.table import DomainIds
from training.learning.batches import cut_by_budget, epoch_batches
from training.recommender.batches import collate, epoch_examples
from training.recommender.corpus import build_corpus, item_values

CORPUS = ring_corpus(domains=("ring", "other"), users=60)


def test_examples_are_every_position_of_the_training_part() -> None:
    rng = np.random.default_rng(1)
    domain = ring_domain("ring", 24, 30, rng)
    corpus = build_corpus([domain], {"ring": random_values(LAYOUT, 24, rng)}, LAYOUT, max_history=3)
    expected = []
    for user in range(domain.users):
        history = domain.history(user).tolist()
        for position in range(1, len(history) - 2):
            expected.append((history[max(0, position - 3) : position], history[position]))
    found = [
        (corpus.history_items[start:stop].tolist(), int(corpus.history_items[stop]))
        for start, stop in zip(corpus.training.start, corpus.training.stop, strict=True)
    ]
    assert sorted(found) == sorted(expected)
    targets = corpus.history_items[corpus.validation.stop].tolist()
    assert targets == [int(domain.history(user)[-2]) for user in range(domain.users)]


def test_domains_do_not_mix() -> None:
    for examples in (CORPUS.training, CORPUS.validation):
        for row in range(len(examples)):
            items = CORPUS.history_items[examples.start[row] : examples.stop[row] + 1]
            first, end = CORPUS.item_starts[examples.domain[row] :][:2]
            assert ((items >= first) & (items < end)).all()
    assert len(np.unique(CORPUS.validation.user)) == 120


def test_sequence_lengths_are_those_of_the_tokens() -> None:
    for layout in (LAYOUT, replace(LAYOUT, domains=("ring", "other"))):
        corpus = replace(CORPUS, layout=layout)
        rows = np.arange(len(corpus.training))
        batch = collate(corpus, corpus.training.take(rows), 20)
        np.testing.assert_array_equal(corpus.sequence_lengths(corpus.training), batch.mask.sum(axis=1))


def test_collate_equals_one_example_at_a_time() -> None:
    corpus = replace(CORPUS, layout=replace(LAYOUT, domains=("ring", "other")))
    rows = np.asarray([0, 5, len(corpus.training) - 1])
    batch = collate(corpus, corpus.training.take(rows), 20)
    for number, row in enumerate(rows):
        start, stop = int(corpus.training.start[row]), int(corpus.training.stop[row])
        values = corpus.values[corpus.history_items[start:stop]]
        token = corpus.layout.domain_token(corpus.domains[corpus.training.domain[row]])
        alone = history_tokens(corpus.layout, values, np.asarray([0, len(values)]), 20, np.asarray([token]))
        np.testing.assert_array_equal(batch.history[number][batch.mask[number] == 1], alone.tokens[0])
        target = corpus.values[corpus.history_items[stop]]
        np.testing.assert_array_equal(batch.targets[number], corpus.layout.tokens(target[None])[0])


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=80), st.integers(1, 3), st.integers(20, 200), st.integers(0, 9)
)
def test_an_epoch_holds_each_example_once_within_the_budget(
    lengths: list[int], devices: int, budget: int, seed: int
) -> None:
    rows = np.arange(len(lengths))
    batches = epoch_batches(
        np.asarray(lengths), rows, np.random.default_rng(seed), extra=4, budget=budget, devices=devices
    )
    assert len(batches) % devices == 0
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (max(lengths[row] for row in batch) + 4) <= budget
    taken = np.bincount(np.concatenate(batches), minlength=len(lengths))
    assert taken.min() >= 1
    if devices == 1:
        assert taken.max() == 1


def test_batches_come_in_another_order_every_epoch_and_the_same_for_a_seed() -> None:
    lengths = np.arange(1, 61)
    first, again, other = (
        epoch_batches(lengths, np.arange(60), np.random.default_rng(seed), extra=6, budget=128, devices=1)
        for seed in (0, 0, 1)
    )
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in again]
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in other]


def test_a_history_longer_than_the_budget_is_a_batch_of_its_own() -> None:
    batches = cut_by_budget(np.asarray([500, 3, 3]), 6, 64, np.asarray([0, 1, 2]))
    assert [batch.tolist() for batch in batches] == [[0], [1, 2]]


def test_examples_per_user_limits_every_user() -> None:
    rows = epoch_examples(CORPUS.training, np.random.default_rng(0), 1.0, examples_per_user=2)
    counts = np.bincount(CORPUS.training.user)
    taken = np.bincount(CORPUS.training.user[rows], minlength=len(counts))
    np.testing.assert_array_equal(taken, np.minimum(counts, 2))
    assert len(np.unique(rows)) == len(rows)


def test_domain_balance_draws_small_domains_more_often() -> None:
    rng = np.random.default_rng(2)
    domains = [ring_domain("large", 24, 300, rng), ring_domain("small", 24, 30, rng)]
    corpus = build_corpus(domains, {each.name: random_values(LAYOUT, 24, rng) for each in domains}, LAYOUT, 20)
    examples = corpus.training
    sizes = np.bincount(examples.domain)
    by_size = epoch_examples(examples, rng, 1.0, None)
    assert sorted(by_size.tolist()) == list(range(len(examples)))
    even = np.bincount(examples.domain[epoch_examples(examples, rng, 0.0, None)])
    assert abs(int(even[0]) - int(even[1])) <= 1
    assert abs(int(even.sum()) - len(examples)) <= 1
    repeated = np.bincount(epoch_examples(examples, rng, 0.0, None), minlength=len(examples))[examples.domain == 1]
    assert repeated.max() - repeated.min() <= 1
    half = np.bincount(examples.domain[epoch_examples(examples, rng, 0.5, None)])
    np.testing.assert_allclose(half / half.sum(), np.sqrt(sizes) / np.sqrt(sizes).sum(), atol=0.01)


def test_ids_are_put_into_the_order_of_the_catalogue() -> None:
    rng = np.random.default_rng(3)
    domain = ring_domain("ring", 24, 5, rng)
    values = random_values(LAYOUT, 24, rng)
    order = rng.permutation(24)
    ids = DomainIds("ring", [f"ring-{row}" for row in order], values[order, :2], values[order, 2:3], values[order, 3])
    np.testing.assert_array_equal(item_values(ids, domain, LAYOUT), values)


def test_an_item_without_an_id_is_named() -> None:
    rng = np.random.default_rng(3)
    values = random_values(LAYOUT, 23, rng)
    ids = DomainIds("ring", [f"ring-{row}" for row in range(23)], values[:, :2], values[:, 2:3], values[:, 3])
    with pytest.raises(ConfigError, match="'ring-23' has no semantic ID"):
        item_values(ids, ring_domain("ring", 24, 5, rng), LAYOUT)


def test_an_id_out_of_the_layout_is_refused() -> None:
    rng = np.random.default_rng(3)
    values = random_values(LAYOUT, 24, rng)
    values[7, 1] = LAYOUT.codes
    ids = DomainIds("ring", [f"ring-{row}" for row in range(24)], values[:, :2], values[:, 2:3], values[:, 3])
    with pytest.raises(InvalidInput, match="semantic ID 7, position 1"):
        item_values(ids, ring_domain("ring", 24, 5, rng), LAYOUT)


@pytest.mark.parametrize(
    ("length", "message"), [(2, "no user has the 3 interactions"), (3, "no user has two interactions to learn from")]
)
def test_users_too_short_to_learn_from_are_an_error(length: int, message: str) -> None:
    rng = np.random.default_rng(3)
    domain = ring_domain("ring", 24, 5, rng)
    short = replace(
        domain,
        history_items=domain.history_items[: 3 * length],
        history_starts=length * np.arange(4),
        user_ids=["a", "b", "c"],
    )
    with pytest.raises(ConfigError, match=message):
        build_corpus([short], {"ring": random_values(LAYOUT, 24, rng)}, LAYOUT, 20)
