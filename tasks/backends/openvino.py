"""OpenVINO on the CPU: its engine is the ONNX file, compiled for the CPU at load; the quickest INT8 on many."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = "cpu"
DIALECT = "cpu"
PRECISIONS = ("fp32", "int8")
SUFFIX = ".onnx"
SERVED = True
DISTRIBUTION = "openvino"
FLAGS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
    "INFERENCE_PRECISION_HINT": "f32",  # its default runs FP32 in bf16, silently, on CPUs that have it
    "ENABLE_CPU_PINNING": False,  # two processes would be pinned to the same core
}


def build(source: Path, out: Path, max_batch: int, options: Any) -> dict[str, Any]:
    """Copy the ONNX file once it compiles; the batch is dynamic, so `max_batch` sets no limit here."""
    openvino = library()
    try:
        compiled(source, threads=1)
    except RuntimeError as error:
        raise ValueError(f"OpenVINO can't load {source.name}: {words(error)}") from None
    shutil.copyfile(source, out)
    version = openvino.__version__.partition("-")[0]
    return {
        "versions": {"openvino": version},
        "flags": FLAGS,
        "batch": [1, 1, None],
        "runs_on": f"any CPU that OpenVINO {version} supports, compiled there at load",
    }


def words(error: RuntimeError) -> str:
    """Return what OpenVINO says, its summary alone where there is one, without the places in its code."""
    said = str(error).partition("Summary:\n")[2] or str(error)
    lines = [line.strip("- ") for line in said.splitlines() if not line.startswith("Exception from")]
    return "; ".join(line for line in lines if line)[:300]


def library() -> Any:
    """Import OpenVINO without its reports to Intel, which are on unless a file in the user's home says no."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # its import fails, and a stub steps in
    import openvino

    return openvino


def missing() -> str | None:
    """It runs everywhere."""
    return None


def load(engine: Path, threads: int) -> Callable[[Any], Any]:
    """Return inference on `threads` cores."""
    request = compiled(engine, threads).create_infer_request()

    def predict(x: Any) -> Any:
        return request.infer({"input": x}, share_inputs=True)["logits"]

    return predict


def compiled(path: Path, threads: int) -> Any:
    """Compile an ONNX file for this CPU."""
    return library().Core().compile_model(str(path), "CPU", FLAGS | {"INFERENCE_NUM_THREADS": threads})


def objections(engine: Path, facts: dict[str, Any], target: dict[str, Any]) -> list[str]:
    """Object to a machine without OpenVINO, or with an older one than the engine was tried with."""
    built, there = facts["versions"]["openvino"], target["versions"].get("openvino")
    if there is None:
        return ["the target has no OpenVINO"]
    if release(there) < release(built):
        return [f"tried with OpenVINO {built}, the target has {there}"]
    return []


def release(version: str) -> list[int]:
    """Return the first two numbers of a version: `1.33rc1` -> 1, 33."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]
