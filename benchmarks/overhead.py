"""What serving costs: the same engine in this process and behind Triton, over gRPC with and without shared memory.

The server has one instance with one thread, as the process here has, and always two requests under way, or four: then
it may answer those that wait in one go. Ways take turns.
"""

import contextlib
import json
import queue
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import shared_memory

from benchmarks.resnet import resnet18
from flows import live, sandbox
from tasks import backends, export, package, quantize

SIDE, CLASSES = 224, 1000
TRIAL_S, CALLS, LEAST = 2.0, 100, 8  # the least are calls of a trial, however long they take
IN_FLIGHT = (2, 4)  # requests under way
REGION, HERE = "benchmark", "in process"
Ask = Callable[[Any], Any]


def resnet(rounds: int) -> list[dict[str, Any]]:
    """Return the rows of an INT8 ResNet-18 with random weights at 224 x 224, ONNX Runtime and OpenVINO."""
    import torch

    torch.manual_seed(0)
    images = ((np.random.default_rng(0).random((64, 3, SIDE, SIDE)) - 0.45) / 0.225).astype(np.float32)
    spec = {"workload": "image/classification", "shape": [3, SIDE, SIDE], "classes": [f"{i}" for i in range(CLASSES)]}
    found = []
    with tempfile.TemporaryDirectory(dir=".state") as name:
        folder = Path(name)
        (folder / "fp32.onnx").write_bytes(export.convert(resnet18(), images[:2]).SerializeToString())
        calibration = [images[start : start + 8] for start in range(0, 32, 8)]
        quantize.to_int8(folder / "fp32.onnx", folder / "engine.onnx", calibration, "cpu")
        for backend in ("onnxruntime", "openvino"):
            write(folder / backend, spec, folder / "engine.onnx", backend)
            found += compared(folder / backend, spec, backend, (1, 8, 32), rounds)
    return [{"network": "ResNet-18 INT8", **each} for each in found]


