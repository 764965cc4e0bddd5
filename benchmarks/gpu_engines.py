"""The part `engines` of benchmarks/gpu.py: two networks by every way to run them, in turns, copies included."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from tasks import measure, networks


def engines(given: Any) -> dict[str, Any]:
    """Time two networks at batch 1 and 32."""
    from benchmarks.resnet import resnet18

    torch.manual_seed(0)
    torch._dynamo.config.recompile_limit = 64
    small = networks.build({"shape": [1, 28, 28], "classes": list("0123456789")}, {"name": "small", "width": 64}).eval()
    found, reasons = {}, {}
    for name, network, shape in (("small 28x28", small, (1, 28, 28)), ("ResNet-18 224x224", resnet18(), (3, 224, 224))):
        with tempfile.TemporaryDirectory() as folder:
            images = np.random.default_rng(0).normal(size=(64, *shape)).astype(np.float32)
            ways, reasons[name] = every_way(network, images, Path(folder))
            found[name] = rows(ways, images, given.rounds)
        print(name, json.dumps(found[name], indent=1), flush=True)
    return {"method": "numpy to numpy, copies included; TF32 as each library does by default", "rows": found} | {
        "not_measured": reasons
    }


def every_way(network: Any, images: Any, folder: Path) -> tuple[dict[str, Callable[[Any], Any]], dict[str, str]]:
    """Return the ways to run a network, and why the others can't run."""
    from benchmarks.ways import gpu_ways, on_onnx_runtime
    from tasks import export
    from tasks.backends import tensorrt_rtx

    model = export.convert(network, images[:2])
    (folder / "fp32.onnx").write_bytes(model.SerializeToString())
    ways = {f"ONNX Runtime FP32, CPU, {n} thread(s)": on_onnx_runtime(folder / "fp32.onnx", n) for n in (1, 8)}
    ways |= {"torch eager FP32, GPU": eager(network)}
    ways |= {name: way for name, way in gpu_ways(network).items() if "compile" not in name}
    reasons = {}
    for precision in ("fp32", "fp16", "int8"):
        title, engine = f"TensorRT for RTX {precision.upper()}, GPU", folder / f"{precision}.rtx"
        try:
            source = converted(folder / "fp32.onnx", precision, images)
            tensorrt_rtx.build(source, engine, 32, tensorrt_rtx.Options(compute_capabilities=[]))
            ways[title] = tensorrt_rtx.load(engine, threads=1)
        except ValueError as error:
            reasons[title] = str(error)
            break  # another precision would not be loaded either
    return ways, reasons


def converted(source: Path, precision: str, images: Any) -> Path:
    """Write the network's form in a precision."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    from tasks.quantize import to_int8

    out = source.with_name(f"{precision}.onnx")
    if precision == "fp16":
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), out)
    if precision == "int8":
        to_int8(source, out, [images[:32]], "tensorrt")
    return out


def eager(network: Any) -> Callable[[Any], Any]:
    """Return eager torch in float32 on the GPU."""
    import copy

    on_gpu = copy.deepcopy(network).cuda()

    @torch.inference_mode()
    def predict(x: Any) -> Any:
        return on_gpu(torch.from_numpy(x).cuda()).cpu().numpy()

    return predict


def rows(ways: dict[str, Callable[[Any], Any]], images: Any, rounds: int, calls: int = 20) -> list[dict[str, Any]]:
    """Time every way in every round; the first of ONNX Runtime is what logits are compared with."""
    times: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
    reference = {batch: next(iter(ways.values()))(images[:batch]) for batch in (1, 32)}
    apart = {}
    for (name, predict), batch in ((way, batch) for way in ways.items() for batch in (1, 32)):
        for _ in range(2 if "CPU" in name else 5):
            logits = predict(images[:batch])
        apart[batch, name] = float(np.abs(logits - reference[batch]).max() / np.abs(reference[batch]).max())
    for _ in range(rounds):
        for name, predict in ways.items():
            for batch in (1, 32):
                few = calls if "CPU" not in name else 1
                times[batch, name].append([measure.seconds(predict, images[:batch]) for _ in range(few)])
    first = next(name for name in ways if "eager FP32" in name)
    return [
        {
            "batch": batch,
            "way": name,
            "p50_ms": round(float(np.median(np.concatenate(found))) * 1e3, 4),
            "images_per_s": round(batch / float(np.median(np.concatenate(found)))),
            "ratio_to_eager_fp32": round(
                median(float(np.median(b) / np.median(a)) for a, b in zip(found, times[batch, first], strict=True)),
                2,
            ),
            "max_difference": float(f"{apart[batch, name]:.2g}"),
        }
        for (batch, name), found in sorted(times.items(), key=lambda item: item[0][0])
    ]
