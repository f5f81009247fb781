"""The threads that keep a live catalogue in step with what other replicas change, and that compact it.

Knows nothing of what changes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.catalogue.live import Agreement, LiveCatalogue, Reread


@contextmanager
def following(
    live: LiveCatalogue,
    seconds: float,
    failed: Callable[[Exception], None],
    *,
    answered: Callable[[], None] = lambda: None,
    reread: Callable[[Reread], None] = lambda reason: None,
    compare_seconds: float | None = None,
    compared: Callable[[Agreement], None] = lambda agreement: None,
) -> Iterator[None]:
    """Refresh and tidy the catalogue every so many seconds while the block runs.

    Everything is told on the follower's or the tidier's thread.

    Parameters
    ----------
    live : the catalogue to refresh
    seconds : pause between two looks at the change log, which cost the store one small read each
    failed : told when a look or tidying failed, whatever the reason; the next one tries again from there
    answered : told when a look succeeded
    reread : told when everything was read anew
    compare_seconds : pause between two comparisons of fingerprints, None for none
    compared : told how a comparison ended
    """
    ended = threading.Event()

    def follow() -> None:
        due = None if compare_seconds is None else time.monotonic() + compare_seconds
        while not ended.wait(seconds):
            try:
                live.refresh(reread)
                if due is not None and compare_seconds is not None and time.monotonic() >= due:
                    due = time.monotonic() + compare_seconds
                    compared(live.compare(reread))
            except Exception as error:
                # A thread that ends would leave the replica behind for ever, without a word.
                failed(error)
            else:
                answered()

    def tidy() -> None:
        while not ended.wait(seconds):
            try:
                live.tidy()
            except Exception as error:
                failed(error)

    # Two threads, since tidying millions of items takes seconds, in which changes are to be followed.
    threads = [
        threading.Thread(target=work, name=f"catalogue-{name}", daemon=True)
        for name, work in (("follower", follow), ("tidier", tidy))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
