"""The engine `ray`: one task of a Ray cluster reads the file, and as many actors as the cores allow encode its batches.

Results are delivered in file order, so the single writer stores the same as with the engine `local`, and can resume a
run of either. Ray restarts a killed reader or actor and repeats undelivered work; reading and encoding have no side
effects, so the batch is the same. The order of delivered batches is checked nevertheless.

Errors of the service are passed as values, in order among the batches. Independent of stores.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pandas as pd
import ray
import ray.data
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask
from ray.exceptions import RayError

from service.backfill.batches import Batch, BatchEncoder, EncodedBatch, Encoding, read_batches
from service.backfill.job import BackfillJob
from service.bundle.files import Bundle
from service.engine.engine import ItemParts
from service.engine.sessions import Runtime
from service.errors import BundleError, ClusterFailed, UnitokError

COLUMN = "batch"
"""The only column of Ray's rows: a batch, raw or encoded, or the error that ends the file."""

USAGE_REPORTS = "RAY_USAGE_STATS_ENABLED"

QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
STARTS = 3
"""Attempts to start a cluster on this machine."""


@contextmanager
def ray_cluster(address: str | None, cores: int | None = None) -> Iterator[None]:
    """Join a Ray cluster while the block runs.

    Parameters
    ----------
    address : `HOST:PORT` of a running cluster that includes this machine; None starts a local one, without dashboard
        and usage reports, and stops it afterwards
    cores : cores of a cluster started here; None takes all of this machine

    Raises
    ------
    ClusterFailed : it does not answer, or does not start
    """
    # Ray reads this only from the environment, and passes it on to its child processes.
    os.environ[USAGE_REPORTS] = "0"
    _join(address, cores)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str | None, cores: int | None) -> None:
    # Ray's child processes must answer within 15 seconds; on a busy machine this may fail, so try again.
    for left in reversed(range(STARTS if address is None else 1)):
        try:
            if address is None:
                ray.init("local", num_cpus=cores, include_dashboard=False, **QUIET)
            else:
                ray.init(address, **QUIET)
            return
        except Exception as error:
            # Any class: Ray raises ConnectionError, RuntimeError, ValueError and plain Exception here.
            ray.shutdown()
            if not left:
                where = "on this machine" if address is None else f"at {address}"
                raise ClusterFailed(f"no Ray cluster {where}: {error}") from error


def encode_on_ray(job: BackfillJob, bundle: Bundle, runtime: Runtime, workers: int | None = None) -> Encoding:
    """The engine `ray`, within `ray_cluster`.

    Parameters
    ----------
    job : its file is read on this machine
    bundle : must be in the same folder on every machine of the cluster
    runtime : settings of each worker; one core if `threads` is 0
    workers : number of encoding actors; None takes as many as the cluster's cores allow
    """
    runtime = replace(runtime, threads=runtime.threads or 1)
    if workers is None:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // runtime.threads)

    def batches(skip: int) -> Generator[EncodedBatch, None, None]:
        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        # Ray merges small blocks up to this size. With 1, a block is one batch; otherwise few actors would get work.
        context.target_max_block_size = 1
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        file = _File(replace(job, path=job.path.resolve()), bundle.manifest.item_tokenizer.embedding_width, skip)
        parts = (job.domain, Bundle(bundle.folder.resolve(), bundle.manifest), runtime)
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        with ray.data.DataContext.current(context):
            # The reader reserves no core: it mostly waits for the actors, which may use all cores.
            read = ray.data.read_datasource(file, override_num_blocks=1, num_cpus=0, label_selector=here)
            encoded = read.map_batches(
                _Encoder,
                batch_size=1,
                batch_format="pandas",
                compute=ray.data.ActorPoolStrategy(size=workers),
                fn_constructor_args=parts,
                num_cpus=runtime.threads,
                num_gpus=1 if runtime.provider == "cuda" else None,
            )
        with closing(_delivered(encoded)) as found:
            yield from in_order(found, skip)

    return batches


def in_order(found: Iterator[EncodedBatch | UnitokError], skip: int) -> Generator[EncodedBatch, None, None]:
    """Check that batches arrive in order from record `skip` on, and yield them; raises the first error among them.

    Raises
    ------
    ClusterFailed : a batch is repeated or missing
    """
    last = False
    for encoded in found:
        if isinstance(encoded, UnitokError):
            raise encoded
        batch = encoded.batch
        if last or batch.first != skip:
            raise ClusterFailed(f"records from {skip} on were due, but Ray delivered those from {batch.first} on")
        skip += batch.records
        last = batch.last
        yield encoded
    if not last:
        raise ClusterFailed(f"Ray delivered {skip} records, but not the end of the file")


def _delivered(encoded: ray.data.Dataset) -> Generator[EncodedBatch | UnitokError, None, None]:
    try:
        for row in encoded.iter_rows():
            yield row[COLUMN]
    except RayError as error:
        raise ClusterFailed(f"the Ray cluster gave up: {error}; start again, it goes on from there") from error


class _File(ray.data.Datasource):  # type: ignore[misc]
    """Ray data source: one task reads the file, one batch per block."""

    def __init__(self, job: BackfillJob, width: int, skip: int) -> None:
        super().__init__()
        self._job = job
        self._width = width
        self._skip = skip

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before the file is read."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """Always one task: text files cannot be read from the middle."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._blocks, metadata)]

    def _blocks(self) -> Iterator[pd.DataFrame]:
        try:
            for batch in read_batches(self._job, self._width, self._skip):
                yield _block(batch)
        except UnitokError as error:
            yield _block(error)


class _Encoder:
    """An encoding actor, which opens the bundle once."""

    def __init__(self, domain: str, bundle: Bundle, runtime: Runtime) -> None:
        self._domain = domain
        self._bundle = bundle
        self._runtime = runtime
        self._encoder: BatchEncoder | None = None

    def __call__(self, block: pd.DataFrame) -> pd.DataFrame:
        """Encode a batch; pass an error through."""
        (found,) = block[COLUMN]
        if not isinstance(found, Batch):
            return block
        try:
            # Not in the constructor: Ray would wrap its errors, and raise them before those of earlier rows.
            self._encoder = self._encoder or self._opened()
            return _block(self._encoder.encode(found))
        except UnitokError as error:
            return _block(error)

    def _opened(self) -> BatchEncoder:
        bundle = Bundle.open(self._bundle.folder)
        if bundle.manifest != self._bundle.manifest:
            raise BundleError(f"{bundle.folder}: is another bundle on {socket.gethostname()} than where it was started")
        parts = ItemParts.open(bundle, self._runtime)
        return BatchEncoder(self._domain, parts.text_encoder, parts.item_tokenizer)


def _block(value: Batch | EncodedBatch | UnitokError) -> pd.DataFrame:
    return pd.DataFrame({COLUMN: pd.Series([value], dtype=object)})
