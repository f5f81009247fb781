"""What Polars raises for a file that is no Parquet, or a broken one. Knows nothing of what the files hold.

Whoever opens a file says `glob=False`, or Polars takes a name with `[`, `*` or `?` for a pattern and reads others.
"""

from __future__ import annotations

from polars.exceptions import PanicException, PolarsError

PARQUET_ERRORS: tuple[type[BaseException], ...] = (PolarsError, PanicException, OSError)
"""A broken page makes Polars panic, which is no `Exception`: caught only around the reading of one file."""
