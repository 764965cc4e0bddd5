"""The ways to run a network that benchmarks/engines.py compares, each numpy -> numpy."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tasks import trained

Predict = Callable[[Any], Any]
EAGER = "torch eager FP32"


def torch_ways(network: Any) -> dict[str, Predict]:
    """Return torch's own ways to run it; compiled code has batch and threads built in, so each pair compiles anew."""
    torch._dynamo.config.recompile_limit = 64
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})
    modules = {EAGER: network, "torch.compile FP32": compiled}
    ways = {name: trained.predictor(module) for name, module in modules.items()}
    return ways | (gpu_ways(network) if torch.cuda.is_available() else {})


def gpu_ways(network: Any) -> dict[str, Predict]:
    """Return FP16 on the GPU, copies included: eager, compiled, and compiled into CUDA graphs."""
    half = copy.deepcopy(network).half().cuda()
    modules = {"eager": half, "compile": torch.compile(half, dynamic=False)}
    modules["CUDA graphs"] = torch.compile(half, dynamic=False, mode="reduce-overhead")

    def way(module: Any) -> Predict:
        @torch.inference_mode()
        def predict(x: Any) -> Any:
            return module(torch.from_numpy(x).cuda().half()).float().cpu().numpy()

        return predict

    return {f"torch {name} FP16, GPU": way(module) for name, module in modules.items()}


def files(folder: Path, threads: int) -> dict[str, Predict]:
    """Return each ONNX file of a folder on ONNX Runtime and on OpenVINO."""
    ways = {}
    for path in sorted(folder.glob("*.onnx")):
        precision, _, dialect = path.stem.partition(".")
        name = precision.upper() + (f" {dialect}" if dialect else "")
        ways[f"ONNX Runtime {name}"] = on_onnx_runtime(path, threads)
        ways[f"OpenVINO {name}"] = on_openvino(path, threads, {"INFERENCE_PRECISION_HINT": "f32"})
    ways["OpenVINO FP32 run as bf16"] = on_openvino(
        folder / "fp32.onnx", threads, {}
    )  # its default where the CPU has it
    return ways


def on_onnx_runtime(path: Path, threads: int) -> Predict:
    """Return inference by ONNX Runtime, whose threads stop spinning when a call ends: others' turns come next."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})[0]


def on_openvino(path: Path, threads: int, hints: dict[str, str]) -> Predict:
    """Return inference by OpenVINO: one stream, tuned for latency, threads not tied to cores."""
    from tasks.backends.openvino import library

    common = {"NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    compiled = library().Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads, **common, **hints})
    request = compiled.create_infer_request()
    return lambda x: request.infer({"input": x}, share_inputs=True)[0]
