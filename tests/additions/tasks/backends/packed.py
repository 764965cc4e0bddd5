"""ONNX Runtime on a compressed file: a toy that builds, runs and serves."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = "cpu"
DIALECT = "onnxruntime"
SUFFIX = ".onnx.z"


def build(source: Path, out: Path, max_batch: int) -> dict[str, Any]:
    """Write the ONNX file compressed."""
    out.write_bytes(zlib.compress(source.read_bytes()))
    return {"zlib": zlib.ZLIB_VERSION}


def missing() -> str | None:
    """It runs everywhere."""
    return None


def load(engine: Path, threads: int) -> Callable[[Any], Any]:
    """Return inference on `threads` cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    content = zlib.decompress(engine.read_bytes())
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(["logits"], {"input": x})[0]
