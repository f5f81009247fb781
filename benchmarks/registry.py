"""Every benchmark by name: the function that yields its rows, and with which arguments in the short and the full form.

A benchmark joins with one line. Its function is imported only in the process that runs it.
"""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from benchmarks.rows import Row

Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Benchmark:
    """A few rows that are measured together, in a process of their own.

    Attributes
    ----------
    name : what a person asks for
    function : `module:function` within `benchmarks`, that yields rows
    short, full : its arguments in either form; without `short`, the benchmark is part of the full form alone
    """

    name: str
    function: str
    short: Arguments | None
    full: Arguments

    def arguments(self, full: bool, given: Arguments) -> dict[str, Any]:
        """Arguments of a form, with what a person gave in their place; text stands for a path where one is taken.

        Raises
        ------
        ValueError : the function takes no argument of that name
        """
        chosen = {**(self.full if full or self.short is None else self.short), **given}
        known = inspect.signature(self.resolve(), eval_str=True).parameters
        if unknown := sorted(set(chosen) - set(known)):
            raise ValueError(f"{self.name}: takes no {', '.join(unknown)}; it takes {', '.join(known)}")
        paths = {key for key in chosen if known[key].annotation in (Path, Path | None)}
        return {key: Path(value) if key in paths else value for key, value in chosen.items()}

    def resolve(self) -> Callable[..., Iterable[Row]]:
        """The function."""
        module, _, function = self.function.partition(":")
        found: Callable[..., Iterable[Row]] = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        return found


MILLION = 1_000_000

BENCHMARKS = (
    Benchmark("search-10k", "beam_search:run", {"batches": [1, 32]}, {"batches": [1, 8, 32], "repeats": 5}),
    Benchmark(
        "search-200k",
        "beam_search:run",
        {"items": [200_000], "beams": 50, "batches": [1, 32], "repeats": 1},
        {"items": [200_000], "beams": 50, "batches": [1, 32], "repeats": 5},
    ),
    Benchmark(
        "search-items",
        "beam_search:run",
        {"reads": "items", "batches": [1, 32], "repeats": 1},
        {"reads": "items", "batches": [1, 8, 32], "repeats": 5},
    ),
    Benchmark(
        "search-head",
        "beam_search:run",
        {"reads": "items", "head": 1.0, "batches": [1, 32], "repeats": 1},
        {"reads": "items", "head": 1.0, "batches": [1, 8, 32], "repeats": 5},
    ),
    Benchmark(
        "search-costs",
        "search_costs:run",
        {"items": [10_000, 100_000, MILLION]},
        {"items": [10_000, 100_000, MILLION, 10 * MILLION], "repeats": 15},
    ),
    Benchmark("search-int8", "search_int8:run", {"repeats": 3}, {"repeats": 9}),
    Benchmark("search-gpu", "gpu:run", None, {}),
    Benchmark("serve-gpu", "gpu_served:run", None, {}),
    Benchmark("index", "index:run", {"items": MILLION}, {"items": 10 * MILLION}),
    Benchmark("index-dictionaries", "index:dictionaries", {}, {}),
    Benchmark("index-searches", "index_searches:run", {}, {"items": 10 * MILLION}),
    Benchmark("embedding-to-id", "tokenizing:run", {}, {"repeats": 15}),
    Benchmark("text-static", "texts:static", {}, {}),
    Benchmark("text-int8", "texts:int8", {"items": 400}, {}),
    Benchmark("text-same-ids", "texts:same_ids", {"items": 400}, {}),
    Benchmark("text-to-id", "texts_http:run", {"seconds": 4.0}, {"seconds": 30.0}),
    Benchmark("http", "serving:run", {}, {"count": 1000}),
    Benchmark("http-layers", "http_layers:run", {}, {"rounds": 400}),
    Benchmark("http-load", "serving:load", {}, {"rates": [10, 20, 40, 60, 80, 100, 120], "seconds": 60.0}),
    Benchmark("http-large", "large_serving:run", None, {}),
    Benchmark("http-large-items", "large_serving:run", None, {"reads": "items"}),
    Benchmark("http-large-head", "large_serving:run", None, {"reads": "items", "head": 1.0}),
    Benchmark("overload", "overload:run", {"seconds": 6.0}, {"seconds": 60.0}),
    Benchmark("replicas", "replicas:run", {"count": 20}, {"count": 200}),
    Benchmark("generations", "generations:run", {"repeats": 3}, {"repeats": 20}),
    Benchmark("backfill-embeddings", "backfill:run", {}, {"items": MILLION}),
    Benchmark("backfill-texts", "backfill:run", None, {"kind": "texts", "items": MILLION}),
    Benchmark("backfill-engines", "backfill_engines:run", None, {}),
    Benchmark("soak", "soak:run", None, {"bundle": "models/sample", "minutes": 30, "rate": 10}),
    Benchmark("store-embedded", "stores:embedded", None, {"items": MILLION}),
    Benchmark("store-redis", "stores:redis", None, {"items": MILLION}),
)


def chosen(globs: Iterable[str], full: bool) -> list[Benchmark]:
    """Benchmarks whose name fits one of the patterns; without any, all that have the form.

    Raises
    ------
    ValueError : a pattern fits none
    """
    globs = list(globs)
    if not globs:
        return [each for each in BENCHMARKS if full or each.short is not None]
    names = [each.name for each in BENCHMARKS]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise ValueError(f"no benchmark is called {glob!r}; there are {', '.join(names)}")
    return [each for each in BENCHMARKS if any(fnmatchcase(each.name, glob) for glob in globs)]


def given(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` as a person writes arguments; a value is JSON, or else text."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{pair!r} must be key=value")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found
