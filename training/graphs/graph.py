"""Writing an ONNX graph as one writes NumPy: values with operators, shapes left open.

The recommender's search is some thousand small operations with nine open sizes. Tracing that symbolically takes the
exporter of PyTorch minutes and yields twice the nodes; written down directly it takes a fraction of a second, and what
runs is what is read here. Knows nothing of any network.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 23
IR_VERSION = 11
LARGE_BYTES = 1 << 20
"""Tensors above are not given to the checks of a graph."""

HALF_LIMIT = 2.0**14
"""Real numbers beyond, as masks are, become this where they are stored as float16, so that two still have a sum."""

_ELEMENT = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
}


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """A tensor of the graph; operators add nodes.

    A plain float operand becomes a constant of the graph's real numbers and an int an int64 one; other types need a
    NumPy scalar or array.
    """

    graph: Graph
    name: str

    def __add__(self, other: Any) -> Value:
        return self.graph.op("Add", self, other)

    def __sub__(self, other: Any) -> Value:
        return self.graph.op("Sub", self, other)

    def __rsub__(self, other: Any) -> Value:
        return self.graph.op("Sub", other, self)

    def __mul__(self, other: Any) -> Value:
        return self.graph.op("Mul", self, other)

    def __truediv__(self, other: Any) -> Value:
        return self.graph.op("Div", self, other)

    def __floordiv__(self, other: Any) -> Value:
        """Of integers that are not negative: ONNX's Div of integers cuts off."""
        return self.graph.op("Div", self, other)

    def __matmul__(self, other: Any) -> Value:
        return self.graph.op("MatMul", self, other)

    def __lt__(self, other: Any) -> Value:
        return self.graph.op("Less", self, other)

    def __gt__(self, other: Any) -> Value:
        return self.graph.op("Greater", self, other)

    def __ge__(self, other: Any) -> Value:
        return self.graph.op("GreaterOrEqual", self, other)

    def __and__(self, other: Any) -> Value:
        return self.graph.op("And", self, other)

    def differs(self, other: Any) -> Value:
        """Where two integers differ.

        In place of ONNX's Equal and ReduceMax, as they are since opsets 19 and 20, which ONNX Runtime has for the CPU
        alone: on a GPU the search would stop for them at every level, to send a few numbers to the host and back.
        """
        return self.graph.op("Sub", self, other).cast("bool")

    def cast(self, dtype: str) -> Value:
        """The same numbers in another element type."""
        return self.graph.op("Cast", self, to=_ELEMENT[dtype])

    def size(self, axis: int) -> Value:
        """int64 [1], the length along one axis."""
        return self.graph.op("Shape", self, start=axis, end=axis + 1)

    def reshape(self, *shape: int | Value) -> Value:
        """Sizes are numbers, `size(...)` values, 0 (keep the input's) and at most one -1 (the rest)."""
        return self.graph.op("Reshape", self, self.graph.shape(*shape))

    def transpose(self, *order: int) -> Value:
        """Axes in another order."""
        return self.graph.op("Transpose", self, perm=list(order))

    def unsqueeze(self, *axes: int) -> Value:
        """New axes of length 1, at these places of the result."""
        return self.graph.op("Unsqueeze", self, np.asarray(axes, dtype=np.int64))

    def take(self, indices: Value, axis: int = 0) -> Value:
        """Slices along an axis, as `numpy.take`."""
        return self.graph.op("Gather", self, indices, axis=axis)

    def take_along(self, indices: Value, axis: int) -> Value:
        """One element an index, as `numpy.take_along_axis`."""
        return self.graph.op("GatherElements", self, indices, axis=axis)


