"""The short form of every benchmark, one table: `python -m benchmarks`, or `make bench`. Some minutes on two cores."""

from __future__ import annotations

from benchmarks import beam_search, index, search_costs, search_int8, serving, tokenizing
from benchmarks.rows import report

report(
    [
        *beam_search.run(batches=(1, 8, 32)),
        *search_costs.run(),
        *search_int8.run(),
        *index.run(),
        *tokenizing.run(),
        *serving.run(),
    ]
)
