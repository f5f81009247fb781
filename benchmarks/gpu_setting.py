"""What all parts of the benchmarks on a GPU share. Knows nothing of what they measure."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from transformers import T5ForConditionalGeneration

from benchmarks.recommenders import Histories
from benchmarks.registry import given
from benchmarks.rows import Row
from service.engine.recommender import Recommender
from service.engine.resident import ResidentIndexes
from service.engine.sessions import Provider, Runtime
from service.index.trie import CodeTrie

WARM = 3


@dataclass(frozen=True)
class Limits:
    """A measurement ends after so many repeats, or seconds if that comes first, but not before the fifth."""

    repeats: int
    seconds: float

    def milliseconds(self, call: Callable[[], object], warm: int = WARM) -> NDArray[np.float64]:
        """What each call took."""
        for _ in range(warm):
            call()
        taken: list[float] = []
        until = time.perf_counter() + self.seconds
        while len(taken) < self.repeats and (len(taken) < 5 or time.perf_counter() < until):
            started = time.perf_counter()
            call()
            taken.append(1e3 * (time.perf_counter() - started))
        return np.asarray(taken)

    def median(self, call: Callable[[], object], warm: int = WARM) -> float:
        """Median milliseconds of a call."""
        return float(np.median(self.milliseconds(call, warm)))


@dataclass(frozen=True)
class Setting:
    """Where it runs and on what.

    Attributes
    ----------
    beams, batches : W, and numbers of requests searched together
    asked : requests, by their number
    indexes : by number of items, the smallest first
    resident : keeps them on the device
    twin_index, twin_rows : what the peer searches, and how many requests it takes at once
    folder : for graphs
    """

    runtime: Runtime
    beams: int
    batches: Sequence[int]
    asked: dict[int, Histories]
    indexes: dict[int, CodeTrie]
    resident: ResidentIndexes
    twin_index: CodeTrie
    twin_rows: int
    limits: Limits
    folder: Path

    def name(self, count: int, batch: int) -> str:
        """Of a measurement."""
        return f"{self.runtime.provider}, {count:,} items, {self.beams} beams, batch {batch}"


@dataclass(frozen=True)
class Network:
    """A network, its graph in a session, and what it reads.

    Attributes
    ----------
    recommender : searches with open sizes
    captured : the same with sessions of fixed sizes, as it is served on a GPU
    """

    reads: str
    model: T5ForConditionalGeneration
    recommender: Recommender
    captured: Recommender


def guarded(part: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Rows up to where a part fails, which says so and takes none of the others with it."""
    try:
        yield from rows
    except Exception:
        say(part=part, failed=traceback.format_exc())


def has_provider(provider: Provider, benchmark: str) -> bool:
    """Whether ONNX Runtime has a provider; says so where a benchmark is skipped because it has not."""
    has = provider != "cuda" or "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not has:
        print(f"{benchmark}: skipped, since this ONNX Runtime has no CUDA provider", file=sys.stderr, flush=True)
    return has


def say_rows(run: Callable[..., Iterator[Row]]) -> None:
    """Run a benchmark with the arguments of the command line, and print its rows as lines of JSON, each at once."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    say(onnxruntime=onnxruntime.__version__, torch=torch.__version__, numpy=np.__version__, gpu=gpu)
    begun = time.perf_counter()
    for each in run(**given(sys.argv[1:])):
        say(**asdict(each), ratio=each.ratio, met=each.met, since=round(time.perf_counter() - begun, 1))


def say(**fields: Any) -> None:
    """A line of JSON, at once."""
    print(json.dumps(fields), flush=True)