class Graph:
    """A graph under construction.

    Attributes
    ----------
    real : element type of the real numbers that are added here
    """

    def __init__(self, name: str) -> None:
        self.real = "float32"
        self._name = name
        # Nodes of the graph, and then of the branches within it that are being written, the innermost last.
        self._scopes: list[list[onnx.NodeProto]] = [[]]
        self._numbers = itertools.count()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def in_half(self) -> Graph:
        """The same graph, which adds real numbers in half precision: float32 constants are stored as float16."""
        half = copy.copy(self)
        half.real = "float16"
        return half

    def adopt(self, value: Value) -> Value:
        """Real numbers as this graph has them, cast where they are of the same graph in another precision."""
        return value if value.graph.real == self.real else Value(self, value.cast(self.real).name)

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> Value:
        """Declare an input; a string in its shape is an open size."""
        self._inputs.append(helper.make_tensor_value_info(name, _ELEMENT[dtype], list(shape)))
        return Value(self, name)

    def output(self, value: Value, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare a value to be an output under a name of its own."""
        self._scopes[-1].append(helper.make_node("Identity", [value.name], [name], name=f"output_{name}"))
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENT[dtype], list(shape)))

    def constant(self, array: Any, name: str | None = None) -> Value:
        """A tensor stored in the graph; equal ones are stored once.

        Parameters
        ----------
        array : a NumPy array, or a float (stored as a real number) or an int (as int64)
        name : what to call it in the file, for a reader's sake
        """
        if isinstance(array, float):
            array = np.float32(array)
        value = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        if value.dtype == np.float32 and self.real == "float16":
            value = np.clip(value, -HALF_LIMIT, HALF_LIMIT).astype(np.float16)
        # By a digest: tables of a recommender for many domains take hundreds of megabytes.
        key = (value.dtype.name, value.shape, hashlib.sha256(value.data).digest())
        if key not in self._constants:
            label = name or f"constant_{len(self._constants)}"
            self._arrays[label] = value
            self._constants[key] = label
        return Value(self, self._constants[key])

    def shape(self, *sizes: int | Value) -> Value:
        """int64 [n] of numbers and `size(...)` values."""
        if all(isinstance(size, int) for size in sizes):
            return self.constant(np.asarray(sizes, dtype=np.int64))
        parts = [self.constant(np.asarray([size], dtype=np.int64)) if isinstance(size, int) else size for size in sizes]
        return self.concat(parts, axis=0)

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Values end to end along an axis."""
        return self.op("Concat", *values, axis=axis)

    def where(self, condition: Value, yes: Any, no: Any) -> Value:
        """`yes` where the condition holds, else `no`."""
        return self.op("Where", condition, yes, no)

    def row_of_each(self, rows: Value, places: Value) -> Value:
        """One row of each request: [B, n, m] and int64 [B, 1] -> [B, 1, m].

        Used instead of ONNX's GatherND, which copies sizes to the GPU at every run and so cannot be replayed.
        """
        return rows.take_along(self.op("Expand", places.unsqueeze(2), self.shape(1, 1, rows.size(2))), axis=1)

    def top_k(self, values: Value, count: Value) -> tuple[Value, Value]:
        """The largest `count` (int64 [1]) along the last axis, falling, and their int64 places."""
        return self._add("TopK", (values, count), 2, {"axis": -1})  # type: ignore[return-value]

    def attention(self, q: Value, k: Value, v: Value, bias: Value, heads: int) -> Value:
        """Attention without scaling of its scores, as one operator that also splits and joins the heads.

        Parameters
        ----------
        q, k, v : float32 [B, m, H * d], [B, n, H * d] and [B, n, H * d]
        bias : float32 [1 or B, 1 or H, m, n], added to the scores

        Returns
        -------
        float32 [B, m, H * d]
        """
        return self.op("Attention", q, k, v, bias, q_num_heads=heads, kv_num_heads=heads, scale=1.0)

    def cached_attention(  # noqa: PLR0917  those of `attention`, and the cache
        self, q: Value, k: Value, v: Value, bias: Value, past: tuple[Value, Value], heads: int
    ) -> tuple[Value, tuple[Value, Value]]:
        """The same over earlier positions too: their keys and values float32 [B, H, t, d] come before k and v.

        Returns
        -------
        float32 [B, m, H * d], and the keys and values [B, H, t + n, d] of all positions
        """
        attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        attended, keys, values = self._add("Attention", (q, k, v, bias, *past), 3, attributes)
        return attended, (keys, values)

    def either(
        self, condition: Value, yes: Callable[[], Sequence[Value]], no: Callable[[], Sequence[Value]], *dtypes: str
    ) -> tuple[Value, ...]:
        """Results of one of two branches, of which only that one is computed.

        Parameters
        ----------
        condition : bool []
        yes, no : add a branch's nodes, which may use every value that there is so far, and return its results
        dtypes : element types of the results
        """
        branches = {"then_branch": self._branch(yes, dtypes), "else_branch": self._branch(no, dtypes)}
        return self._add("If", (condition,), len(dtypes), branches)

    def _branch(self, write: Callable[[], Sequence[Value]], dtypes: Sequence[str]) -> onnx.GraphProto:
        self._scopes.append([])
        results, name = write(), f"branch_{next(self._numbers)}"
        nodes = self._scopes.pop()
        outputs: list[onnx.ValueInfoProto] = []
        for number, (value, dtype) in enumerate(zip(results, dtypes, strict=True)):
            # A result may be a value from outside, which a branch cannot return under its own name.
            nodes.append(helper.make_node("Identity", [value.name], [f"{name}_{number}"]))
            outputs.append(helper.make_tensor_value_info(f"{name}_{number}", _ELEMENT[dtype], None))
        return helper.make_graph(nodes, name, [], outputs)

    def op(self, kind: str, *operands: Any, **attributes: Any) -> Value:
        """Add a node with one output."""
        return self._add(kind, operands, 1, attributes)[0]

    def save(self, path: Path) -> None:
        """Check the graph, infer its types and shapes strictly, and write it.

        Raises
        ------
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError : the graph is not a valid one
        """
        large = {name: array for name, array in self._arrays.items() if array.nbytes > LARGE_BYTES}
        small = [numpy_helper.from_array(array, name) for name, array in self._arrays.items() if name not in large]
        # The checks need only type and shape of large tensors, and each check copies what it is given.
        described = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in large.items()
        ]
        checked = self._model([*self._inputs, *described], small)
        onnx.checker.check_model(checked)
        onnx.shape_inference.infer_shapes(checked, check_type=True, strict_mode=True)
        model = self._model(self._inputs, small)
        for name, array in large.items():
            model.graph.initializer.append(numpy_helper.from_array(array, name))
        onnx.save(model, path)

    def _model(
        self, inputs: Sequence[onnx.ValueInfoProto], initializers: Sequence[onnx.TensorProto]
    ) -> onnx.ModelProto:
        graph = helper.make_graph(self._scopes[0], self._name, list(inputs), self._outputs, list(initializers))
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="unitok"
        )

    def _add(self, kind: str, operands: Sequence[Any], outputs: int, attributes: dict[str, Any]) -> tuple[Value, ...]:
        inputs = [each if isinstance(each, Value) else self.constant(each) for each in operands]
        stem = f"{kind.lower()}_{next(self._numbers)}"
        names = [stem if number == 0 else f"{stem}_{number}" for number in range(outputs)]
        self._scopes[-1].append(helper.make_node(kind, [each.name for each in inputs], names, name=stem, **attributes))
        return tuple(Value(self, name) for name in names)
