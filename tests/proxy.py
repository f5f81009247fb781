"""A TCP proxy that can be made slow or deaf, to stand between a service and its store."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Proxy:
    """Use as a context manager; its faults are set while it runs.

    Attributes
    ----------
    target : port that new connections are led to
    delay : seconds that each piece of data is held back
    lose_answer : close the connection in place of passing the next answer on, once
    deaf : swallow everything, so that neither side hears of the other, as behind a firewall that drops packets
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.lose_answer = False
        self.deaf = False
        self._closed = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Address of the server behind it."""
        return f"redis://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink, source is far), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if self.deaf:
                    continue
                if answers and self.lose_answer:
                    self.lose_answer = False
                    break
                if self.delay:
                    self._closed.wait(self.delay)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._listener.close()
        for end in self._sockets:
            end.close()
