"""Device copies of constraint indexes: sent once, then patched in place.

A search names a state of the index, and the copy is first brought up to it: slots that changes wrote since then are
written to the same positions of the copy. This does not disturb concurrent searches: the index never writes to a slot
that a referenced state can see, and a search keeps a reference to its state until it ends. So a copy serves the newest
requested state and every older state that is still referenced. Independent of the graphs and of what changes mean.

Symbols: n capacity of an array, k slots written.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.sessions import Feed, Runtime
from service.engine.slot_writer import SlotWriter
from service.index.journal import Journal, Written
from service.index.trie import TrieArrays

COLUMNS = {"nodes": ("node_start", "node_count"), "edges": ("edge_token", "edge_child")}
"""The arrays that graphs read, grouped by what they are indexed with."""

ROOM = 1.25
"""Capacity of a copy's arrays relative to their contents; when it is used up, the index is sent again."""
LEAST_ROOM = 1024
PATCHED_SHARE = 0.25
"""Share of changed slots above which sending the whole index is faster than patching."""


def sent_along(index: TrieArrays) -> dict[str, Feed]:
    """The host's arrays, to be read in place or sent with a call: int32 [nodes] and [edges]."""
    return {name: _gatherable(array) for name, array in _arrays(index).items()}


@dataclass(frozen=True, slots=True, eq=False)
class _Shown:
    """Contents of a copy: at least the state of this version; int32 [n] arrays by name."""

    version: int
    arrays: Mapping[str, onnxruntime.OrtValue]


class ResidentIndexes:
    """Copies of the indexes that are searched on one device; every method may be called from any thread.

    An index used for the first time is sent with the call, since it may never be used again: each list of allowed items
    has its own index. From the second use on, a copy stays on the device for as long as the index exists.

    Parameters
    ----------
    runtime : gives the device
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._writer = SlotWriter(runtime, COLUMNS)
        self._copies: weakref.WeakKeyDictionary[Journal, _Copy] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def feeds(self, index: TrieArrays) -> Mapping[str, Feed]:
        """The arrays of a state, as inputs of a graph; the caller must keep `index` until the graph has run.

        Raises
        ------
        ModelError : the device reports a failure
        """
        journal = index.journal
        if journal is None or not len(index.node_start):
            return sent_along(index)
        with self._lock:
            copy = self._copies.get(journal)
            if copy is None:
                copy = self._copies[journal] = _Copy(self._runtime, self._writer)
                journal.read_by(copy)
                return sent_along(index)
        return copy.of(index, journal)


class _Copy:
    """The device copy of one index."""

    def __init__(self, runtime: Runtime, writer: SlotWriter) -> None:
        self._runtime = runtime
        self._writer = writer
        self._lock = threading.Lock()
        self._shown: _Shown | None = None

    def of(self, index: TrieArrays, journal: Journal) -> Mapping[str, onnxruntime.OrtValue]:
        """Arrays that hold the state; a search of an older state does not wait for an update to a newer one."""
        shown = self._shown
        if shown is None or shown.version < index.version:
            with self._lock:
                shown = self._shown
                if shown is None or shown.version < index.version:
                    shown = self._shown = self._brought_up(shown, index, journal)
        return shown.arrays

    def _brought_up(self, shown: _Shown | None, index: TrieArrays, journal: Journal) -> _Shown:
        written = None if shown is None else journal.between(shown.version, index.version)
        if shown is None or written is None or not _fits(index, written, shown):
            return _Shown(index.version, {name: self._sent(array) for name, array in _arrays(index).items()})
        # If a group has no changed slots, slot 0 is written with the value it has in the index.
        nothing = np.zeros(1, dtype=np.int64)
        places = {"nodes": written.nodes, "edges": written.edges()}
        places = {group: slots if len(slots) else nothing for group, slots in places.items()}
        arrays = _arrays(index)
        values = {name: arrays[name][places[group]] for group, names in COLUMNS.items() for name in names}
        self._writer.write(shown.arrays, places, values)
        return replace(shown, version=index.version)

    def _sent(self, array: NDArray[np.int32]) -> onnxruntime.OrtValue:
        """A copy on the device with spare capacity."""
        padded = np.zeros(LEAST_ROOM + int(ROOM * len(array)), dtype=np.int32)
        padded[: len(array)] = array
        with self._runtime.device_lock.together():
            return onnxruntime.OrtValue.ortvalue_from_numpy(padded, self._runtime.provider)


def _fits(index: TrieArrays, written: Written, shown: _Shown) -> bool:
    """Whether the copy has room for a state, and patching is faster than sending it again."""
    arrays = _arrays(index)
    room = all(len(array) <= shown.arrays[name].shape()[0] for name, array in arrays.items())
    return room and written.slots() <= LEAST_ROOM + PATCHED_SHARE * (len(index.node_start) + len(index.edge_token))


def _arrays(index: TrieArrays) -> dict[str, NDArray[np.int32]]:
    return {
        "node_start": index.node_start,
        "node_count": index.node_count,
        "edge_token": index.edge_token,
        "edge_child": index.edge_child,
    }


def _gatherable(array: NDArray[np.int32]) -> NDArray[np.int32]:
    """The array, or one unreachable zero if it is empty: a graph cannot gather from an empty array."""
    return array if len(array) else np.zeros(1, dtype=np.int32)
