"""ONNX Runtime sessions: providers without fallback, thread counts, and a signature check on opening.

Independent of what the graphs compute, of HTTP and of stores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.device_lock import DEVICE_LOCKS, DeviceLock
from service.engine.signature import Tensor, check_signature
from service.errors import BundleError, ConfigError, GraphFailed, ProviderUnavailable

Provider = Literal["cpu", "cuda"]
Array = NDArray[Any]
Feed: TypeAlias = Array | onnxruntime.OrtValue
"""An input: a NumPy array in the host's memory, or an `OrtValue` on any device."""

_PROVIDERS: dict[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY = 3
_NOTHING = 4


@dataclass(frozen=True, slots=True)
class Runtime:
    """How sessions run.

    Attributes
    ----------
    provider : where the graphs run
    threads : number of threads per operator; 0 lets ONNX Runtime use every core
    spin_microseconds : how long a thread busy-waits for the next operator of a running graph before it sleeps; 0: it
        sleeps at once. Between two runs threads always sleep.
    """

    provider: Provider = "cpu"
    threads: int = 0
    spin_microseconds: int = 0

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads}, but must be 0 (every core) or more")
        if self.spin_microseconds < 0:
            raise ConfigError(f"spin_microseconds is {self.spin_microseconds}, but must be 0 (sleep at once) or more")

    @property
    def device_lock(self) -> DeviceLock:
        """The lock of this device; see `DeviceLock`."""
        return DEVICE_LOCKS[self.provider]


@dataclass(frozen=True, slots=True)
class Session:
    """An opened graph whose signature has been checked.

    Attributes
    ----------
    path : the file
    sizes : symbols of the signature that the file fixes, such as the embedding width D
    quiet : whether a failing run only raises its error and logs nothing, for runs that are expected to fail
    """

    path: Path
    sizes: Mapping[str, int]
    outputs: tuple[str, ...]
    _session: Any
    _device_lock: DeviceLock
    quiet: bool = False

    def size(self, symbol: str) -> int:
        """The size that the file gives to a symbol of the signature.

        Raises
        ------
        BundleError : the file leaves that dimension open
        """
        if symbol not in self.sizes:
            raise BundleError(f"{self.path}: dimension {symbol} is left open, but must be a number in the file")
        return self.sizes[symbol]

    def run(self, feeds: Mapping[str, Feed]) -> dict[str, Array]:
        """Run the graph once; inputs and outputs by name. Safe to call from several threads.

        Inputs that are not on the session's device are copied there for the call; outputs are copied to the host.

        Raises
        ------
        GraphFailed : on these inputs
        """
        options = [_silence()] if self.quiet else []
        try:
            with self._device_lock.together():
                values = self._session.run(list(self.outputs), dict(feeds), *options)
        except Exception as error:
            # ONNX Runtime raises a dozen unrelated classes here; each means that the graph could not run.
            raise self._failure(feeds, error) from error
        return dict(zip(self.outputs, values, strict=True))

    def run_into(self, feeds: Mapping[str, Feed], results: Mapping[str, onnxruntime.OrtValue]) -> None:
        """Run the graph once and write each output into the caller's `OrtValue`; complete when the call returns.

        Raises
        ------
        GraphFailed : on these inputs
        """
        try:
            with self._device_lock.together():
                # Binding an input from the host's memory sends it to the device, so it is done under the lock.
                binding = self._session.io_binding()
                for name, value in feeds.items():
                    if isinstance(value, onnxruntime.OrtValue):
                        binding.bind_ortvalue_input(name, value)
                    else:
                        binding.bind_cpu_input(name, value)
                for name, value in results.items():
                    binding.bind_ortvalue_output(name, value)
                self._session.run_with_iobinding(binding)
        except Exception as error:
            raise self._failure(feeds, error) from error

    def bound(self, feeds: Mapping[str, onnxruntime.OrtValue], results: Mapping[str, onnxruntime.OrtValue]) -> Any:
        """Bind all inputs and outputs, for `run_bound`."""
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in results.items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def run_bound(self, binding: Any, graph: int, first: bool) -> bool:
        """Run the graph once; a session opened for capture captures it on the first run and then replays it.

        `graph` is the number of the CUDA graph of this binding. Complete when the call returns.

        Returns
        -------
        False : it did not run, because a capture would have to wait for a session that is being opened on the device
        """
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(graph))
        if not first:
            with self._device_lock.together():
                self._session.run_with_iobinding(binding, options)
            return True
        with self._device_lock.alone() as granted:
            if granted:
                self._session.run_with_iobinding(binding, options)
        return granted

    def _failure(self, feeds: Mapping[str, Feed], error: Exception) -> GraphFailed:
        shapes = ", ".join(f"{name} {_shape(value)}" for name, value in feeds.items())
        return GraphFailed(f"{self.path}: failed on {shapes}: {error}")


