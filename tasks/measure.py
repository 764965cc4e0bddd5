"""measure: latency, throughput and memory of every engine on this machine, engines taking turns."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from tasks import atomic, engines, footprint, target, trained
from tasks.params import AtMost, distinct

SINGLES, SAMPLES, WARM_UP = 60, 192, 20  # calls at batch 1, samples at each larger batch, calls before
LONG_S, LEAST = 1.0, 10  # a slow network's calls end with this time of a round, but not before so many at batch 1
Predictors = dict[str, Callable[[Any], Any]]
Batch = Annotated[int, Field(ge=1, le=4096)]


def measure(
    backends: list[str],
    prepare: Path,
    train: Path,
    build: Path,
    out: Path,
    *,
    threads: Annotated[int, Field(ge=1, le=1024)],
    rounds: Annotated[int, Field(ge=1, le=10_000)],
    batches: Annotated[list[Batch], Field(min_length=1), AfterValidator(distinct), AtMost("build", "max_batch")],
) -> None:
    """Leave in `out`, per engine, p50, p90 and p99 (ms) at batch 1, samples/s at each batch, and memory (MB).

    All engines are loaded first, then take turns round by round, so that a busy moment hits them all alike; the figures
    of each round are kept, so that `select` can tell a difference from noise. Memory is what a fresh process grows by.
    """
    import torch
    from safetensors.numpy import load_file

    torch.set_num_threads(threads)
    spec = json.loads((prepare / "spec.json").read_text())
    golden = load_file(prepare / "golden.safetensors")["input"]
    loaders: dict[str, Callable[[], Callable[[Any], Any]]] = {}
    rows: dict[str, Any] = {}
    for engine in engines.read(build, backends):
        if engine.missing:
            rows[engine.name] = {"not_measured": engine.missing}
        else:
            loaders[engine.name] = lambda engine=engine: engine.load(threads)  # type: ignore[misc]
    largest = sample(golden, max(batches))
    memory = {name: footprint.grown_mb(load, largest) for name, load in loaders.items()}  # before a thread is started
    name, predict = trained.original(train, spec)
    predictors = {name: predict} | {name: load() for name, load in loaders.items()}
    found = take_turns(predictors, golden, rounds, batches)
    rows |= {name: summary(*found[name], threads) | {"memory_mb": memory.get(name)} for name in predictors}
    atomic.write_json(out, {"machine": machine(threads), "rounds": rounds, "rows": rows})
    print(f"{len(predictors)} ways to run it, {rounds} rounds in turns")


def sample(golden: Any, size: int) -> Any:
    """Return a batch of any size from the golden one."""
    import numpy as np

    return np.ascontiguousarray(np.resize(golden, (size, *golden.shape[1:])))


Turns = tuple[list[list[float]], dict[int, list[float]]]  # seconds of each call at batch 1 by round; samples/s by batch


def take_turns(predictors: Predictors, golden: Any, rounds: int, batches: list[int]) -> dict[str, Turns]:
    """Return what each way to run the network took, round by round."""
    one, many = sample(golden, 1), {size: sample(golden, size) for size in batches}
    found: dict[str, Turns] = {name: ([], {size: [] for size in batches}) for name in predictors}
    for predict in predictors.values():
        for x in (one, *many.values()):
            calls(predict, x, WARM_UP if len(x) == 1 else 2, 1)
    for turn in range(rounds):
        for name, predict in predictors.items():
            singles, rates = found[name]
            singles.append(calls(predict, one, SINGLES, LEAST))
            for size, x in many.items():
                taken = singles[-1] if size == 1 else calls(predict, x, max(2, SAMPLES // size), 1)
                rates[size].append(size * len(taken) / sum(taken))
        print(f"round {turn + 1} of {rounds}", flush=True)
    return found


def calls(predict: Callable[[Any], Any], x: Any, most: int, least: int) -> list[float]:
    """Return the seconds of so many calls one after the other, or fewer once they took `LONG_S` together."""
    taken: list[float] = []
    while len(taken) < most and (len(taken) < least or sum(taken) < LONG_S):
        taken.append(seconds(predict, x))
    return taken


def seconds(predict: Callable[[Any], Any], x: Any) -> float:
    """Time one call."""
    start = time.perf_counter()
    predict(x)
    return time.perf_counter() - start


def summary(singles: list[list[float]], rates: dict[int, list[float]], threads: int) -> dict[str, Any]:
    """Return one line of the table: medians over the rounds, and the rounds themselves."""
    import numpy as np

    p50, p90, p99 = (round(float(v) * 1e3, 4) for v in np.percentile(np.concatenate(singles), [50, 90, 99]))
    throughput = {str(size): round(float(np.median(values)), 1) for size, values in rates.items()}
    best = max(throughput, key=lambda size: throughput[size])
    return {
        "p50_ms": p50,
        "p90_ms": p90,
        "p99_ms": p99,
        "calls": sum(len(each) for each in singles),
        "throughput": throughput,
        "images_per_s": throughput[best],
        "images_per_s_per_core": round(throughput[best] / threads, 1),
        "batch": int(best),
        "rounds": {
            "latency": [round(float(np.median(each)) * 1e3, 4) for each in singles],
            "throughput": [round(value, 1) for value in rates[int(best)]],
        },
    }


def foreign(out: Path) -> str | None:
    """Say on which other machine a measurement was taken; None where it was this one: timings are no one else's."""
    taken = json.loads(out.read_text())["machine"]
    return None if taken == machine(taken["threads"]) else f"measured on another machine: {taken['cpu']}"


def machine(threads: int) -> dict[str, Any]:
    """Return what a timing depends on: CPU, instruction sets, cores, threads."""
    return {**target.cpu(), "threads": threads}
