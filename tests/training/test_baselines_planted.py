"""Every baseline finds what was planted for it; the rules score what arithmetic says."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from baselines_planted import BLOCK, block_corpus, domain_of, ring_corpus

from service.bundle.repeats import LearnedRepeats
from training.baselines.corpus import Corpus
from training.baselines.graph import GraphBaseline
from training.baselines.parameters import (
    BERT4RecParameters,
    FactorizationParameters,
    GRU4RecParameters,
    LightGCNParameters,
    SASRecParameters,
)
from training.baselines.rules import factorization, popularity, random_order
from training.baselines.scoring import Scorer, learned_repeats, measure, ranked, with_repeats
from training.baselines.sequence import AnySequence, SequenceBaseline
from training.baselines.trainer import train
from training.checkpoint import CHECKPOINT, Checkpoint
from training.data.split import PADDING

CPU = torch.device("cpu")
QUICK = {"width": 32, "dropout": 0.0, "learning_rate": 5e-3, "warmup_steps": 10, "batch_tokens": 256, "layers": 1}


def first_choices(scorer: Scorer, corpus: Corpus) -> np.ndarray:
    """The best item of every test user: int64 [n]."""
    examples = corpus.split.test
    with torch.no_grad():
        return scorer(examples.users, examples.matrix(corpus.history_items)).argmax(dim=1).numpy()


@pytest.mark.parametrize(
    "parameters",
    [
        SASRecParameters(**QUICK, epochs=6),
        GRU4RecParameters(**QUICK, epochs=6),
        BERT4RecParameters(**QUICK, epochs=12, mask_share=0.15, last_share=0.5),
    ],
    ids=lambda parameters: parameters.kind,
)
def test_the_next_item_of_the_ring_comes_first(parameters: AnySequence, tmp_path: Path) -> None:
    torch.manual_seed(0)
    corpus = ring_corpus(20, 600)
    model = SequenceBaseline(corpus, parameters, CPU)

    def validate(scorer: Scorer) -> float:
        return measure(scorer, corpus.split.validation, corpus.history_items, 20).kept.ndcg_10

    assert (first_choices(model.scorer(), corpus) == corpus.split.test.targets).mean() < 0.2
    train(model, parameters, validate, Checkpoint(tmp_path / CHECKPOINT), "")
    assert (first_choices(model.scorer(), corpus) == corpus.split.test.targets).mean() > 0.95


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_training_ends_with_the_best_weights_when_patience_is_used_up(average: float, tmp_path: Path) -> None:
    corpus = ring_corpus()
    parameters = SASRecParameters(**QUICK, epochs=9, patience=2, average=average)
    model = SequenceBaseline(corpus, parameters, CPU)
    scores, tables = iter([0.1, 0.3, 0.3, 0.2, 0.9]), []

    def validate(_: Scorer) -> float:
        tables.append(model.network.items.table.detach().clone())
        return next(scores)

    result = train(model, parameters, validate, Checkpoint(tmp_path / CHECKPOINT), "")
    assert (result.epochs, result.best_epoch, result.ended_by) == (4, 2, "patience")
    assert torch.equal(model.network.items.table, tables[1])


def share_of_own_block(scorer: Scorer, corpus: Corpus) -> float:
    """Share of the ten best items, over all test users, that lie in the user's block; by chance 1 in 5."""
    examples = corpus.split.test
    with torch.no_grad():
        histories = examples.matrix(corpus.history_items)
        lists = ranked(scorer(examples.users, histories), histories).kept
    return float((lists // BLOCK == examples.targets[:, None] // BLOCK).mean())


def test_lightgcn_finds_the_blocks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    corpus = block_corpus()
    parameters = LightGCNParameters(width=16, layers=2, epochs=15, learning_rate=2e-2, warmup_steps=1, batch_pairs=256)
    model = GraphBaseline(corpus, parameters, CPU)
    model.network.users.data.mul_(0.1)  # or smoothing alone would find them

    def validate(scorer: Scorer) -> float:
        return measure(scorer, corpus.split.validation, corpus.history_items, 20).removed.recall_10

    train(model, parameters, validate, Checkpoint(tmp_path / CHECKPOINT), "")
    assert share_of_own_block(model.scorer(), corpus) > 0.95
    assert measure(model.scorer(), corpus.split.test, corpus.history_items, 20).removed.recall_10 > 0.95


def test_lightgcn_draws_no_item_that_the_user_had() -> None:
    corpus = block_corpus()
    model = GraphBaseline(corpus, LightGCNParameters(width=4), CPU)
    had = corpus.interactions()
    users, others = had.users.tolist(), model._others(had.users, np.random.default_rng(0)).tolist()
    assert not set(zip(users, others, strict=True)) & set(zip(users, had.items.tolist(), strict=True))
    # 1,050 draws over 60 items, each left out by 7/12 of a fifth of the users: about 17 times each.
    assert np.bincount(others, minlength=corpus.items).min() > 3


def test_factorization_finds_the_blocks_of_users_it_never_saw() -> None:
    corpus = block_corpus()
    rule = factorization(corpus, FactorizationParameters(width=16, threads=1))
    assert share_of_own_block(rule.scorer, corpus) > 0.95
    stranger = rule.scorer(np.asarray([10**6]), np.asarray([[13, 14, PADDING]], dtype=np.int32))
    assert set((stranger[0].topk(10).indices // BLOCK).tolist()) == {1}


def test_factorization_solves_the_same_for_one_as_for_many() -> None:
    corpus = block_corpus()
    scorer = factorization(corpus, FactorizationParameters(width=8, threads=1)).scorer
    examples = corpus.split.test
    histories = examples.matrix(corpus.history_items)
    together = scorer(examples.users[:6], histories[:6])
    alone = torch.cat([scorer(examples.users[row : row + 1], histories[row : row + 1, :8]) for row in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_popularity_scores_what_can_be_counted() -> None:
    # The training part holds item 3 three times and 1 twice; the last two of each user are held out.
    corpus = Corpus.of(domain_of("few", 30, [[3, 1, 0, 3], [3, 1, 5, 1], [3, 29, 29]]), 20)
    lists = ranked(popularity(corpus).scorer(np.arange(1), np.zeros((1, 1), dtype=np.int32)), np.asarray([[3]]))
    assert lists.kept.tolist() == [[3, 1, 0, 2, 4, 5, 6, 7, 8, 9]]
    assert lists.removed.tolist() == [[1, 0, 2, 4, 5, 6, 7, 8, 9, 10]]
    figures = measure(popularity(corpus).scorer, corpus.split.test, corpus.history_items, 20)
    # Targets 3, 1 and 29 stand first, second and nowhere; all lie in their users' histories.
    assert figures.kept.ndcg_10 == pytest.approx((1 + 1 / math.log2(3)) / 3)
    assert figures.kept.recall_10 == pytest.approx(2 / 3)
    assert figures.removed.recall_10 == 0


def test_a_baseline_of_short_histories_is_measured_without_the_items_that_others_are_measured_without() -> None:
    """It reads two items; removed are the newest twenty all the same."""
    corpus = Corpus.of(domain_of("long", 40, [[0, *range(1, 25), 30, 26]]), 2)
    read: list[list[int]] = []

    def scores(users: np.ndarray, items: np.ndarray) -> torch.Tensor:
        read.append(items.tolist())
        return -torch.arange(40.0).expand(len(users), -1)

    figures = measure(scores, corpus.split.test, corpus.history_items, 2)
    assert read == [[[24, 30]]]
    # Items 0 to 5 are older than that and stand before the target, 26; 6 to 24 are not there, and 25 is.
    assert figures.removed.ndcg_10 == pytest.approx(1 / math.log2(7 + 2))
    assert figures.kept.recall_10 == 0


def test_a_random_order_scores_what_chance_does() -> None:
    """Recall@k = k / items; the bounds are five standard deviations of a binomial share."""
    users, items = 4000, 200
    rng = np.random.default_rng(0)
    corpus = Corpus.of(domain_of("many", items, [rng.integers(0, items, 4).tolist() for _ in range(users)]), 20)
    figures = measure(random_order(items, 7).scorer, corpus.split.test, corpus.history_items, 20).kept
    for found, cutoff in ((figures.recall_5, 5), (figures.recall_10, 10)):
        share = cutoff / items
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / users)
    gains = 1 / np.log2(np.arange(10) + 2)
    mean, square = gains.sum() / items, (gains**2).sum() / items
    assert abs(figures.ndcg_10 - mean) < 5 * math.sqrt((square - mean**2) / users)


def test_a_random_order_depends_on_seed_user_and_item_alone() -> None:
    nobody = np.zeros((5, 1), dtype=np.int32)
    scores = random_order(50, 1).scorer(np.arange(5), nobody)
    torch.testing.assert_close(scores[3:4], random_order(50, 1).scorer(np.asarray([3]), nobody[:1]))
    assert (scores != random_order(50, 2).scorer(np.arange(5), nobody)).float().mean() > 0.99
    assert (scores[0] != scores[1]).float().mean() > 0.9


def test_lists_by_hand() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
    lists = ranked(scores, np.asarray([[1, 0, PADDING]], dtype=np.int32))
    assert lists.kept.tolist() == [[1, 3, 2, 0, -1, -1, -1, -1, -1, -1]]
    assert lists.removed.tolist() == [[3, 2, -1, -1, -1, -1, -1, -1, -1, -1]]


@pytest.mark.parametrize(("comes_again", "sign"), [(True, 1), (False, -1)])
def test_a_baseline_learns_whether_items_come_again(comes_again: bool, sign: int) -> None:
    rng = np.random.default_rng(2)
    histories = [rng.permutation(30)[:6].tolist() for _ in range(80)]
    if comes_again:
        histories = [[*items[:4], items[1], items[2]] for items in histories]
    corpus = Corpus.of(domain_of("shop", 30, histories), 20)
    scorer = random_order(30, 0).scorer

    def scores(users: np.ndarray, items: np.ndarray) -> torch.Tensor:
        return scorer(users, items) / 2**24

    learned = learned_repeats(scores, corpus.split.validation, corpus.history_items, 20)
    assert np.sign(learned.bonus) == sign
    plain, told = (
        measure(each, corpus.split.test, corpus.history_items, 20) for each in (scores, with_repeats(scores, learned))
    )
    assert told.kept.ndcg_10 > plain.kept.ndcg_10
    if not comes_again:
        assert told.kept == plain.removed, "as low as it takes: no item of a history is left in the lists"


def test_what_a_history_holds_twice_is_raised_once() -> None:
    histories = np.array([[2, 0, 2, PADDING], [1, PADDING, PADDING, PADDING]], dtype=np.int32)
    plain = torch.arange(8.0).reshape(2, 4)
    raised = with_repeats(lambda *_: plain, LearnedRepeats(bonus=-1.5))(np.arange(2), histories)
    assert raised.tolist() == [[-1.5, 1.0, 0.5, 3.0], [4.0, 3.5, 6.0, 7.0]]
    # Of the first history, item 2 is the newest and was met twice, item 0 is the second newest.
    told = LearnedRepeats(bonus=0.0, recency=1 / np.log(2), frequency=3 / np.log(2))
    assert with_repeats(lambda *_: plain, told)(np.arange(2), histories).tolist() == [[-1, 1, 5, 3], [4, 5, 6, 7]]
    assert plain.tolist() == torch.arange(8.0).reshape(2, 4).tolist()
