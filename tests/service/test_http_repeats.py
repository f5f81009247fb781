"""Items of the history among the results: raised by what a recommender has learned of repeats, and else as without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from math import log
from pathlib import Path
from typing import Any

import httpx
import pytest
from dummy_engine import ONE_FOR_ALL, DummyEngine
from http_server import serving_dummy

from service.catalogue.records import ItemKey
from service.operations.repeats import apart
from service.settings import Settings

NAMES = [f"{domain}-{number}" for domain in ("films", "games") for number in range(20)]
HISTORY = ["films-0", "films-3", "games-2", "films-3", "films-11", "games-7", "films-19"]
"""Longer than the five items that the recommender reads."""
BOTH = {"films": -30.0, "games": 30.0}
"""Gains that put the worst of one domain before the best of the other."""


@contextmanager
def serving(folder: Path, repeats: Mapping[str, Any], **settings: int) -> Iterator[httpx.Client]:
    """A service that knows all of NAMES, by a recommender that has learned this."""
    engine = DummyEngine([part | {"repeats": repeats} for part in ONE_FOR_ALL])
    with serving_dummy(folder, Settings(**settings), engine) as client:
        items = [reference(name) | {"title": name} for name in NAMES]
        assert client.post("/tokenize", json={"items": items, "register": True}).status_code == 200
        yield client


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[float, httpx.Client]]:
    """Services by what repeated films gain; 0: they have learned nothing."""
    with ExitStack() as stack:
        yield {
            bonus: stack.enter_context(serving(tmp_path_factory.mktemp("store"), {"films": bonus} if bonus else {}))
            for bonus in (0.0, 1.25, 100.0, -100.0)
        }


def reference(name: str) -> dict[str, str]:
    return {"domain": name.partition("-")[0], "item_id": name}


def recommended(client: httpx.Client, **changes: Any) -> list[dict[str, Any]]:
    body = {"history": [reference(name) for name in HISTORY], "exclude_history": False, "k": 60} | changes
    answer = client.post("/recommend", json=body)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


@pytest.mark.parametrize("bonus", [1.25, 100.0, -100.0])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"domains": ["films"]},
        {"domains": ["games"]},
        {"k": 5},
        {"k": 1, "beam_width": 1},
        {"exclude": [reference(name) for name in ("films-3", "films-4", "games-2")]},
        {"allow": [reference(name) for name in ("films-3", "films-5", "games-2", "games-3")]},
        {"allow": [reference("films-5")]},
        {"explain": True},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
def test_repeated_items_gain_what_was_learned(
    knowing: dict[float, httpx.Client], bonus: float, changes: dict[str, Any]
) -> None:
    plain = recommended(knowing[0.0], **changes | {"k": 60, "beam_width": 60})
    for item in plain:
        item["score"] += bonus * (item["item_id"] in HISTORY and item["domain"] == "films")
    expected = sorted(plain, key=lambda item: -item["score"])[: changes.get("k", 60)]
    found = recommended(knowing[bonus], **changes)
    assert [item["item_id"] for item in found] == [item["item_id"] for item in expected]
    assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected])
    for item in found:
        levels = item.get("score_by_level", [{"log_prob": item["score"]}])
        assert sum(level["log_prob"] for level in levels) == pytest.approx(item["score"])


@pytest.fixture(scope="module")
def knowing_both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service where repeated films and repeated games gain differently."""
    with serving(tmp_path_factory.mktemp("store"), BOTH, default_beam_width=1) as client:
        yield client


@pytest.mark.parametrize("k", [1, 2, 3, 60])
def test_each_domain_gains_its_own_before_the_best_are_kept(
    knowing: dict[float, httpx.Client], knowing_both: httpx.Client, k: int
) -> None:
    plain = recommended(knowing[0.0], k=60, beam_width=60)
    for item in plain:
        item["score"] += BOTH[item["domain"]] if item["item_id"] in HISTORY else 0
    expected = sorted(plain, key=lambda item: -item["score"])[:k]
    # Fewer beams than there are items in the history, and more.
    for width in (k, 60):
        found = recommended(knowing_both, k=k, beam_width=width)
        assert [item["item_id"] for item in found] == [item["item_id"] for item in expected]
        assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected])


