"""Who may use the device while a search is captured: nobody else.

ONNX Runtime captures in CUDA's global mode, in which an allocation by any other thread fails, and takes the capture
with it. So all that touches the device does so together with others, and a capture alone. Knows nothing of what is
done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Many together, or one alone; whoever waits to be alone goes before those that come later. Neither may be taken
    within the other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together, self._alone = 0, False

    @contextmanager
    def together(self) -> Iterator[None]:
        """While nobody is alone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """After all others have ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: not self._together)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


DEVICE = Turns()
"""Of this process's devices."""