def small(pipeline: str, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of the packaged network."""
    packaged = Path("models/package", pipeline)
    facts = json.loads((packaged / "package.json").read_text())
    backend = facts["engine"].split("-")[0]
    folder = packaged / facts["engine_folder"]
    spec = json.loads((folder / "spec.json").read_text())
    with tempfile.TemporaryDirectory(dir=".state") as name:
        write(Path(name) / "models", spec, folder / f"engine{backends.backend(backend).SUFFIX}", backend)
        rows = compared(Path(name) / "models", spec, backend, (1, 64), rounds)
    return [{"network": f"{pipeline} {facts['engine']}", **each} for each in rows]


def write(repository: Path, spec: dict[str, Any], engine: Path, backend: str) -> None:
    """Write the engine's model and the chain that clients ask, as `package` does."""
    folder = repository / "network_engine" / package.VERSION
    package.copy(engine, folder / f"engine{backends.backend(backend).SUFFIX}")
    package.copy(package.CODE / "backends" / f"{backend}.py", folder / "backend.py")
    package.copy(package.SERVER_CODE / "engine_model.py", folder / "model.py")
    for name in ("observation.py", "observed.py"):
        package.copy(package.SERVER_CODE / name, folder / name)
    for name in ("network_engine", "network_tensor"):
        (repository / name / package.VERSION).mkdir(parents=True, exist_ok=True)
        (repository / name / package.VERSION / "spec.json").write_text(json.dumps(spec))
    for config in package.configurations("network", spec, 64, 0, 1, 1):
        if (repository / config.name).exists():
            package.write_config(repository / config.name / "config.pbtxt", config)


def compared(
    repository: Path, spec: dict[str, Any], backend: str, batches: tuple[int, ...], rounds: int
) -> list[dict[str, Any]]:
    """Return a row per batch: throughput served / in this process, and what gRPC adds to a lone request's p50."""
    suffix = backends.backend(backend).SUFFIX
    engine = backends.backend(backend).load(repository / "network_engine" / package.VERSION / f"engine{suffix}", 1)
    rows = []
    with sandbox.sandbox(repository, "network_tensor") as served:
        for batch in batches:
            x = np.random.default_rng(batch).standard_normal((batch, *spec["shape"])).astype(np.float32)
            with region(served.client, x.nbytes) as handle:
                ways = {HERE: engine, "gRPC": over_grpc(served), "shared memory": over_memory(served, handle)}
                rows.append({"backend": backend, "batch": batch} | take_turns(served, ways, handle, x, rounds))
            print(f"  {rows[-1]}", flush=True)
    return rows


def take_turns(served: live.Served, ways: dict[str, Ask], handle: Any, x: Any, rounds: int) -> dict[str, Any]:
    """Time every way in every round; return medians of the ratios of a round, and how much p50 grows (ms)."""
    p50s: dict[str, list[float]] = {name: [] for name in ways}
    inside: list[float] = []
    rates: dict[tuple[str, int], list[float]] = {(name, n): [] for name in ways if name != HERE for n in IN_FLIGHT}
    for _ in range(rounds):
        for name, ask in ways.items():
            p50s[name].append(lone(ask, x))
        inside.append(in_a_row(ways[HERE], x))
        for (name, under_way), found in rates.items():
            found.append(in_flight(served, handle, x, name, under_way))
    row: dict[str, Any] = {"n": rounds, "in_process_images_per_s": round(median(inside), 1)}
    row["in_process_p50_ms"] = round(median(p50s[HERE]), 3)
    for (name, under_way), found in rates.items():
        ratios = [a / b for a, b in zip(found, inside, strict=True)]
        short = f"{name.replace(' ', '_')}_{under_way}_under_way"
        row[f"{short}_ratio"] = round(median(ratios), 3)
        row[f"{short}_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    for name in (name for name in ways if name != HERE):
        added = median(a - b for a, b in zip(p50s[name], p50s[HERE], strict=True))
        row[f"{name.replace(' ', '_')}_added_p50_ms"] = round(added, 3)
    return row


def lone(ask: Ask, x: Any) -> float:
    """Return the p50 (ms) of one request after the other."""
    taken, begun = [], time.perf_counter()
    while len(taken) < CALLS and time.perf_counter() - begun < TRIAL_S:
        start = time.perf_counter()
        ask(x)
        taken.append(time.perf_counter() - start)
    return median(taken) * 1e3


def in_a_row(ask: Ask, x: Any) -> float:
    """Return images a second of one call after the other."""
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < TRIAL_S or done < LEAST * len(x):
        ask(x)
        done += len(x)
    return done / (time.perf_counter() - begun)


def in_flight(served: live.Served, handle: Any, x: Any, name: str, under_way: int) -> float:
    """Return images a second with so many requests always under way."""
    answers: queue.Queue[Any] = queue.Queue()

    def send() -> None:
        asked = tensor(x) if name == "gRPC" else shared(handle, x)
        served.client.async_infer("network_tensor", [asked], lambda result, error: answers.put(error))

    for _ in range(under_way):
        send()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < TRIAL_S or done < LEAST * len(x):
        if error := answers.get(timeout=60):
            raise error
        done += len(x)
        send()
    seconds = time.perf_counter() - begun
    for _ in range(under_way):
        answers.get(timeout=60)
    return done / seconds


def over_grpc(served: live.Served) -> Ask:
    """Return what asks with the tensor in the message."""
    return lambda x: served.client.infer("network_tensor", [tensor(x)])


def over_memory(served: live.Served, handle: Any) -> Ask:
    """Return what asks with the tensor in memory that both sides see."""
    return lambda x: served.client.infer("network_tensor", [shared(handle, x)])


def tensor(x: Any) -> Any:
    """Put a tensor into a message."""
    return triton.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)


def shared(handle: Any, x: Any) -> Any:
    """Copy a tensor into shared memory and name it."""
    shared_memory.set_shared_memory_region(handle, [x])
    asked = triton.InferInput("input", x.shape, "FP32")
    asked.set_shared_memory(REGION, x.nbytes)
    return asked


@contextlib.contextmanager
def region(client: Any, size: int) -> Iterator[Any]:
    """Have memory that this process and the server see; only who holds the control token may register it."""
    handle = shared_memory.create_shared_memory_region(REGION, "/engineworks_benchmark", size)
    client.register_system_shared_memory(REGION, "/engineworks_benchmark", size)
    try:
        yield handle
    finally:
        client.unregister_system_shared_memory(REGION)
        shared_memory.destroy_shared_memory_region(handle)
