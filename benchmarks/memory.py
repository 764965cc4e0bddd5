"""What does a training step on the CPU cost where malloc keeps memory, as `train` has it, and where it does not?

    python benchmarks/memory.py [ROUNDS]

Steps of an EfficientNet-Lite0 (32 images of 224 pixels) and of fashion's network (128 of 28), float32, on all cores;
each turn in a process of its own. Writes benchmarks/results/memory.json.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NETWORKS: dict[str, tuple[dict[str, Any], list[int], int]] = {
    "efficientnet_lite0": ({"name": "efficientnet_lite0"}, [32, 3, 224, 224], 6),
    "small": ({"name": "small", "width": 64}, [128, 1, 28, 28], 60),
}


def main(rounds: int) -> None:
    """Measure both ways in turns, write the results and print them."""
    from tasks.measure import machine

    rows = []
    for name in NETWORKS:
        found: dict[str, list[dict[str, float]]] = {"as it is": [], "kept": []}
        for _ in range(rounds):
            for way in found:
                found[way].append(once(name, way))
        ratios = [a["ms"] / b["ms"] for a, b in zip(found["as it is"], found["kept"], strict=True)]
        row = {"network": name, "times_as_fast": round(median(ratios), 3), "all": [round(each, 3) for each in ratios]}
        for way, turns in found.items():
            row[way] = {key: round(median(turn[key] for turn in turns), 1) for key in turns[0]}
        rows.append(row)
        print(json.dumps(row), flush=True)
    results = {"machine": machine(os.cpu_count() or 1), "n": rounds, "rows": rows}
    (ROOT / "benchmarks/results/memory.json").write_text(json.dumps(results, indent=2) + "\n")


def once(name: str, way: str) -> dict[str, float]:
    """Return a step's median of ms, page faults a step and the peak of memory, of a fresh process."""
    line = [sys.executable, "-W", "ignore", __file__, "step", name, way]
    found: dict[str, float] = json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout)
    return found


def step(name: str, way: str) -> dict[str, float]:
    """Train for some steps."""
    import torch

    from tasks import allocator, networks
    from tasks.problems.classification import loss

    if way == "kept":
        allocator.keep_memory()
    knobs, shape, steps = NETWORKS[name]
    network = networks.build({"shape": shape[1:], "classes": list("abcdef")}, knobs)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    batch, y = torch.randn(shape), torch.randint(0, 6, (shape[0],))
    seconds = []
    for turn in range(steps + 2):
        if turn == 2:  # the first two are warm-up
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        begun = time.perf_counter()
        x = batch.clone().to(memory_format=torch.channels_last)
        value = loss.loss(network(x), y, 0.1)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "ms": 1000 * median(seconds[2:]),
        "faults": (used.ru_minflt - faults) / steps,
        "peak_mb": used.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["step"]:
        print(json.dumps(step(*sys.argv[2:])))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