@pytest.mark.parametrize("k", [1, 2, 3, 60])
def test_items_gain_by_when_and_how_often_they_were_met(
    knowing: dict[float, httpx.Client], tmp_path: Path, k: int
) -> None:
    """How long ago is counted in films alone: films-0, films-3, films-3, films-11, films-19."""
    gains = {
        "films-19": 8.0,
        "films-11": 8 - 20 * log(2),
        "films-3": 8 - 20 * log(3) + 30 * log(2),
        "films-0": 8 - 20 * log(5),
    }
    plain = recommended(knowing[0.0], k=60, beam_width=60)
    for item in plain:
        item["score"] += gains.get(item["item_id"], 0)
    expected = sorted(plain, key=lambda item: -item["score"])[:k]
    with serving(
        tmp_path, {"films": {"bonus": 8.0, "recency": 20.0, "frequency": 30.0}}, default_beam_width=1
    ) as client:
        # Fewer beams than there are films in the history, and more.
        for width in (k, 60):
            found = recommended(client, k=k, beam_width=width)
            assert [item["item_id"] for item in found] == [item["item_id"] for item in expected]
            assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected])


def test_beyond_what_is_read_gains_fade_no_more(knowing: dict[float, httpx.Client], tmp_path: Path) -> None:
    """The recommender reads five items; of twenty films fifteen gain as the fifth does."""
    films = [name for name in NAMES if name.startswith("films")]
    changes: dict[str, Any] = {"history": [reference(name) for name in films], "domains": ["films"]}
    plain = recommended(knowing[0.0], **changes)
    for item in plain:
        ago = len(films) - films.index(item["item_id"])
        item["score"] += 8 - 20 * log(min(ago, 5))
    expected = sorted(plain, key=lambda item: -item["score"])
    with serving(tmp_path, {"films": {"bonus": 8.0, "recency": 20.0}}, default_beam_width=1) as client:
        for k in (1, 7, 60):
            found = recommended(client, **changes, k=k, beam_width=k)
            assert [item["item_id"] for item in found] == [item["item_id"] for item in expected][:k]
            assert [item["score"] for item in found] == pytest.approx([item["score"] for item in expected][:k])


def test_items_that_gain_alike_are_one_search_however_many() -> None:
    keys = [ItemKey("films", f"films-{number}") for number in range(1000)]
    gained = {key: -min(number, 19) + (number in {50, 70}) / 2 for number, key in enumerate(keys)}
    groups = apart(gained, 50)
    assert sorted(key for group in groups for key in group) == sorted(keys)
    assert [len(group) for group in groups] == [979, 21]
    assert [len(group) for group in apart(gained, 10)] == [979, 10, 10, 1]
    assert apart({}, 10) == []


def test_raw_items_count_among_those_that_were_met_since(knowing: dict[float, httpx.Client], tmp_path: Path) -> None:
    """Not those of other domains, nor those that cannot be read."""
    raw = [{"domain": "films", "title": title} for title in ("one", "two", "one")]
    history = [raw[0], reference("films-3"), *raw, {"domain": "games", "title": "three"}, reference("films-nobody")]
    changes = {"domains": ["films"], "history": history}
    (plain,) = (item for item in recommended(knowing[0.0], **changes) if item["item_id"] == "films-3")
    with serving(tmp_path, {"films": {"bonus": 8.0, "recency": 2.0, "frequency": 3.0}}) as client:
        found = recommended(client, **changes)
    (told,) = (item for item in found if item["item_id"] == "films-3")
    assert told["score"] - plain["score"] == pytest.approx(8 - 2 * log(4))
    assert len(found) == len(NAMES) / 2


def test_excluded_the_history_stays_away_whatever_was_learned(knowing: dict[float, httpx.Client]) -> None:
    lists = [[item["item_id"] for item in recommended(client, exclude_history=True)] for client in knowing.values()]
    assert all(names == lists[0] for names in lists)
    assert set(lists[0]) == set(NAMES) - set(HISTORY)
