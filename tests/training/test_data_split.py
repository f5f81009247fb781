"""The vectorised split equals a slow twin that walks each user's list."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.data.split import PADDING, Examples, Stretches, leave_one_out, padded, training_stretches, windows

Triple = tuple[int, tuple[int, ...], int]


def slow_split(histories: list[list[int]], max_history: int) -> tuple[list[Triple], list[Triple], list[Triple], int]:
    training: list[Triple] = []
    validation: list[Triple] = []
    test: list[Triple] = []
    short = 0
    for user, history in enumerate(histories):
        if len(history) < 3:
            short += 1
            part = history
        else:
            part = history[:-2]
            validation.append((user, tuple(history[:-2][-max_history:]), history[-2]))
            test.append((user, tuple(history[:-1][-max_history:]), history[-1]))
        training += [(user, tuple(part[:at][-max_history:]), part[at]) for at in range(1, len(part))]
    return training, validation, test, short


def flatten(histories: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    items = np.asarray([item for history in histories for item in history], dtype=np.int32)
    starts = np.cumsum([0] + [len(history) for history in histories]).astype(np.int64)
    return items, starts


def triples(examples: Examples, items: np.ndarray) -> list[Triple]:
    return [
        (int(user), tuple(int(item) for item in items[start:stop]), int(target))
        for user, target, start, stop in zip(
            examples.users, examples.targets, examples.starts, examples.stops, strict=True
        )
    ]


histories_strategy = st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=30), max_size=8)


@given(histories_strategy, st.integers(1, 25))
def test_split_equals_the_slow_twin(histories: list[list[int]], max_history: int) -> None:
    items, starts = flatten(histories)
    split = leave_one_out(items, starts, max_history)
    training, validation, test, short = slow_split(histories, max_history)
    assert triples(split.training, items) == training
    assert triples(split.validation, items) == validation
    assert triples(split.test, items) == test
    assert split.short_users == short


@given(histories_strategy, st.integers(1, 25))
def test_matrix_holds_the_newest_items_oldest_first(histories: list[list[int]], length: int) -> None:
    items, starts = flatten(histories)
    examples = leave_one_out(items, starts).training
    matrix = examples.matrix(items, length)
    assert matrix.shape == (len(examples), length)
    assert matrix.dtype == np.int32
    for row, (_, history, _) in zip(matrix, triples(examples, items), strict=True):
        expected = list(history[-length:])
        assert row.tolist() == expected + [PADDING] * (length - len(expected))


@given(histories_strategy)
def test_the_training_part_is_all_that_is_neither_validated_nor_tested(histories: list[list[int]]) -> None:
    items, starts = flatten(histories)
    found = training_stretches(starts).interactions(items)
    parts = [history[:-2] if len(history) >= 3 else history for history in histories]
    assert found.items.tolist() == [item for part in parts for item in part]
    assert found.users.tolist() == [user for user, part in enumerate(parts) for _ in part]
    assert found.users.dtype == found.items.dtype == np.int64
    split = leave_one_out(items, starts)
    assert found.items.tolist() == np.delete(items, [*split.validation.stops, *split.test.stops]).tolist()


def test_stretches_are_read_one_after_the_other_wherever_they_lie() -> None:
    some = Stretches(np.array([4, 2, 4]), np.array([5, 0, 3]), np.array([7, 2, 3]))
    found = some.interactions(np.arange(10, 20, dtype=np.int32))
    assert found.users.tolist() == [4, 4, 2, 2]
    assert found.items.tolist() == [15, 16, 10, 11]


def test_the_test_history_contains_the_validation_item() -> None:
    items, starts = flatten([[7, 8, 9]])
    split = leave_one_out(items, starts)
    assert len(split.training) == 0
    assert triples(split.validation, items) == [(0, (7,), 8)]
    assert triples(split.test, items) == [(0, (7, 8), 9)]


@given(histories_strategy, st.integers(1, 25))
def test_windows_ask_for_every_training_item_once(histories: list[list[int]], max_history: int) -> None:
    items, starts = flatten(histories)
    found = windows(training_stretches(starts), max_history)
    rows = padded(items, found.starts, found.stops, max_history + 1)
    expected = []
    for user, history in enumerate(histories):
        part = history[:-2] if len(history) >= 3 else history
        stop = len(part)
        while stop > 1:
            expected.append((user, part[max(0, stop - max_history - 1) : stop]))
            stop -= max_history
    assert [
        (int(user), [item for item in row if item != PADDING]) for user, row in zip(found.users, rows, strict=True)
    ] == expected
    assert sum(len(window) - 1 for _, window in expected) == len(leave_one_out(items, starts).training)
