"""TensorRT for RTX: engines built ahead of time, without a GPU; running them needs one of the targets."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEVICE = "gpu"
DIALECT = "tensorrt"
SUFFIX = ".rtx"


def build(source: Path, out: Path, max_batch: int) -> dict[str, Any]:
    """Write a serialised engine for batches of 1 to `max_batch`, for every GPU that TensorRT for RTX knows.

    Precision is the ONNX file's. `ValueError` carries the parser's or builder's own words.
    """
    import tensorrt_rtx_bindings as trt

    logger, words = listener(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ValueError(f"TensorRT for RTX can't read {source.name}: {errors}")
    tensor = network.get_input(0)
    sizes = [(batch, *tuple(tensor.shape)[1:]) for batch in (1, max(1, max_batch // 4), max_batch)]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *sizes)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(f"TensorRT for RTX can't build {source.name}: {'; '.join(words) or 'it gave no reason'}")
    out.write_bytes(bytes(plan))
    return {"tensorrt_rtx": trt.__version__, "batch": [size[0] for size in sizes]}


def listener(trt: Any) -> tuple[Any, list[str]]:
    """Return a logger that keeps errors, and the list it keeps them in: the builder reports by it alone."""
    words: list[str] = []

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                words.append(message)

    return Logger(), words


def missing() -> str | None:
    """Say that there is no NVIDIA driver, where there is none."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine"
    return None


def load(engine: Path, threads: int) -> Callable[[Any], Any]:
    """Return inference on the first GPU; written against the documented API, not run on a GPU yet."""
    import tensorrt_rtx_bindings as trt
    import torch

    logger, words = listener(trt)
    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine.read_bytes())
    if loaded is None:
        raise ValueError(f"{engine.name} does not load on this GPU: {'; '.join(words)}")
    context, stream = loaded.create_execution_context(), torch.cuda.Stream()

    def predict(x: Any) -> Any:
        source = torch.from_numpy(x).cuda()
        context.set_input_shape("input", tuple(x.shape))
        logits = torch.empty(tuple(context.get_tensor_shape("logits")), device="cuda", dtype=torch.float32)
        context.set_tensor_address("input", source.data_ptr())
        context.set_tensor_address("logits", logits.data_ptr())
        stream.wait_stream(torch.cuda.current_stream())
        context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        return logits.cpu().numpy()

    return predict
