"""Which operators of a search run on the device, and how often a search stops to copy between device and host.

ONNX Runtime gives an operator to the host where the device's provider has no kernel for it, without a word. What it did
is counted from a profile of one search. Knows nothing of what is measured beside it.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.recommenders import Histories, searching
from benchmarks.rows import Row
from service.engine.recommender import Recommender
from service.engine.sessions import Provider
from service.index.trie import TrieArrays

NAMED = 14
"""Kinds of operators that a row names."""


@dataclass(frozen=True)
class Placement:
    """What one search ran: how many operators of each kind, on the device or on the host, and copies between the two.

    `microseconds` is what the host spent on each kind; where the device works for itself, that is to launch it.
    """

    device: Counter[str]
    host: Counter[str]
    copies: Counter[str]
    microseconds: Counter[str]


def placement(
    recommender: Recommender, provider: Provider, asked: Histories, index: TrieArrays, beams: int
) -> Placement:
    """Of one search, after two that warm up."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3
        name = "CUDAExecutionProvider" if provider == "cuda" else "CPUExecutionProvider"
        session = onnxruntime.InferenceSession(str(recommender._session.path), options, providers=[name])
        opened = replace(recommender, _session=replace(recommender._session, _session=session))
        search = searching(opened, asked, index, beams)
        for _ in range(3):
            search()
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = [event for event in events if event["name"].endswith("_kernel_time") and "provider" in event["args"]]
    runs = runs[len(runs) // 3 * 2 :]
    found = Placement(Counter(), Counter(), Counter(), Counter())
    for event in runs:
        kind, where = event["args"]["op_name"], event["args"]["provider"]
        if kind.startswith("Memcpy"):
            found.copies[kind] += 1
        else:
            (found.host if where == "CPUExecutionProvider" and name != where else found.device)[kind] += 1
        found.microseconds[kind] += event["dur"]
    return found


def placement_rows(found: Placement, name: str) -> Iterator[Row]:
    """What is where, as rows; `name` says of which search."""
    yield Row(f"operators on the device, {name}", found.device.total(), "count", note=_named(found.device))
    yield Row(f"operators on the host, {name}", found.host.total(), "count", note=_named(found.host))
    yield Row(f"copies between host and device, {name}", found.copies.total(), "count", note=_named(found.copies))
    spent = Counter({kind: round(each) for kind, each in found.microseconds.items()})
    yield Row(f"host's time for operators, {name}", found.microseconds.total(), "us", note=_named(spent))


def _named(kinds: Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(NAMED)) or "none"
