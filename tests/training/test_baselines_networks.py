"""Networks of the baselines against slow twins: one user alone, plain autograd, dense float64 matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from baselines_planted import block_corpus, ring_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from training.baselines.parameters import BERT4RecParameters, GRU4RecParameters, SASRecParameters
from training.baselines.sequence import AnySequence, SequenceBaseline, build_network
from training.baselines.tasks import Cloze, NextItem
from training.data.split import PADDING
from training.networks import full_softmax
from training.networks.full_softmax import full_softmax_loss
from training.networks.item_embedding import MASKED
from training.networks.lightgcn import LightGCN

ITEMS, LENGTH = 17, 6
SMALL = {"width": 16, "layers": 2, "dropout": 0.5, "max_history": LENGTH}
SEQUENCES: list[AnySequence] = [
    SASRecParameters(**SMALL),
    BERT4RecParameters(**SMALL),
    GRU4RecParameters(**SMALL),
]
CPU = torch.device("cpu")


def kind_of(parameters: AnySequence) -> str:
    return parameters.kind


def some_histories(rng: np.random.Generator, users: int) -> list[np.ndarray]:
    return [rng.integers(0, ITEMS, rng.integers(1, LENGTH + 1)).astype(np.int32) for _ in range(users)]


def side_by_side(histories: list[np.ndarray]) -> np.ndarray:
    rows = np.full((len(histories), LENGTH), PADDING, dtype=np.int32)
    for row, history in zip(rows, histories, strict=True):
        row[: len(history)] = history
    return rows


@pytest.mark.parametrize("parameters", SEQUENCES, ids=kind_of)
def test_a_batch_scores_as_each_user_alone_and_unpadded(parameters: AnySequence) -> None:
    torch.manual_seed(0)
    model = SequenceBaseline(ring_corpus(ITEMS), parameters, CPU)
    histories = some_histories(np.random.default_rng(1), 20)
    scorer = model.scorer()
    with torch.no_grad():
        together = scorer(np.arange(20), side_by_side(histories))
        alone = torch.cat([scorer(np.zeros(1, dtype=np.int64), history[None]) for history in histories])
    assert together.shape == (20, ITEMS)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.std() > 0.01, "scores that are all equal would prove nothing"


@pytest.mark.parametrize("parameters", [SEQUENCES[0], SEQUENCES[2]], ids=kind_of)
def test_later_items_change_nothing_before_them(parameters: AnySequence) -> None:
    torch.manual_seed(0)
    network = build_network(ITEMS, parameters).eval()
    items = torch.from_numpy(np.random.default_rng(2).integers(0, ITEMS, (8, LENGTH)))
    for at in range(1, LENGTH):
        changed = items.clone()
        changed[:, at:] = (changed[:, at:] + 1) % ITEMS
        with torch.no_grad():
            before, after = network(items), network(changed)
        torch.testing.assert_close(before[:, :at], after[:, :at])
        assert (before[:, at] - after[:, at]).abs().max() > 1e-3


def test_what_is_masked_is_not_seen_and_all_else_is() -> None:
    torch.manual_seed(0)
    network = build_network(ITEMS, SEQUENCES[1]).eval()
    items = torch.from_numpy(np.random.default_rng(3).integers(0, ITEMS, (8, LENGTH)))
    items[:, 2] = MASKED
    with torch.no_grad():
        answer = network(items)[:, 2]
        for at in (0, 1, 3, 4, 5):
            changed = items.clone()
            changed[:, at] = (changed[:, at] + 1) % ITEMS
            assert (network(changed)[:, 2] - answer).abs().amax(dim=1).min() > 1e-4


@given(st.integers(1, 40), st.integers(2, 30), st.integers(1, 300), st.integers(0, 1000))
@settings(max_examples=30)
def test_sliced_cross_entropy_equals_plain_autograd(rows: int, items: int, logits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    table = torch.randn(items, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, items, (rows,), generator=generator)
    expected = F.cross_entropy(hidden @ table.T, targets)
    wanted = torch.autograd.grad(3 * expected, [hidden, table])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(full_softmax.SLICE, "cpu", logits)
        loss = full_softmax_loss(hidden, table, targets)
        found = torch.autograd.grad(3 * loss, [hidden, table])
    torch.testing.assert_close(loss, expected)
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_sliced_cross_entropy_survives_large_logits() -> None:
    hidden, table = torch.tensor([[1000.0], [-1000.0]]), torch.tensor([[1.0], [-1.0]])
    assert full_softmax_loss(hidden, table, torch.tensor([0, 0])).item() == pytest.approx(1000)


@pytest.mark.parametrize("layers", [1, 3])
def test_propagation_equals_a_dense_twin(layers: int) -> None:
    corpus = block_corpus(3, 20)
    had = corpus.interactions()
    users, items = had.users, had.items
    doubled = np.concatenate([users, users[:5]]), np.concatenate([items, items[:5]])
    network = LightGCN(*doubled, (corpus.users, corpus.items), width=4, layers=layers)
    size = corpus.users + corpus.items
    adjacency = np.zeros((size, size))
    adjacency[users, corpus.users + items] = adjacency[corpus.users + items, users] = 1
    degrees = adjacency.sum(axis=1)
    scale = np.divide(1.0, np.sqrt(degrees), out=np.zeros(size), where=degrees > 0)
    operator = torch.from_numpy(scale[:, None] * adjacency * scale)
    layer = torch.cat([network.users, network.items]).detach().double().requires_grad_()
    total, smoothed = layer, layer
    for _ in range(layers):
        smoothed = operator @ smoothed
        total = total + smoothed
    found = network()
    both = torch.cat([found.users, found.items])
    torch.testing.assert_close(both.double(), total / (layers + 1), rtol=1e-5, atol=1e-6)

    weights = torch.from_numpy(np.random.default_rng(0).normal(size=both.shape))
    (wanted,) = torch.autograd.grad((total / (layers + 1) * weights).sum(), layer)
    gradients = torch.autograd.grad((both * weights.float()).sum(), [network.users, network.items])
    torch.testing.assert_close(torch.cat(gradients).double(), wanted, rtol=1e-4, atol=1e-5)


def test_next_item_questions_by_hand() -> None:
    rows = np.asarray([[4, 7, 9], [5, 2, PADDING]], dtype=np.int32)
    question = NextItem().question(rows, np.random.default_rng(0))
    assert question.inputs.tolist() == [[4, 7], [5, 2]]
    assert question.asked.tolist() == [[True, True], [True, False]]
    assert question.answers.tolist() == [7, 9, 2]
    assert NextItem().query(rows).at.tolist() == [2, 1]


@given(st.integers(0, 1000), st.floats(0.01, 0.99), st.floats(0, 1))
@settings(max_examples=30)
def test_cloze_questions_hide_present_items_alone(seed: int, mask_share: float, last_share: float) -> None:
    rng = np.random.default_rng(seed)
    rows = side_by_side(some_histories(rng, 12))
    question = Cloze(mask_share, last_share).question(rows, rng)
    assert question.asked.any(axis=1).all(), "every row is asked something"
    assert (rows[question.asked] != PADDING).all()
    assert (question.inputs[question.asked] == MASKED).all()
    assert (question.inputs[~question.asked] == rows[~question.asked]).all()
    assert question.answers.tolist() == rows[question.asked].tolist()


def test_cloze_asks_for_the_last_item_in_its_share_of_rows() -> None:
    rows = np.tile(np.asarray([1, 2, 3, 4, PADDING], dtype=np.int32), (2000, 1))
    asked = Cloze(0.5, 1.0).question(rows, np.random.default_rng(0)).asked
    assert asked.sum(axis=0).tolist() == [0, 0, 0, 2000, 0]
    # Of 8,000 items half are masked, five standard deviations being 224; a row without any, 1 in 16, gets one more.
    asked = Cloze(0.5, 0.0).question(rows, np.random.default_rng(0)).asked
    assert abs(asked.sum() - (4000 + 125)) < 224 + 60
    assert Cloze(0.5, 0.0).query(rows[:1]).inputs.tolist() == [[1, 2, 3, 4, MASKED, PADDING]]
