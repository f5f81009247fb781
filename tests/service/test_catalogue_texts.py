"""Names and titles in one run of bytes, against the pairs that were written."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalogue.texts import SMALLEST, Places, Texts

Pair = tuple[str, str | None]

LENGTHS = st.sampled_from([0, 1, 2, 200, 255, 256, 300, 511, 513])
NAMES = st.builds("n".__mul__, LENGTHS)
TITLES = st.one_of(
    st.none(), st.builds("t".__mul__, LENGTHS), st.builds("é".__mul__, st.sampled_from([SMALLEST // 2 + 5, SMALLEST]))
)
PAIRS = st.lists(st.tuples(NAMES, TITLES), max_size=4)


def added(texts: Texts, pairs: list[Pair]) -> Places:
    return texts.add([name.encode() for name, _ in pairs], [title and title.encode() for _, title in pairs])  # type: ignore[misc]


def require(texts: Texts, places: Places, pairs: list[Pair]) -> None:
    assert [texts.read(place) for place in places.tolist()] == pairs
    assert [texts.name(place).decode() for place in places.tolist()] == [name for name, _ in pairs]
    assert sum(map(texts.size, places.tolist())) <= texts.used


@settings(max_examples=80)
@given(PAIRS, PAIRS, PAIRS, st.randoms(use_true_random=False))
def test_texts_of_any_length_stay_where_they_are_and_are_copied_whole(
    kept: list[Pair], more: list[Pair], last: list[Pair], random: Random
) -> None:
    """Of a first run, of one that goes on from it, and in another that takes some of them over in any order."""
    first = Texts()
    places = [added(first, kept)]
    again = Texts(first.joined())
    places += [added(again, more), added(again, last)]
    pairs, at = [*kept, *more, *last], np.concatenate(places)
    require(again, at, pairs)
    assert sum(map(again.size, at.tolist())) == again.used
    require(Texts(again.joined()), at, pairs)

    chosen = list(range(len(pairs)))
    random.shuffle(chosen)
    chosen = chosen[: len(chosen) // 2 + 1]
    other = Texts()
    before = added(other, [("there", "before")])
    copied = other.adopt(again, at[chosen])
    require(other, np.concatenate([before, copied]), [("there", "before"), *(pairs[place] for place in chosen)])
