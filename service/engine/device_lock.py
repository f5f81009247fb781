"""A readers-writer lock for a device: normal use is shared, the capture of a CUDA graph is exclusive.

ONNX Runtime captures in CUDA's global mode: an allocation by any other thread fails, and makes the capture fail too.
On a CPU nothing is captured, and the lock costs nothing. Independent of what is done on the device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_AT_ONCE = nullcontext()


class DeviceLock:
    """A lock that is shared (`together`) or exclusive (`alone`). A waiting exclusive request goes before later shared
    ones. Neither may be taken while the same thread holds the other.

    Parameters
    ----------
    captures : whether the lock is ever exclusive; if not, sharing it costs nothing
    """

    def __init__(self, captures: bool) -> None:
        self._captures = captures
        self._changed = threading.Condition()
        self._together, self._long, self._alone = 0, 0, False

    def together(self, long: bool = False) -> AbstractContextManager[None]:
        """Share the lock; `long`: it is held too long for a capture, and the requests behind it, to wait for."""
        return self._shared(long) if self._captures else _AT_ONCE

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold the lock exclusively after all others released it: True. False at once if a holder said `long`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = granted = not self._long
        try:
            if granted:
                with self._changed:
                    self._changed.wait_for(lambda: not self._together)
            yield granted
        finally:
            if granted:
                with self._changed:
                    self._alone = False
                    self._changed.notify_all()

    @contextmanager
    def _shared(self, long: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._together, self._long = self._together + 1, self._long + long
        try:
            yield
        finally:
            with self._changed:
                self._together, self._long = self._together - 1, self._long - long
                self._changed.notify_all()


DEVICE_LOCKS = {"cpu": DeviceLock(captures=False), "cuda": DeviceLock(captures=True)}
"""The locks of this process's devices, by provider."""
