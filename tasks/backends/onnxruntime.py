"""ONNX Runtime on the CPU: its engine is the ONNX file, checked by loading it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = "cpu"
DIALECT = "onnxruntime"
SUFFIX = ".onnx"


def build(source: Path, out: Path, max_batch: int) -> dict[str, Any]:
    """Copy the ONNX file once a session accepts it; the batch is dynamic, so `max_batch` sets no limit here."""
    import onnxruntime

    session(source, threads=1)
    shutil.copyfile(source, out)
    return {"onnxruntime": onnxruntime.__version__}


def missing() -> str | None:
    """It runs everywhere."""
    return None


def load(engine: Path, threads: int) -> Callable[[Any], Any]:
    """Return inference on `threads` cores."""
    loaded = session(engine, threads)

    def predict(x: Any) -> Any:
        return loaded.run(["logits"], {"input": x})[0]

    return predict


def session(path: Path, threads: int) -> Any:
    """Open an ONNX file on the CPU, and only there."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
