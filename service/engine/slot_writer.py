"""Writes single numbers into arrays that lie on a device, where they lie.

ONNX Runtime's Python has no call for that, but a graph whose input and output are one and the same array does it: its
operator copies only where the two differ. Such a graph is so small that its file is put together here, byte by byte,
since the service has ONNX Runtime and not `onnx`. Knows nothing of what the arrays are.

Symbols: n numbers of an array, k of them written.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.sessions import Feed, Runtime, open_session
from service.engine.signature import Tensor

NAME = Path("slot_writer.onnx")
IR_VERSION, OPSET = 8, 18
INT32, INT64 = 6, 7


class SlotWriter:
    """Writes into int32 arrays of one device.

    Parameters
    ----------
    runtime : which device
    groups : by the name of a list of places, the arrays that are written at these places
    """

    def __init__(self, runtime: Runtime, groups: Mapping[str, tuple[str, ...]]) -> None:
        self._groups = groups
        inputs, outputs = [], []
        for group, arrays in groups.items():
            inputs.append(Tensor(group, "int64", (f"k_{group}", 1)))
            for name in arrays:
                inputs += [
                    Tensor(name, "int32", (f"n_{group}",)),
                    Tensor(f"{name}_values", "int32", (f"k_{group}",)),
                ]
                outputs.append(Tensor(f"{name}_after", "int32", (f"n_{group}",)))
        self._session = open_session(NAME, runtime, inputs, outputs, _graph(groups, inputs, outputs))

    def write(
        self,
        arrays: Mapping[str, onnxruntime.OrtValue],
        places: Mapping[str, NDArray[np.int64]],
        values: Mapping[str, NDArray[np.int32]],
    ) -> None:
        """Write and wait until it is done.

        Parameters
        ----------
        arrays : int32 [n], by name
        places : int64 [k], by the name of the group
        values : int32 [k], by name of the array; where a place is named twice, they must be equal

        Raises
        ------
        ModelError : some places may have been written
        """
        feeds: dict[str, Feed] = dict(arrays)
        for group, names in self._groups.items():
            feeds[group] = places[group].reshape(-1, 1)
            feeds |= {f"{name}_values": values[name] for name in names}
        self._session.run_into(feeds, {f"{name}_after": array for name, array in arrays.items()})


def _graph(groups: Mapping[str, tuple[str, ...]], inputs: list[Tensor], outputs: list[Tensor]) -> bytes:
    """A ModelProto with one ScatterND an array; the numbers are those of the fields in onnx.proto."""
    nodes = b""
    for group, arrays in groups.items():
        for name in arrays:
            operands = b"".join(_field(1, operand.encode()) for operand in (name, group, f"{name}_values"))
            nodes += _field(1, operands + _field(2, f"{name}_after".encode()) + _field(4, b"ScatterND"))
    signature = b"".join(_field(11, _declared(each)) for each in inputs)
    signature += b"".join(_field(12, _declared(each)) for each in outputs)
    graph = nodes + _field(2, b"slot_writer") + signature
    return _field(1, IR_VERSION) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, OPSET))


def _declared(tensor: Tensor) -> bytes:
    """A ValueInfoProto."""
    sizes = (_field(1, _field(1, size) if isinstance(size, int) else _field(2, size.encode())) for size in tensor.shape)
    shape = _field(2, b"".join(sizes))
    dtype = _field(1, INT32 if tensor.dtype == "int32" else INT64)
    return _field(1, tensor.name.encode()) + _field(2, _field(1, dtype + shape))


def _field(number: int, value: int | bytes) -> bytes:
    """A field of protobuf: a number, or bytes behind their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
