"""The online half: ONNX Runtime, an HTTP API, and a live catalogue of semantic IDs.

Knows nothing of torch, transformers or the package `training`; a test proves it in a fresh interpreter.
"""
