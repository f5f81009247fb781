"""The short form of every benchmark, one table: `python -m benchmarks`, or `make bench`. Some minutes on two cores."""

from __future__ import annotations

from benchmarks import beam_search, index, serving, tokenizing
from benchmarks.rows import report

report([*beam_search.run(batches=(1, 8, 32)), *index.run(), *tokenizing.run(), *serving.run()])
