"""Why the classes of requests are the door's and not Triton's: what each kind of queue does to a request's latency.

    python benchmarks/classes.py [SECONDS]

A model that takes 5 ms is asked three times within 10 ms, again and again, by the server of this project. Writes
benchmarks/results/classes.json.
"""

import functools
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import model_config_pb2 as messages

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from flows import addresses, sandbox  # noqa: E402
from tasks.measure import machine  # noqa: E402
from tasks.package import configuration, write_config  # noqa: E402

MODEL = """
import time

import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        time.sleep(0.005)
        inputs = [pb.get_input_tensor_by_name(request, "input").as_numpy() for request in requests]
        return [pb.InferenceResponse([pb.Tensor("output", x)]) for x in inputs]
"""
STALLED_MS = 200
Batching, Policy = messages.ModelDynamicBatching, messages.ModelQueuePolicy
LEVELS = {"priority_levels": 2, "default_priority_level": 1}
QUEUES = {
    "plain": Batching(),
    "delay_1_ms": Batching(max_queue_delay_microseconds=1000),
    "max_queue_size": Batching(default_queue_policy=Policy(max_queue_size=64)),
    "priority_levels": Batching(**LEVELS),
    "priority_levels_and_delay_1_ms": Batching(max_queue_delay_microseconds=1000, **LEVELS),
}


def main(seconds: float) -> None:
    """Serve a model per queue, ask each, keep and print what came of it."""
    os.chdir(ROOT)
    addresses.adopt()
    with tempfile.TemporaryDirectory(dir=".state") as name:
        for queue, batching in QUEUES.items():
            write(Path(name), queue, batching)
        with sandbox.sandbox(Path(name), "plain") as served:
            rows = [{"queue": queue, **latency(served.client, queue, seconds)} for queue in QUEUES]
    results = {"machine": machine(1), "rows": rows}
    (ROOT / "benchmarks/results/classes.json").write_text(json.dumps(results, indent=2) + "\n")
    for row in rows:
        print(row)


def write(repository: Path, name: str, batching: Any) -> None:
    """Write the model with one kind of queue."""
    tensors = [[(each, "TYPE_FP32", [1])] for each in ("input", "output")]
    config = configuration(name, *tensors, 8)
    config.backend = "python"
    config.instance_group.add(count=1, kind="KIND_CPU")
    config.dynamic_batching.SetInParent()
    config.dynamic_batching.CopyFrom(batching)
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(MODEL)
    write_config(repository / name / "config.pbtxt", config)


def latency(client: Any, model: str, seconds: float) -> dict[str, Any]:
    """Ask three times in a row, again and again; return p50, p99 (ms) and how many stalled."""
    x = np.zeros((8, 1), np.float32)
    taken: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = threading.Semaphore(0)

        def done(begun: float, left: Any, result: Any, error: Any) -> None:
            assert error is None, error
            taken.append(1e3 * (time.monotonic() - begun))
            left.release()

        for _ in range(3):
            asked = [triton.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)]
            client.async_infer(model, asked, functools.partial(done, time.monotonic(), left))
            time.sleep(0.003)
        for _ in range(3):
            left.acquire(timeout=10)
        time.sleep(0.02)
    p50, p99 = (round(float(each), 1) for each in np.percentile(taken, [50, 99]))
    return {"p50_ms": p50, "p99_ms": p99, "stalled": sum(each > STALLED_MS for each in taken), "n": len(taken)}


if __name__ == "__main__":
    main(float(sys.argv[1]) if sys.argv[1:] else 10.0)
