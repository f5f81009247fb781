"""A graph with int8 products in place of float32, to be measured; none is served. Knows nothing of what it computes."""

from __future__ import annotations

import logging
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic


def quantized(path: Path) -> Path:
    """The same graph with every product with a weight in int8, weights by channel, activations at run time."""
    target = path.with_suffix(".int8.onnx")
    logging.getLogger().setLevel(logging.ERROR)
    quantize_dynamic(
        path,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT, "EnableSubgraph": True},
    )
    return target
