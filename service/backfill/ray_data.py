"""The engine `ray`: one task of a Ray cluster reads the file, as many actors as it has cores for encode its batches.

What comes back is handed on in the file's order, so that the one writer stores the same as with the engine `local`, and
goes on where either stopped. Ray starts a reader or an actor that was killed anew and repeats what was not delivered;
reading and encoding have no effects, so that this is the same batch again. What Ray delivers is checked all the same.

Errors of the service travel as values, in their place among the batches. Knows nothing of stores.
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
"""Ray's rows have this one column: a batch before and after it was encoded, or the error that ends the file."""

USAGE_REPORTS = "RAY_USAGE_STATS_ENABLED"

QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
STARTS = 3
"""How often a cluster on this machine is tried to be started."""


@contextmanager
def ray_cluster(address: str | None, cores: int | None = None) -> Iterator[None]:
    """Join a Ray cluster while the block runs.

    Parameters
    ----------
    address : `HOST:PORT` of one that runs, this machine being part of it; None starts one here, without a dashboard
        and without reports to Ray's makers, and stops it afterwards
    cores : of one that is started; None takes all of this machine

    Raises
    ------
    ClusterFailed : it does not answer, or does not start
    """
    # Ray reads this from the environment only, and hands it on to the processes that it starts.
    os.environ[USAGE_REPORTS] = "0"
    _join(address, cores)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str | None, cores: int | None) -> None:
    # Ray gives the processes that it starts 15 seconds to answer, which a busy machine may not: it may the next time.
    for left in reversed(range(STARTS if address is None else 1)):
        try:
            if address is None:
                ray.init("local", num_cpus=cores, include_dashboard=False, **QUIET)
            else:
                ray.init(address, **QUIET)
            return
        except Exception as error:
            # Of every class: Ray raises ConnectionError, RuntimeError, ValueError and plain Exception here.
            ray.shutdown()
            if not left:
                where = "on this machine" if address is None else f"at {address}"
                raise ClusterFailed(f"no Ray cluster {where}: {error}") from error


def encode_on_ray(job: BackfillJob, bundle: Bundle, runtime: Runtime, workers: int | None = None) -> Encoding:
    """The engine `ray`, within `ray_cluster`.

    Parameters
    ----------
    job : its file is read on this machine
    bundle : must lie in the same folder on every machine of the cluster
    runtime : of each worker; it has one core where `threads` is 0
    workers : actors that encode; None takes as many as the cluster has cores for
    """
    runtime = replace(runtime, threads=runtime.threads or 1)
    if workers is None:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // runtime.threads)

    def batches(skip: int) -> Generator[EncodedBatch, None, None]:
        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        # Small blocks are gathered up to this size. One is one batch, however small, or few actors would get any.
        context.target_max_block_size = 1
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        file = _File(replace(job, path=job.path.resolve()), bundle.manifest.item_tokenizer.embedding_width, skip)
        parts = (job.domain, Bundle(bundle.folder.resolve(), bundle.manifest), runtime)
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        with ray.data.DataContext.current(context):
            # The reader takes no core: it mostly waits for actors, of which there may be as many as cores.
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
    """What a cluster delivers, from a record on, as long as it is what was asked for; the first error is raised.

    Raises
    ------
    ClusterFailed : a batch came twice, or not at all
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
    """A file as a source of batches, one a block, which one task reads."""

    def __init__(self, job: BackfillJob, width: int, skip: int) -> None:
        super().__init__()
        self._job = job
        self._width = width
        self._skip = skip

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before it is read."""
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        """One, whatever is asked for: text files cannot be read from the middle."""
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(self._blocks, metadata)]

    def _blocks(self) -> Iterator[pd.DataFrame]:
        try:
            for batch in read_batches(self._job, self._width, self._skip):
                yield _block(batch)
        except UnitokError as error:
            yield _block(error)


class _Encoder:
    """One worker, which opens the bundle once."""

    def __init__(self, domain: str, bundle: Bundle, runtime: Runtime) -> None:
        self._domain = domain
        self._bundle = bundle
        self._runtime = runtime
        self._encoder: BatchEncoder | None = None

    def __call__(self, block: pd.DataFrame) -> pd.DataFrame:
        """A batch, encoded; an error stays what it is."""
        (found,) = block[COLUMN]
        if not isinstance(found, Batch):
            return block
        try:
            # Not in the constructor: its errors would be Ray's, and come before those of rows that come first.
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
