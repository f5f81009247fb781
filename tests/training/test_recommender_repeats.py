"""What a recommender learns of repeats, and what it then does with them, against slow and obvious twins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recommender_planted import LAYOUT, TINY, random_values, ring_domain

from service.bundle.manifest import RecommenderPart
from service.bundle.repeats import LearnedRepeats
from service.engine.recommender import Recommender
from service.engine.sessions import Runtime
from training.data.dataset import DomainData
from training.data.split import leave_one_out
from training.evaluation.protocol import ranked_lists
from training.graphs.recommender import export_recommender
from training.measures.repeats import BONUSES, Scored, best_repeats
from training.networks.known_ids import KnownIds
from training.networks.semantic_t5 import SemanticT5
from training.networks.t5 import TrainedRecommender, build_t5
from training.recommender.repeats import learned_repeats

ITEMS, SHARE = 24, 1 - 1e-6
"""With hardly a word from the decoder, a search with beams for everything says what the head says."""


User = tuple[np.ndarray, int, np.ndarray]
"""Scores of all items, the target, and the history, oldest first."""


@st.composite
def users(draw: st.DrawFn) -> list[User]:
    items = draw(st.integers(2, 16))
    row = st.integers(0, items - 1)
    scores = st.lists(st.integers(-9, 9), min_size=items, max_size=items)
    histories = st.lists(row, min_size=1, max_size=8)
    drawn = draw(st.lists(st.tuples(scores, row, histories), min_size=1, max_size=4))
    return [
        (np.array(own, dtype=np.float32), target, np.array(history, dtype=np.int32)) for own, target, history in drawn
    ]


def ndcg_slowly(user: User, learned: LearnedRepeats) -> float:
    scores, target, history = user[0].astype(float), user[1], user[2].tolist()
    for item in set(history):
        ago, times = history[::-1].index(item) + 1, history.count(item)
        scores[item] += learned.bonus - learned.recency * np.log(ago) + learned.frequency * np.log(times)
    before = sum(score > scores[target] for score in scores)
    return 1 / np.log2(before + 2) if before < 10 else 0.0


@given(users(), st.sampled_from([-4.0, -0.5, 0.0, 1.0, 7.5]), st.floats(0, 3), st.floats(0, 3))
def test_what_is_weighed_equals_the_slow_twin(
    scored: list[User], bonus: float, recency: float, frequency: float
) -> None:
    learned = LearnedRepeats(bonus=bonus, recency=recency, frequency=frequency)
    expected = sum(ndcg_slowly(user, learned) for user in scored)
    assert Scored.of(scored).ndcg(learned) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("history", "target", "recency", "frequency"), [([3, 1, 2], 2, True, False), ([1, 1, 3, 2], 1, False, True)]
)
def test_when_and_how_often_are_learned_where_they_tell(
    history: list[int], target: int, recency: bool, frequency: bool
) -> None:
    """The newest comes again, or the one that was met twice, though others are scored better."""
    scores = np.zeros(20, dtype=np.float32)
    scores[target] = -0.3
    learned = best_repeats([(scores, target, np.array(history, dtype=np.int32))] * 3)
    assert (learned.recency > 0, learned.frequency > 0) == (recency, frequency)
    never = best_repeats([(scores, 7, np.array(history, dtype=np.int32))] * 3)
    assert (never.recency, never.frequency) == (0, 0), "nothing to learn them from"


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return random_values(LAYOUT, ITEMS, np.random.default_rng(6))


@pytest.fixture(scope="module")
def trained(values: np.ndarray) -> TrainedRecommender:
    """A network that has learned nothing, with a head over all items."""
    settings = TINY.model_copy(update={"history": "items", "item_head": SHARE})
    torch.manual_seed(1)
    ids = KnownIds.of(LAYOUT, torch.from_numpy(LAYOUT.tokens(values).astype(np.int64)))
    model = build_t5(LAYOUT, settings, ids.sizes)
    assert isinstance(model, SemanticT5)
    model.know(ids)
    with torch.no_grad():
        model.item_own.weight[1:].normal_(std=0.1)
    return TrainedRecommender(model.eval(), LAYOUT, settings, 20, ("ring",))


def domain_of(next_items: str) -> DomainData:
    """Histories of four items whose fifth and sixth are of the history, or are not."""
    domain, random = ring_domain("ring", ITEMS, 60, np.random.default_rng(5)), np.random.default_rng(7)
    histories = [random.permutation(ITEMS)[:6] for _ in range(60)]
    if next_items == "repeated":
        histories = [np.concatenate([items[:4], items[[1, 2]]]) for items in histories]
    return replace(
        domain,
        history_items=np.concatenate(histories).astype(domain.history_items.dtype),
        history_starts=np.arange(0, 6 * 61, 6).astype(domain.history_starts.dtype),
    )


def test_it_is_learned_whether_items_come_again(trained: TrainedRecommender, values: np.ndarray) -> None:
    never, always = (learned_repeats(trained, domain_of(kind), values) for kind in ("new", "repeated"))
    assert never is not None
    assert always is not None
    assert never.bonus < 0 < always.bonus
    assert min(abs(never.bonus), always.bonus) < SHARE * BONUSES[-1], "no further from zero than it takes"
    tokens = TrainedRecommender(build_t5(LAYOUT, TINY).eval(), LAYOUT, TINY, 20, ("ring",))
    assert learned_repeats(tokens, domain_of("new"), values) is None, "there is no head to learn of"


@pytest.mark.parametrize("bonus", [-30.0, -0.3, 0.4, 30.0])
def test_lists_hold_repeated_items_where_the_bonus_puts_them(
    trained: TrainedRecommender, values: np.ndarray, tmp_path: Path, bonus: float
) -> None:
    domain, told = domain_of("repeated"), LearnedRepeats(bonus=bonus)
    export_recommender(trained.model, LAYOUT, tmp_path / "recommender.onnx")
    part = RecommenderPart(
        name="a", model="m", domains=["ring"], domain_tokens=[], max_history=20, repeats={"ring": told}
    )
    raised, plain, unknown = (
        Recommender.open(tmp_path / "recommender.onnx", part.model_copy(update={"repeats": repeats}), LAYOUT, Runtime())
        for repeats in ({"ring": told}, {"ring": LearnedRepeats(bonus=0.0)}, {"other": told})
    )
    test = leave_one_out(domain.history_items, domain.history_starts).test

    def lists(recommender: Recommender, **options: bool) -> np.ndarray:
        return ranked_lists(recommender, domain, values, test, beams=ITEMS, advance=lambda *_: None, **options)

    found, whole, without = lists(raised), lists(unknown), lists(raised, remove_history=True)
    assert (lists(plain) == whole).all(), "a bonus of nothing changes nothing"
    assert (lists(raised, without_repeats=True) == whole).all()
    for row, order in enumerate(found.tolist()):
        history = set(domain.history_items[test.starts[row] : test.stops[row]].tolist())
        assert sorted(order) == list(range(ITEMS))
        assert [item for item in order if item not in history] == [item for item in without[row].tolist() if item >= 0]
        again = [item for item in whole[row].tolist() if item in history]
        assert [item for item in order if item in history] == again, "their own order stays"
        if abs(bonus) > 1:
            at = slice(None, len(history)) if bonus > 0 else slice(-len(history), None)
            assert order[at] == again
    assert (found != whole).any()


def test_lists_hold_repeated_items_by_when_and_how_often(
    trained: TrainedRecommender, values: np.ndarray, tmp_path: Path
) -> None:
    """By gains beyond all scores, with fewer beams than there are items in a history."""
    domain = domain_of("repeated")
    export_recommender(trained.model, LAYOUT, tmp_path / "recommender.onnx")
    test = leave_one_out(domain.history_items, domain.history_starts).test
    for told, by in (
        (LearnedRepeats(bonus=900.0, recency=100.0), lambda ago, times: ago),
        (LearnedRepeats(bonus=900.0, recency=10.0, frequency=100.0), lambda ago, times: (-times, ago)),
    ):
        part = RecommenderPart(
            name="a", model="m", domains=["ring"], domain_tokens=[], max_history=20, repeats={"ring": told}
        )
        recommender = Recommender.open(tmp_path / "recommender.onnx", part, LAYOUT, Runtime())
        found = ranked_lists(recommender, domain, values, test, beams=3, advance=lambda *_: None)
        for row, order in enumerate(found.tolist()):
            history = domain.history_items[test.starts[row] : test.stops[row]].tolist()
            best = sorted(set(history), key=lambda item: by(history[::-1].index(item), history.count(item)))
            assert order == best[:3]
