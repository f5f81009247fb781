"""Shared by all exports with torch's ONNX exporter: the opset, a quiet exporter, and files without debug metadata.

The exporter stores source lines and paths in every node. They do not belong in a published file, and would make equal
graphs differ between machines. Knows nothing of what the graphs compute.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

OPSET = 20


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's progress lines and notices about its internals; errors are still shown."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph into one file without debug metadata, and check it.

    Equal graphs give equal bytes.
    """
    model.doc_string = ""
    del model.metadata_props[:]
    _strip(model.graph)
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            _strip_node(node)
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(path), full_check=True)


def _strip(graph: onnx.GraphProto) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    values: list[Any] = [*graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for value in values:
        value.doc_string = ""
        del value.metadata_props[:]
    for node in graph.node:
        _strip_node(node)


def _strip_node(node: onnx.NodeProto) -> None:
    node.doc_string = ""
    del node.metadata_props[:]
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _strip(attribute.g)
        for graph in attribute.graphs:
            _strip(graph)
