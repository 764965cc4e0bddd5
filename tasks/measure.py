"""measure: latency and throughput of every engine on this machine, engines taking turns."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from tasks import atomic, engines, target, trained

SINGLES, BATCHES, WARM_UP = 60, 6, 20  # calls per engine and round


def measure(
    workload: str,
    backends: list[str],
    prepare: Path,
    train: Path,
    build: Path,
    out: Path,
    *,
    threads: Annotated[int, Field(ge=1, le=1024)],
    rounds: Annotated[int, Field(ge=1, le=10_000)],
    throughput_batch: Annotated[int, Field(ge=1, le=4096)],
) -> None:
    """Leave in `out` p50, p90 and p99 (ms) at batch 1 and images/s at `throughput_batch`, with this machine's marks.

    All engines are loaded first, then take turns round by round, so that a busy moment hits them all alike.
    """
    import torch
    from safetensors.numpy import load_file

    torch.set_num_threads(threads)
    spec = json.loads((prepare / "spec.json").read_text())
    golden = load_file(prepare / "golden.safetensors")["input"]
    predictors = dict([trained.original(workload, train, spec)])
    rows: dict[str, Any] = {}
    for engine in engines.read(build, backends):
        if engine.missing:
            rows[engine.name] = {"not_measured": engine.missing}
        else:
            predictors[engine.name] = engine.load(threads)
    singles, rates = take_turns(predictors, golden, rounds, throughput_batch)
    for name in predictors:
        rows[name] = summary(singles[name], rates[name], threads, throughput_batch)
    atomic.write_json(out, {"machine": machine(threads), "rounds": rounds, "rows": rows})
    print(f"{len(predictors)} ways to run it, {rounds} rounds in turns")


def take_turns(
    predictors: dict[str, Callable[[Any], Any]], golden: Any, rounds: int, batch: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return per engine the seconds of each call at batch 1, and the images/s of each round at `batch`."""
    import numpy as np

    one, many = np.ascontiguousarray(golden[:1]), np.resize(golden, (batch, *golden.shape[1:]))
    singles: dict[str, list[float]] = {name: [] for name in predictors}
    rates: dict[str, list[float]] = {name: [] for name in predictors}
    for predict in predictors.values():
        for _ in range(WARM_UP):
            predict(one)
            predict(many)
    for turn in range(rounds):
        for name, predict in predictors.items():
            for _ in range(SINGLES):
                singles[name].append(seconds(predict, one))
            rates[name].append(batch * BATCHES / sum(seconds(predict, many) for _ in range(BATCHES)))
        print(f"round {turn + 1} of {rounds}", flush=True)
    return singles, rates


def seconds(predict: Callable[[Any], Any], x: Any) -> float:
    """Time one call."""
    start = time.perf_counter()
    predict(x)
    return time.perf_counter() - start


def summary(singles: list[float], rates: list[float], threads: int, batch: int) -> dict[str, Any]:
    """Return one line of the table."""
    import numpy as np

    p50, p90, p99 = (round(float(v) * 1e3, 4) for v in np.percentile(singles, [50, 90, 99]))
    rate = float(np.median(rates))
    return {
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "calls": len(singles),
        "images_per_s": round(rate, 1),
        "images_per_s_per_core": round(rate / threads, 1),
        "batch": batch,
    }


def foreign(out: Path) -> str | None:
    """Say on which other machine a measurement was taken; None where it was this one: timings are no one else's."""
    taken = json.loads(out.read_text())["machine"]
    return None if taken == machine(taken["threads"]) else f"measured on another machine: {taken['cpu']}"


def machine(threads: int) -> dict[str, Any]:
    """Return what a timing depends on: CPU, instruction sets, cores, threads."""
    return {**target.cpu(), "threads": threads}
