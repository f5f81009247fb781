"""What the machine itself allows. Knows nothing of what is held against it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from training.graphs.graph import IR_VERSION, OPSET

SIZE = 1024
PRODUCTS = 4


def matrix_products(threads: int = 0) -> tuple[Callable[[], object], int]:
    """A few large float32 matrix products by ONNX Runtime, to be timed in turns with what they limit.

    By the library that runs our graphs, since NumPy's may have been told to use other instructions than the processor
    has (`OPENBLAS_CORETYPE`), and the limit would then be half of what it is.

    Parameters
    ----------
    threads : of a product; 0 takes every core

    Returns
    -------
    what runs them, and how many multiply-adds they are
    """
    shape = [SIZE, SIZE]
    left, right, product = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "abc")
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [left, right], [product])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # As where our own graphs run: threads that spin on after a product would take a core from what is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    factors = dict(zip("ab", np.random.default_rng(0).standard_normal((2, *shape), dtype=np.float32), strict=True))

    def run() -> None:
        for _ in range(PRODUCTS):
            session.run(None, factors)

    return run, PRODUCTS * SIZE**3
