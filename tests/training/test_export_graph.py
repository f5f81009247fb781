"""The graph writer against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from service.engine.sessions import Runtime, open_session
from service.engine.signature import Tensor
from training.graphs.graph import LARGE_BYTES, Graph, Value

X = np.asarray([[4.0, 1.0, 3.0], [2.0, 6.0, 5.0]], dtype=np.float32)
BIAS = np.asarray([[0.5, -1.0], [0.0, 2.0]], dtype=np.float32).reshape(1, 1, 2, 2)
PLACES = np.asarray([[2, 0], [1, 1]], dtype=np.int32)


def attended(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Attention with heads of width 1: [m, H], [n, H], [n, H] and a bias [m, n] -> [m, H]."""
    scores = np.exp(np.einsum("mh,nh->hmn", queries, keys) + bias)
    mixed: np.ndarray = np.einsum("hmn,nh->mh", scores / scores.sum(axis=2, keepdims=True), values)
    return mixed


def cached(g: Graph, x: Value) -> tuple[Value, tuple[Value, Value]]:
    """Both rows of x attend to an earlier position, of which keys and values are all ones, and to both of them."""
    now, one = x.unsqueeze(0), g.constant(np.ones((1, 3, 1, 1), np.float32))
    return g.cached_attention(now, now, now, g.constant(np.pad(BIAS, ((0, 0), (0, 0), (0, 0), (1, 0)))), (one, one), 3)


BEFORE = np.concatenate([np.ones((1, 3), np.float32), X])


def run(build: Callable[[Graph, Value, Value], Value], dtype: str, rank: int, folder: Path) -> np.ndarray:
    """Evaluate what `build` makes of x float32 [2, 3] and i int32 [2, 2]; both have open sizes in the graph."""
    graph = Graph("test")
    x, i = graph.input("x", "float32", ("a", "b")), graph.input("i", "int32", ("a", "c"))
    shape = tuple("defg"[:rank])
    graph.output(build(graph, x, i), "y", dtype, shape)
    graph.save(folder / "graph.onnx")
    inputs = [Tensor("x", "float32", ("a", "b")), Tensor("i", "int32", ("a", "c"))]
    session = open_session(folder / "graph.onnx", Runtime(threads=1), inputs, [Tensor("y", dtype, shape)])
    return session.run({"x": X, "i": PLACES})["y"]


