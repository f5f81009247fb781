"""Exceptions that Polars raises for files that are not Parquet or are damaged. Knows nothing of the contents.

Always pass `glob=False` when opening a file; else Polars takes a name with `[`, `*` or `?` as a pattern and reads other
files.
"""

from __future__ import annotations

from polars.exceptions import PanicException, PolarsError

PARQUET_ERRORS: tuple[type[BaseException], ...] = (PolarsError, PanicException, OSError)
"""A damaged page makes Polars panic, which is not an `Exception`; so catch these only around reading one file."""
