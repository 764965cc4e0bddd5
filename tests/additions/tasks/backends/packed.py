"""ONNX Runtime on a compressed file: a toy that builds, runs and serves."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = "cpu"
DIALECT = "cpu"
PRECISIONS = ("fp32", "int8")
SUFFIX = ".onnx.z"
SERVED = True
DISTRIBUTION = "onnxruntime"


def build(source: Path, out: Path, max_batch: int, options: Any) -> dict[str, Any]:
    """Write the ONNX file compressed."""
    out.write_bytes(zlib.compress(source.read_bytes()))
    return {"versions": {"zlib": zlib.ZLIB_VERSION}, "flags": {}, "batch": [1, 1, None], "runs_on": "any CPU"}


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


def objections(engine: Path, facts: dict[str, Any], target: dict[str, Any]) -> list[str]:
    """It fits every machine."""
    return []
