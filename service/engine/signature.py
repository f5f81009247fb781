"""Signature check: compares the expected inputs and outputs of a graph with those of its file.

Independent of how graphs run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.errors import BundleError


@dataclass(frozen=True, slots=True)
class Tensor:
    """An expected input or output of a graph.

    Attributes
    ----------
    name : as in the file
    dtype : NumPy's name of the element type, such as `float32`
    shape : one entry per dimension: a number that must match, or a symbol; if the file fixes a symbol to a number, it
        must fix it to the same number everywhere
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


def check_signature(
    path: Path,
    kind: Literal["input", "output"],
    found: Sequence[Any],
    expected: Sequence[Tensor],
    sizes: dict[str, int],
) -> None:
    """Compare the inputs or the outputs with the file, and add sizes that the file fixes to `sizes`.

    Parameters
    ----------
    path : the file, for messages
    found : tensors as ONNX Runtime describes them
    expected : the signature
    sizes : sizes of the symbols that the file fixed so far; updated in place

    Raises
    ------
    BundleError : a tensor is missing, unexpected, or of another type or shape
    """
    by_name = {tensor.name: tensor for tensor in found}
    wanted = {tensor.name for tensor in expected}
    if by_name.keys() != wanted:
        raise BundleError(f"{path}: its {kind}s are {sorted(by_name)}, but must be {sorted(wanted)}")
    for tensor in expected:
        dtype = _numpy_name(by_name[tensor.name].type)
        if dtype != tensor.dtype:
            raise BundleError(f"{path}: {kind} {tensor.name!r} is {dtype}, but must be {tensor.dtype}")
        shape = by_name[tensor.name].shape
        if len(shape) != len(tensor.shape):
            raise BundleError(
                f"{path}: {kind} {tensor.name!r} has shape {list(shape)}, but must have {len(tensor.shape)} "
                f"dimensions {list(tensor.shape)}"
            )
        for axis, (size, want) in enumerate(zip(shape, tensor.shape, strict=True)):
            if not isinstance(size, int):
                continue
            must_be = sizes.setdefault(want, size) if isinstance(want, str) else want
            if size != must_be:
                raise BundleError(
                    f"{path}: {kind} {tensor.name!r} has size {size} in dimension {axis} ({want}), "
                    f"but must have {must_be}"
                )


def _numpy_name(onnx_type: str) -> str:
    """`tensor(int64)` -> `int64`; `tensor(float)` -> `float32`."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)
