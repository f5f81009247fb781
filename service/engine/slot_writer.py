"""Writes single numbers in place into arrays on a device.

ONNX Runtime's Python API has no call for that, but a graph with the same array as input and output does it: ScatterND
copies its input only if the two differ. The graph is small, so its protobuf is assembled here byte by byte: the service
has ONNX Runtime but not `onnx`. Independent of what the arrays mean.

Symbols: n length of an array, k numbers written.
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
    runtime : gives the device
    groups : name of a list of positions -> the arrays that are written at these positions
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
        """Write the values; complete when the call returns.

        Parameters
        ----------
        arrays : int32 [n], by name
        places : int64 [k] positions, by name of the group
        values : int32 [k], by name of the array; values for the same position must be equal

        Raises
        ------
        ModelError : the write failed; some positions may have been written
        """
        feeds: dict[str, Feed] = dict(arrays)
        for group, names in self._groups.items():
            feeds[group] = places[group].reshape(-1, 1)
            feeds |= {f"{name}_values": values[name] for name in names}
        self._session.run_into(feeds, {f"{name}_after": array for name, array in arrays.items()})


def _graph(groups: Mapping[str, tuple[str, ...]], inputs: list[Tensor], outputs: list[Tensor]) -> bytes:
    """A ModelProto with one ScatterND per array; the numbers are field numbers of onnx.proto."""
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
    """A protobuf field: a varint, or bytes prefixed with their length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    """A protobuf varint: 7 bits per byte, lowest first; the top bit is set if more bytes follow."""
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