def open_session(
    path: Path,
    runtime: Runtime,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    graph: bytes | None = None,
    *,
    fixed: Mapping[str, int] | None = None,
) -> Session:
    """Open a graph on the requested provider and check its signature.

    Parameters
    ----------
    path : the file; if `graph` is given, only a name for messages
    runtime : how it runs
    inputs, outputs : its signature
    graph : the serialised graph, if it is not in a file
    fixed : fixed sizes of symbols, so that shapes are computed in advance; a GPU then captures a run as a CUDA graph
        and replays it, so inputs and outputs must keep their addresses

    Raises
    ------
    ProviderUnavailable : this installation of ONNX Runtime, or this machine, lacks the provider; there is no fallback
    BundleError : the file is missing or unreadable, or a tensor is missing, unexpected, or of another type or shape
    """
    provider = _available(runtime.provider)
    if graph is None and not path.is_file():
        raise BundleError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = runtime.threads
    options.log_severity_level = _ERRORS_ONLY
    # A bundle's graphs share the cores, and a thread pool that spins slows down the others. So a pool spins only while
    # its own graph runs, and at most for `spin_microseconds`.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if runtime.spin_microseconds else "0")
    if runtime.spin_microseconds:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(runtime.spin_microseconds))
        options.add_session_config_entry("session.force_spinning_stop", "1")
    for symbol, size in (fixed or {}).items():
        options.add_free_dimension_override_by_name(symbol, size)
    # By default a GPU rounds factors of matrix products to 10 bits (TF32); lists would differ from the proven ones.
    settings = {"use_tf32": "0"} if runtime.provider == "cuda" else {}
    if settings and fixed:
        settings["enable_cuda_graph"] = "1"
    try:
        with runtime.device_lock.together(long=True):
            session = onnxruntime.InferenceSession(graph or str(path), options, providers=[(provider, settings)])
    except Exception as error:
        raise BundleError(f"{path}: ONNX Runtime cannot open it: {error}") from error
    if provider not in session.get_providers():
        # If the provider's libraries or device are missing, ONNX Runtime only logs it and continues without them.
        raise ProviderUnavailable(
            f"provider {runtime.provider!r} is installed but does not start (missing CUDA libraries or no GPU?); "
            f"ONNX Runtime fell back to {session.get_providers()}"
        )
    sizes: dict[str, int] = {}
    check_signature(path, "input", session.get_inputs(), inputs, sizes)
    check_signature(path, "output", session.get_outputs(), outputs, sizes)
    return Session(path, sizes, tuple(tensor.name for tensor in outputs), session, runtime.device_lock)


def _silence() -> Any:
    """Options of a run that logs nothing."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _NOTHING
    return options


def _shape(value: Feed) -> list[int]:
    return list(value.shape() if isinstance(value, onnxruntime.OrtValue) else np.shape(value))


def _available(provider: str) -> str:
    """ONNX Runtime's name of the provider, which must be in this installation."""
    if provider not in _PROVIDERS:
        raise ConfigError(f"provider {provider!r} is unknown; known are {sorted(_PROVIDERS)}")
    there = onnxruntime.get_available_providers()
    if _PROVIDERS[provider] not in there:
        known = [name for name, full in _PROVIDERS.items() if full in there]
        raise ProviderUnavailable(
            f"provider {provider!r} is not in this installation of onnxruntime {onnxruntime.__version__}; "
            f"available: {known} (for CUDA install the extra 'gpu' in place of 'cpu', never both)"
        )
    if provider == "cuda":
        # CUDA and cuDNN are installed as wheels beside onnxruntime-gpu and are not on the loader's path.
        onnxruntime.preload_dlls()
    return _PROVIDERS[provider]
