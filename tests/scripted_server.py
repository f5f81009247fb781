"""A real HTTP server that gives prepared answers, one a request, and keeps what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Prepared:
    """One answer; with status 0 the connection is closed without any."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Scripted:
    """What is left to answer, and what was asked."""

    def __init__(self, answers: Sequence[Prepared]) -> None:
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.address = ""


@contextmanager
def scripted(*answers: Prepared) -> Iterator[Scripted]:
    """Serve the answers in order."""
    script = Scripted(answers)

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append(Asked(self.command, self.path, dict(self.headers), body))
            prepared = script.answers.pop(0)
            if not prepared.status:
                self.close_connection = True
                return
            self.send_response(prepared.status)
            for name, value in {**prepared.headers, "Content-Length": str(len(prepared.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(prepared.body.encode())

        do_GET = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    script.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join(20)
