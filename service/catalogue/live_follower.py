"""Background threads that apply the changes of other replicas to a live catalogue, and compact it.

Independent of what changes.
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
    """Refresh and compact the catalogue periodically while the block runs.

    All callbacks run on the follower's or the tidier's thread.

    Parameters
    ----------
    live : the catalogue to refresh
    seconds : pause between polls of the change log; a poll costs the store one small read
    failed : called when a poll or a compaction failed, for any reason; the next one retries from there
    answered : called when a poll succeeded
    reread : called when the whole store was reread
    compare_seconds : pause between comparisons of fingerprints; None disables them
    compared : called with the result of a comparison
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
                # If the thread ended here, the replica would silently stay out of date.
                failed(error)
            else:
                answered()

    def tidy() -> None:
        while not ended.wait(seconds):
            try:
                live.tidy()
            except Exception as error:
                failed(error)

    # Two threads, since compacting millions of items takes seconds, and changes must be applied meanwhile.
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
