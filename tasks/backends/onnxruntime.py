"""ONNX Runtime on the CPU: its engine is the ONNX file, checked by loading it."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = "cpu"
DIALECT = "cpu"
PRECISIONS = ("fp32", "int8")  # its CPU kernels gain nothing from FP16
SUFFIX = ".onnx"
SERVED = True
DISTRIBUTION = "onnxruntime"


def build(source: Path, out: Path, max_batch: int, options: Any) -> dict[str, Any]:
    """Copy the ONNX file once a session accepts it; the batch is dynamic, so `max_batch` sets no limit here."""
    import onnxruntime

    try:
        session(source, threads=1)
    except Exception as error:  # it has no class of its own for a model that it can't run
        raise ValueError(f"ONNX Runtime can't load {source.name}: {str(error).splitlines()[0]}") from None
    shutil.copyfile(source, out)
    return {
        "versions": {"onnxruntime": onnxruntime.__version__},
        "flags": {"providers": ["CPUExecutionProvider"]},
        "batch": [1, 1, None],
        "runs_on": f"any CPU, by ONNX Runtime {onnxruntime.__version__} or later",
    }


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


def objections(engine: Path, facts: dict[str, Any], target: dict[str, Any]) -> list[str]:
    """Object to a machine without ONNX Runtime, or with an older one than the engine was tried with."""
    built, there = facts["versions"]["onnxruntime"], target["versions"].get("onnxruntime")
    if there is None:
        return ["the target has no ONNX Runtime"]
    if release(there) < release(built):
        return [f"tried with ONNX Runtime {built}, the target has {there}"]
    return []


def release(version: str) -> list[int]:
    """Return the first two numbers of a version: `1.33rc1` -> 1, 33."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]
