"""Backfills on a real Ray cluster of several workers: the result is that of one process, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from backfills import BATCH, BROKEN, DOMAIN, MAPPING, command, content, write_items
from redis_server import RedisServer
from tiny_graphs import write_bundle

from service.backfill.batches import Batch, EncodedBatch, encode_here
from service.backfill.filling import run_backfill
from service.backfill.job import BackfillJob
from service.backfill.ray_data import encode_on_ray, in_order, ray_cluster
from service.backfill.reading import FileFormat
from service.backfill.report import Tally
from service.backfill.rows import Kind, Rejection, read_mapping
from service.bundle.files import Bundle
from service.catalogue.records import StoredItem
from service.catalogue.seeding import open_catalogue
from service.engine.engine import ItemParts
from service.engine.sessions import Runtime
from service.errors import BundleError, ClusterFailed, InvalidInput

ROWS = 800
WORKERS = 3
SECONDS = 300
ONE_THREAD = Runtime(threads=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> BackfillJob:
    path = write_items(tmp_path_factory.mktemp("items") / "items.jsonl", ROWS)
    return BackfillJob(path, FileFormat.JSONL, read_mapping([MAPPING]), frozenset(["item_id"]), DOMAIN, BATCH, True)


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, job: BackfillJob, bundle: Bundle
) -> tuple[Tally, dict[str, StoredItem]]:
    """What the engine `local` makes of the file."""
    store = open_catalogue(f"embedded:{tmp_path_factory.mktemp('straight')}", bundle)
    parts = ItemParts.open(bundle, ONE_THREAD)
    tally = run_backfill(job, store, encode_here(job, parts.text_encoder, parts.item_tokenizer))
    return tally, content(store)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster that this process is part of."""
    with ray_cluster(None, WORKERS):
        yield ray.get_runtime_context().gcs_address


def same(tally: Tally, other: Tally) -> bool:
    return replace(tally, seconds=0) == replace(other, seconds=0)


def workers(role: str) -> list[int]:
    """Processes of our own cluster that do some work: `Read` or `MapWorker`."""
    found, parents = [], {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if (folder / "cmdline").read_text().startswith(f"ray::{role}"):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue

    def ours(process: int) -> bool:
        while process and process != os.getpid():
            process = parents.get(process, 0)
        return process != 0

    return sorted(filter(ours, found))


@pytest.mark.usefixtures("cluster")
def test_a_cluster_stores_what_one_process_stores_whoever_is_killed(
    job: BackfillJob, bundle: Bundle, redis_server: RedisServer, straight: tuple[Tally, dict[str, StoredItem]]
) -> None:
    store = open_catalogue(redis_server.url, bundle)
    start, seen, killed = store.head(), set(), []
    pause, deadline = threading.Event(), time.monotonic() + SECONDS
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_backfill, job, store, encode_on_ray(job, bundle, ONE_THREAD))
        for role, after in (("Read", 0), ("MapWorker", ROWS // 4), ("MapWorker", ROWS // 2)):
            while store.head() - start < after or not workers(role):
                assert time.monotonic() < deadline
                assert not running.done(), f"ended before all were killed: {running.result()}"
                pause.wait(0.01)
            seen |= set(workers("MapWorker"))
            killed.append(workers(role)[len(killed) % len(workers(role))])
            os.kill(killed[-1], signal.SIGKILL)
        tally = running.result()
    assert len(seen) >= WORKERS
    assert same(tally, straight[0])
    assert content(store) == straight[1]
    assert tally.rejected == {"malformed_row": sum(place < ROWS for place in BROKEN)}
    store.close()


@pytest.mark.usefixtures("cluster")
def test_what_is_before_a_bad_row_is_stored(job: BackfillJob, bundle: Bundle, tmp_path: Path) -> None:
    store = open_catalogue(f"embedded:{tmp_path}", bundle)
    strict = replace(job, skip_bad=False)
    with pytest.raises(InvalidInput, match=r"items\.jsonl: row 101, not JSON.*--skip-bad"):
        run_backfill(strict, store, encode_on_ray(strict, bundle, ONE_THREAD, workers=1))
    assert set(content(store)) == {f"i{n}" for n in range(100 // BATCH * BATCH)} | {"own-0", "own-1"}
    store.close()


@pytest.mark.usefixtures("cluster")
def test_workers_refuse_another_bundle_in_the_same_folder(job: BackfillJob, bundle: Bundle, tmp_path: Path) -> None:
    store = open_catalogue(f"embedded:{tmp_path}", bundle)
    other = Bundle(bundle.folder, bundle.manifest.model_copy(update={"description": "made elsewhere"}))
    with pytest.raises(BundleError, match="is another bundle on"):
        run_backfill(job, store, encode_on_ray(job, other, ONE_THREAD, workers=1))
    assert set(content(store)) == {"own-0", "own-1"}
    store.close()


def test_the_command_goes_on_where_a_killed_one_stopped(
    job: BackfillJob, bundle: Bundle, cluster: str, tmp_path: Path, straight: tuple[Tally, dict[str, StoredItem]]
) -> None:
    url = f"embedded:{tmp_path / 'store'}"
    store = open_catalogue(url, bundle)
    start, pause = store.head(), threading.Event()
    options = ["--skip-bad", "--engine", "ray", "--ray-address", cluster, "--workers", "1"]
    killed = command(job.path, bundle, url, *options)
    while store.head() - start < ROWS // 4:
        assert killed.poll() is None, killed.communicate()
        pause.wait(0.01)
    killed.kill()
    killed.communicate()
    done = store.head() - start
    assert done < ROWS - BATCH

    process = command(job.path, bundle, url, *options)
    out, err = process.communicate()
    assert process.returncode == 0, err
    report = json.loads(out)
    assert (report["read"], report["created"] + report["already_there"]) == (ROWS, ROWS - 1)
    assert report["already_there"] <= BATCH
    assert content(store) == straight[1]
    store.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "spark"], "--engine spark: must be one of local, ray"),
        (["--workers", "2"], "--ray-address and --workers are for --engine ray"),
        (["--engine", "ray", "--ray-address", "nowhere"], "no Ray cluster at nowhere"),
    ],
)
def test_wrong_options_are_refused(
    job: BackfillJob, bundle: Bundle, tmp_path: Path, options: list[str], message: str
) -> None:
    process = command(job.path, bundle, f"embedded:{tmp_path}", *options)
    out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert f"unitok: {message}" in err
    assert "Traceback" not in err


def two_records(first: int) -> EncodedBatch:
    return EncodedBatch(Batch(first, [], [Rejection(Kind.NO_TEXT, 1, None, "no text")] * 2, last=False), [])


@pytest.mark.parametrize(
    ("firsts", "message"),
    [
        ([4, 6, 6], "records from 8 on were due, but Ray delivered those from 6 on"),
        ([4, 8], "records from 6 on were due, but Ray delivered those from 8 on"),
        ([6], "records from 4 on were due"),
        ([4, 6], "Ray delivered 8 records, but not the end of the file"),
    ],
)
def test_what_comes_twice_or_not_at_all_is_noticed(firsts: list[int], message: str) -> None:
    with pytest.raises(ClusterFailed, match=message):
        list(in_order(map(two_records, firsts), 4))
