"""One session of fixed sizes: its input and output arrays, which keep their addresses, and its CUDA graphs.

A batch is padded to the fixed sizes, and the results of the padding are ignored. A search is captured once for each
copy of an index. The captured graph is released when that copy is no longer in use. Independent of the set of sizes
and of what is searched for.

Symbols: those of `recommender`.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.sessions import Array, Feed, Runtime, Session
from service.engine.signature import Tensor

INDEXES = 4
"""Most index copies for which one session keeps a captured graph at the same time."""

PADDING: dict[str, int] = {"history": 0, "history_mask": 0, "roots": -1, "blocked": -1}
INDEX = ("node_start", "node_count", "edge_token", "edge_child")


@dataclass(frozen=True, slots=True)
class _Bound:
    """Inputs and outputs bound for one index copy; `graph` is the number of the CUDA graph captured with them."""

    owner: weakref.ref[Any]
    index: tuple[onnxruntime.OrtValue, ...]
    binding: Any
    graph: int

    def is_left(self, owner: object, index: tuple[onnxruntime.OrtValue, ...]) -> bool:
        """Whether this copy is no longer in use: its owner was freed, or now uses `index` instead."""
        mine = self.owner()
        return mine is None or (mine is owner and not _same(self.index, index))


class FixedSearch:
    """One session of fixed sizes; its methods are called by one thread."""

    def __init__(self, session: Session, sizes: Mapping[str, int], outputs: list[Tensor], runtime: Runtime) -> None:
        self._session, self._runtime = session, runtime
        batch, beams = sizes["B"], sizes["W"]
        shapes = {"history": "BS", "history_mask": "BS", "roots": "BR", "blocked": "BX"}
        types = {"history": np.int64, "history_mask": np.int64, "roots": np.int32, "blocked": np.int32}
        self._padding: dict[str, NDArray[Any]] = {
            name: np.full([sizes[symbol] for symbol in shape], PADDING[name], types[name])
            for name, shape in shapes.items()
        }
        # Padding requests read one token, since attention over zero positions is undefined, and have no root (-1).
        self._padding["history_mask"][:, 0] = 1
        slots = {"beam_slots": beams, **{f"child_slots_{name[1:]}": n for name, n in sizes.items() if name[0] == "C"}}
        self._slots = {name: self._there(np.arange(n, dtype=np.int32)) for name, n in slots.items()}
        self._inputs = {name: self._there(array) for name, array in self._padding.items()}
        self._sent = dict(self._padding)
        dimensions = {"B": batch, "W": beams}
        self._results = {
            each.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [dimensions[size] if isinstance(size, str) else size for size in each.shape],
                np.dtype(each.dtype).type,
                runtime.provider,
            )
            for each in outputs
        }
        self._bound: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()
        self._graphs, self._captured = count(1), set[int]()

    def run(
        self, feeds: Mapping[str, Feed], owner: object, index: tuple[onnxruntime.OrtValue, ...]
    ) -> dict[str, Array] | None:
        """Outputs of the real requests, without the padding. None: the search did not run this time."""
        requests = len(feeds["history"])
        for name, padding in self._padding.items():
            padded, given = padding.copy(), feeds[name]
            padded[: len(given), : given.shape[1]] = given
            self._send(name, padded)
        bound = self._bound_to(owner, index)
        if not self._session.run_bound(bound.binding, bound.graph, bound.graph not in self._captured):
            return None
        self._captured.add(bound.graph)
        with self._runtime.device_lock.together():
            return {name: np.array(value.numpy()[:requests]) for name, value in self._results.items()}

    def _send(self, name: str, padded: NDArray[Any]) -> None:
        """Copy an input to the device unless it is unchanged: a copy takes a hundredth of a search's time."""
        if name in self._sent and np.array_equal(padded, self._sent[name]):
            return
        # If the copy fails, the contents are undefined, and later searches use the same array.
        self._sent.pop(name, None)
        with self._runtime.device_lock.together():
            self._inputs[name].update_inplace(padded)
        self._sent[name] = padded

    def _bound_to(self, owner: object, index: tuple[onnxruntime.OrtValue, ...]) -> _Bound:
        """The binding of all inputs and outputs for this copy of an index; made if it is new."""
        places = tuple(array.data_ptr() for array in index)
        found = self._bound.get(places)
        # A new copy may have the address of one that was freed.
        if found is None or not _same(found.index, index):
            inputs = {**self._inputs, **self._slots, **dict(zip(INDEX, index, strict=True))}
            binding = self._session.bound(inputs, self._results)
            found = self._bound[places] = _Bound(weakref.ref(owner), index, binding, next(self._graphs))
            while len(self._bound) > INDEXES:
                self._bound.popitem(last=False)
        self._bound.move_to_end(places)
        return found

    def give_up(self, owner: object, index: tuple[onnxruntime.OrtValue, ...]) -> None:
        """Release the bindings of copies whose owner was freed, and of this owner's copies other than `index`."""
        left = [places for places, bound in self._bound.items() if bound.is_left(owner, index)]
        if left:
            with self._runtime.device_lock.together():
                for places in left:
                    del self._bound[places]

    def _there(self, array: NDArray[Any]) -> onnxruntime.OrtValue:
        """A copy on the device."""
        return onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), self._runtime.provider)


def _same(one: tuple[onnxruntime.OrtValue, ...], other: tuple[onnxruntime.OrtValue, ...]) -> bool:
    return all(mine is theirs for mine, theirs in zip(one, other, strict=True))