CASES: dict[str, tuple[Callable[[Graph, Value, Value], Value], Any]] = {
    "arithmetic": (lambda g, x, i: (x + 1.0) * 2.0 - x / 4.0, (X + 1) * 2 - X / 4),
    "a number minus a value": (lambda g, x, i: 1.0 - x, 1 - X),
    "integers": (lambda g, x, i: (i * np.int32(5)) // np.int32(2), PLACES * 5 // 2),
    "product": (lambda g, x, i: x @ X.T, X @ X.T),
    "comparisons": (
        lambda g, x, i: ((x > 1.0) & (x < 6.0)).cast("int32") + (x >= 4.0).cast("int32"),
        ((X > 1) & (X < 6)).astype(np.int32) + (X >= 4),
    ),
    "size": (lambda g, x, i: x.size(1), [3]),
    "reshape": (lambda g, x, i: x.reshape(-1, x.size(0)), X.reshape(3, 2)),
    "reshape to numbers": (lambda g, x, i: x.reshape(3, 2), X.reshape(3, 2)),
    "transpose": (lambda g, x, i: x.transpose(1, 0), X.T),
    "unsqueeze": (lambda g, x, i: x.unsqueeze(0, 2), X[None, :, None, :]),
    "take": (lambda g, x, i: x.take(i, axis=1), X[:, PLACES]),
    "take along": (lambda g, x, i: x.take_along(i, axis=1), np.take_along_axis(X, PLACES.astype(np.int64), axis=1)),
    "concat": (lambda g, x, i: g.concat([x, x], axis=1), np.concatenate([X, X], axis=1)),
    "attention": (
        lambda g, x, i: g.attention(x.unsqueeze(0), x.unsqueeze(0), x.unsqueeze(0), g.constant(BIAS), 3),
        attended(X, X, X, BIAS[0, 0])[None],
    ),
    "attention to earlier positions": (
        lambda g, x, i: cached(g, x)[0],
        attended(X, BEFORE, BEFORE, np.pad(BIAS[0, 0], ((0, 0), (1, 0))))[None],
    ),
    "their keys": (lambda g, x, i: cached(g, x)[1][0], BEFORE.T[None, :, :, None]),
    "where": (lambda g, x, i: g.where(x > 3.0, x, float("-inf")), np.where(X > 3, X, -np.inf)),
    "top values": (lambda g, x, i: g.top_k(x, g.shape(2))[0], [[4, 3], [6, 5]]),
    "top places": (lambda g, x, i: g.top_k(x, g.shape(2))[1], [[0, 2], [1, 2]]),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_are_those_of_numpy(name: str, tmp_path: Path) -> None:
    build, expected = CASES[name]
    expected = np.asarray(expected)
    dtype = "float32" if expected.dtype.kind == "f" or name == "top values" else str(expected.dtype)
    np.testing.assert_allclose(run(build, dtype, expected.ndim, tmp_path), expected, rtol=1e-6)


def test_equal_constants_are_stored_once(tmp_path: Path) -> None:
    run(lambda g, x, i: x + 2.0 + 2.0 + np.full((1, 1), 2.0, np.float32), "float32", 2, tmp_path)
    assert len(onnx.load(tmp_path / "graph.onnx").graph.initializer) == 2


def test_a_graph_that_cannot_be_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(onnx.shape_inference.InferenceError):
        run(lambda g, x, i: x + i, "float32", 2, tmp_path)
    assert not (tmp_path / "graph.onnx").exists()


def test_a_large_table_is_written_once_and_checked_by_its_shape(tmp_path: Path) -> None:
    table = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    assert table.nbytes > LARGE_BYTES
    graph = Graph("large")
    x = graph.input("x", "float32", ["B", 512])
    graph.output(x @ graph.constant(table, "table") @ graph.constant(table.T), "y", "float32", ["B", 512])
    graph.save(tmp_path / "large.onnx")
    assert [each.name for each in onnx.load(tmp_path / "large.onnx").graph.input] == ["x"]
    session = open_session(
        tmp_path / "large.onnx",
        Runtime("cpu", 1),
        [Tensor("x", "float32", ("B", 512))],
        [Tensor("y", "float32", ("B", 512))],
    )
    given = np.random.default_rng(1).standard_normal((3, 512)).astype(np.float32)
    np.testing.assert_allclose(session.run({"x": given})["y"], given @ table @ table.T, rtol=1e-4, atol=1e-3)

    graph = Graph("narrow")
    graph.output(graph.input("x", "float32", ["B", 500]) @ graph.constant(table), "y", "float32", ["B", 1024])
    with pytest.raises(onnx.shape_inference.InferenceError):
        graph.save(tmp_path / "narrow.onnx")
    assert not (tmp_path / "narrow.onnx").exists()


def test_a_part_in_half_precision_stores_float16_and_gives_back_float32(tmp_path: Path) -> None:
    """Numbers beyond float16, as masks are, are cut to what can still be added up; whole numbers stay as they are."""
    weights = np.asarray([[1.0001, -1e30], [2.0, 0.0], [3.0, 1e30]], dtype=np.float32)

    def build(graph: Graph, x: Value, i: Value) -> Value:
        half = graph.in_half()
        one, rows = half.constant(np.asarray([0])), graph.constant(np.asarray([0]))
        assert (one.name, one.graph.real, rows.graph.real) == (rows.name, "float16", "float32")
        product = half.adopt(x) @ half.constant(weights, "weights") * 1.0
        assert half.adopt(product) is product
        return graph.adopt(product) + 0.25

    rounded = weights.clip(-(2.0**15), 2.0**15).astype(np.float16).astype(np.float32)
    found = run(build, "float32", 2, tmp_path)
    np.testing.assert_array_equal(found[:, 0], (X @ rounded)[:, 0] + 0.25)
    (stored,) = (each for each in onnx.load(tmp_path / "graph.onnx").graph.initializer if each.name == "weights")
    assert stored.data_type == onnx.TensorProto.FLOAT16
