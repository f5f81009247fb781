"""Who may use a device while a search is captured: nobody else.

ONNX Runtime captures in CUDA's global mode, in which an allocation by any other thread fails, and takes the capture
with it. So all that touches the device does so together with others, and a capture alone. Where nothing is captured,
as on a CPU, nobody waits. Knows nothing of what is done.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

_AT_ONCE = nullcontext()


class Turns:
    """Many together, or one alone; whoever waits to be alone goes before those that come later. Neither may be taken
    within the other.

    Parameters
    ----------
    captures : whether anybody is ever alone; if not, the others pay nothing
    """

    def __init__(self, captures: bool) -> None:
        self._captures = captures
        self._changed = threading.Condition()
        self._together, self._long, self._alone = 0, 0, False

    def together(self, long: bool = False) -> AbstractContextManager[None]:
        """While nobody is alone; `long` says that it takes longer than others could wait for one who waits for it."""
        return self._shared(long) if self._captures else _AT_ONCE

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """After all others have ended: true. Where one of them takes long: false, at once, and the device is theirs."""
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


TURNS = {"cpu": Turns(captures=False), "cuda": Turns(captures=True)}
"""Of this process's devices, by provider."""
