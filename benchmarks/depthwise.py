"""How long does a training step of EfficientNet-Lite0 take, with and without its shortcut for 5 x 5 depthwise kernels?

    python benchmarks/depthwise.py [ROUNDS]

Batches of 32 at 160 x 160 in bf16 on all cores; head, top and the last eight blocks learn, as in the examples. The two
ways take turns. Writes benchmarks/results/depthwise.json.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tasks import networks  # noqa: E402
from tasks.measure import machine  # noqa: E402

SIDE, BATCH, RESTING, STEPS = 160, 32, 9, 4  # pixels, images, children that rest, steps of a round


def main(rounds: int) -> None:
    """Time a step either way, write the results and print them."""
    import torch

    from tasks.networks.layers import Same

    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    step = stepping()
    shortcut, taken = Same.is_slow_to_learn, {"ours": [], "torch's own": []}  # type: dict[str, list[float]]
    for way in [*taken, *(way for _ in range(rounds) for way in taken)]:
        Same.is_slow_to_learn = shortcut if way == "ours" else lambda layer, x: False
        started = time.perf_counter()
        for _ in range(STEPS):
            step()
        taken[way].append(1e3 * (time.perf_counter() - started) / STEPS)
    Same.is_slow_to_learn = shortcut
    ours, theirs = (found[1:] for found in taken.values())  # the first of each warmed up
    results: dict[str, Any] = {"machine": machine(cores), "n": rounds, "side": SIDE, "batch": BATCH}
    results |= {"step_ms": round(median(ours), 1), "step_ms_without": round(median(theirs), 1)}
    results["times_as_fast"] = round(median(b / a for a, b in zip(ours, theirs, strict=True)), 2)
    (ROOT / "benchmarks/results/depthwise.json").write_text(json.dumps(results, indent=2) + "\n")
    print(
        f"{results['step_ms']} ms a step, {results['step_ms_without']} without: {results['times_as_fast']} x, {rounds=}"
    )


def stepping() -> Callable[[], None]:
    """Return one step of training, gradients included."""
    import torch

    torch.manual_seed(0)
    spec = {"shape": [3, SIDE, SIDE], "classes": [f"{i}" for i in range(10)]}
    network = networks.build(spec, {"name": "efficientnet_lite0"}).to(memory_format=torch.channels_last)
    for child in list(network)[:RESTING]:
        child.eval().requires_grad_(False)
    x = torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    y = torch.randint(0, 10, (BATCH,))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()

    return step


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)
