"""ONNX sessions: providers, signatures, and what a wrong file is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from service.engine.device_lock import DEVICE_LOCKS, DeviceLock
from service.engine.sessions import Runtime, open_session
from service.engine.signature import Tensor
from service.errors import BundleError, ConfigError, ModelError, ProviderUnavailable

INPUTS = (Tensor("x", "float32", ("B", "D")),)
OUTPUTS = (Tensor("y", "float32", ("B", "D")),)
without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has the CUDA provider"
)


def write_graph(path: Path, dtype: int = TensorProto.FLOAT, shape: tuple[int | str, ...] = ("B", 4)) -> Path:
    """A graph y = x + x with the given input type and shape."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_runs_by_name_and_knows_its_sizes(tmp_path: Path) -> None:
    session = open_session(write_graph(tmp_path / "m.onnx"), Runtime(threads=1), INPUTS, OUTPUTS)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)
    assert session.size("D") == 4
    with pytest.raises(BundleError, match=r"m\.onnx: dimension B is left open"):
        session.size("B")


def test_threads_that_spin_compute_the_same(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx")
    x = np.arange(400_000, dtype=np.float32).reshape(-1, 4)
    for spin_microseconds in (0, 100):
        session = open_session(path, Runtime(threads=2, spin_microseconds=spin_microseconds), INPUTS, OUTPUTS)
        np.testing.assert_array_equal(session.run({"x": x})["y"], 2 * x)


@without_cuda
def test_a_missing_provider_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "m.onnx")
    with pytest.raises(ProviderUnavailable, match=r"'cuda' is not in this installation.*available: \['cpu'\]"):
        open_session(path, Runtime("cuda"), INPUTS, OUTPUTS)


@without_cuda
def test_a_provider_that_is_there_but_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ONNX Runtime itself falls back to the CPU here and only logs it.
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    path = write_graph(tmp_path / "m.onnx")
    with pytest.raises(ProviderUnavailable, match="does not start"), pytest.warns(UserWarning, match="CUDA"):
        open_session(path, Runtime("cuda"), INPUTS, OUTPUTS)


@pytest.mark.parametrize(
    ("file", "expected", "message"),
    [
        (
            (TensorProto.DOUBLE, ("B", 4)),
            (INPUTS, OUTPUTS),
            "input 'x' is float64, but must be float32",
        ),
        (
            (TensorProto.FLOAT, ("B", 4, 1)),
            (INPUTS, OUTPUTS),
            r"input 'x' has shape \['B', 4, 1\], but must have 2",
        ),
        (
            (TensorProto.FLOAT, ("B", 4)),
            ((*INPUTS, Tensor("z", "float32", ())), OUTPUTS),
            r"its inputs are \['x'\], but must be \['x', 'z'\]",
        ),
        (
            (TensorProto.FLOAT, ("B", 4)),
            (INPUTS, ()),
            r"its outputs are \['y'\], but must be \[\]",
        ),
        (
            (TensorProto.FLOAT, ("B", 4)),
            (INPUTS, (Tensor("y", "float32", ("B", 5)),)),
            r"output 'y' has size 4 in dimension 1 \(5\), but must have 5",
        ),
        (
            (TensorProto.FLOAT, (3, 4)),
            ((Tensor("x", "float32", ("D", "D")),), OUTPUTS),
            r"input 'x' has size 4 in dimension 1 \(D\), but must have 3",
        ),
    ],
)
def test_another_signature_is_refused_by_name(
    tmp_path: Path,
    file: tuple[int, tuple[int | str, ...]],
    expected: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    message: str,
) -> None:
    path = write_graph(tmp_path / "m.onnx", *file)
    with pytest.raises(BundleError, match=message) as error:
        open_session(path, Runtime(threads=1), *expected)
    assert str(path) in str(error.value)


def test_a_missing_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"absent\.onnx: no such file"):
        open_session(tmp_path / "absent.onnx", Runtime(), INPUTS, OUTPUTS)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(BundleError, match=r"broken\.onnx: ONNX Runtime cannot open it"):
        open_session(broken, Runtime(), INPUTS, OUTPUTS)


def test_a_failing_run_says_which_shapes_it_was_given(tmp_path: Path) -> None:
    session = open_session(write_graph(tmp_path / "m.onnx"), Runtime(threads=1), INPUTS, OUTPUTS)
    with pytest.raises(ModelError, match=r"m\.onnx: failed on x \[2, 5\]"):
        session.run({"x": np.zeros((2, 5), dtype=np.float32)})


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="threads is -1"):
        Runtime(threads=-1)
    with pytest.raises(ConfigError, match="spin_microseconds is -1"):
        Runtime(spin_microseconds=-1)


def test_what_a_run_reads_is_sent_within_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device, sent, binds = DeviceLock(captures=True), list[int](), onnxruntime.IOBinding.bind_cpu_input
    monkeypatch.setitem(DEVICE_LOCKS, "cpu", device)

    def noted(*arguments: Any) -> None:
        sent.append(device._together)
        binds(*arguments)

    monkeypatch.setattr(onnxruntime.IOBinding, "bind_cpu_input", noted)
    session = open_session(write_graph(tmp_path / "m.onnx"), Runtime(threads=1), INPUTS, OUTPUTS)
    x = np.ones((2, 4), np.float32)
    y = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros_like(x))
    session.run_into({"x": x}, {"y": y})
    np.testing.assert_array_equal(y.numpy(), 2 * x)
    assert sent == [1]
