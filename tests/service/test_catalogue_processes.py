"""Processes that collide, and processes that are killed, on both stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from places import LAYOUT, Place, everything

from service.catalogue.checking import examine
from service.catalogue.records import ItemKey
from service.catalogue.store_rules import layout_of_ids
from service.semantic_ids import TokenLayout

RACED = int(os.environ.get("RACED_ITEMS", "5000"))
"""Items that two processes register at once; docs/benchmarks.md tells of a run with 100,000."""

CROWDED = TokenLayout(levels=2, codes=64, experts=2, experts_per_item=1, suffixes=16384)

COLLIDER = """
import json, sys
import numpy as np
from service.catalogue.opening import open_store
from service.catalogue.records import NewItem
from service.semantic_ids import TokenLayout

url, name, layout, worker, items, out = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), *sys.argv[4:]
layout, items = TokenLayout(**layout), int(items)
store = open_store(url, name, 1, layout)
# Half of the items are the other process's, too; all of them fall into nine groups.
ids = [f"both-{number}" if number % 2 else f"{worker}-{number}" for number in range(items)]
given = []
print("ready", flush=True)
sys.stdin.readline()
for first in range(0, items, 250):
    batch = [NewItem("films", ids[at], (at % 9, 5), (1,)) for at in range(first, min(first + 250, items))]
    given.append(layout.pack(store.register(batch).values))
np.savez(out, item_id=np.array(ids), packed=np.concatenate(given))
"""


def test_processes_that_collide_lose_nothing_and_name_nothing_twice(place: Place, tmp_path: Path) -> None:
    store = place.open(CROWDED)
    half = RACED // 2
    arguments = [sys.executable, "-c", COLLIDER, place.url, place.name, json.dumps(layout_of_ids(CROWDED))]
    files = [tmp_path / f"{worker}.npz" for worker in range(2)]
    workers = [
        subprocess.Popen(
            [*arguments, str(worker), str(half), str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for worker, file in enumerate(files)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0

    told: dict[str, int] = {}
    for file in files:
        with np.load(file) as given:
            for item_id, packed in zip(given["item_id"].tolist(), given["packed"].tolist(), strict=True):
                assert told.setdefault(item_id, packed) == packed, "two processes were told two IDs of one item"
    stored = {key.item_id: item.packed for key, item in everything(store).items()}
    assert stored == told, "an acknowledged item was lost, or is stored under another ID"
    assert len(stored) == half + half // 2 + half % 2
    assert len(set(stored.values())) == len(stored), "an ID was given twice"
    values = CROWDED.unpack(np.array(list(stored.values()), dtype=np.uint64))
    for code in range(9):
        suffixes = np.sort(values[values[:, 0] == code, -1])
        assert suffixes.tolist() == list(range(len(suffixes))), "an ID was lost"
    assert examine(store).findings == ()


WRITER = """
import json, sys
from service.catalogue.opening import open_store, stored_generations
from service.catalogue.records import NewItem
from service.semantic_ids import TokenLayout

url, name, layout = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
store = open_store(url, name, 1, TokenLayout(**layout))
for number in range(10_000):
    values = store.register([NewItem("films", f"{number}-{part}", (1, number % 7), (3,)) for part in "ab"]).values
    print(json.dumps([number, values.tolist()]), flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(place: Place) -> None:
    """The writer is killed right after an acknowledgement, and so is the server, where there is one."""
    place.open().close()
    arguments = [sys.executable, "-c", WRITER, place.url, place.name, json.dumps(layout_of_ids(LAYOUT))]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline() for _ in range(40)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += process.stdout.readlines()
    process.wait()
    if place.server is not None:
        place.server.kill()
        place.server.start()
    stored = everything(place.open())
    for line in acknowledged:
        if not line.endswith("\n"):
            continue
        number, values = json.loads(line)
        for part, row in zip("ab", values, strict=True):
            packed = stored[ItemKey("films", f"{number}-{part}")].packed
            assert LAYOUT.unpack(np.array([packed], dtype=np.uint64))[0].tolist() == row
    whole = {key.item_id.split("-")[0] for key in stored}
    assert len(stored) == 2 * len(whole), "a batch was stored in part"
