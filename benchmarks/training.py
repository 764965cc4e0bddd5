"""How soon is the target reached, what does Lightning cost, and does anything grow with the data?

    python benchmarks/training.py [SEEDS] [--parts target loop growth processes]

`target`: fashion until the lower end of the 95 % interval of 6,000 validation images is at 0.90, by the train stage, by
a stock Lightning script and by PyTorch's own MNIST example, each in a process of its own, in turns; with start-up and
without. Ours trains in 16-mixed where the CPU computes it in hardware, and in 32-true beside it; elsewhere in 32-true
alone, as `precision: auto` would. `loop`: Lightning with our callbacks against a bare loop over the same batches.
`growth`: one epoch of 1, 3 and 10 times as many images, by one process and by two that share each batch. `processes`:
an epoch by one process on one core, by one on two cores, and by two on a core each, in turns. Wants a `make run`
before. Writes benchmarks/results/training.json.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.epochs import PRECISION, apart, epoch  # noqa: E402
from tasks.interval import wilson  # noqa: E402
from tasks.measure import machine  # noqa: E402

APPS, RESULTS = ROOT / "benchmarks/apps", ROOT / "benchmarks/results/training.json"
VALIDATION, TARGET = 6_000, 0.90
TIMES = (1, 3, 10)  # sizes of the growth
WAYS = {"one process, one core": (1, 1), "one process, two cores": (1, 2), "two processes, a core each": (2, 2)}


def main(seeds: int, parts: list[str]) -> None:
    """Measure what was asked for, and keep the rest of an earlier run."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = machine(os.cpu_count() or 1)
    found = {"target": lambda: to_target(seeds), "loop": lambda: against_bare(7), "growth": growth}
    found["processes"] = lambda: in_turns(5)
    for part in parts:
        for so_far in found[part]():
            results[part] = so_far
            RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        print(json.dumps(results[part], indent=2), flush=True)


def to_target(seeds: int) -> Iterator[dict[str, Any]]:
    """Yield, after every seed but the first, the seconds of every way, with start-up and without; ratios by seed."""
    least = next(n for n in range(VALIDATION) if wilson(n, VALIDATION)[0] >= TARGET) / VALIDATION
    raw = str(ROOT / "data/fetch/fashion")
    ours = dict.fromkeys([PRECISION, "32-true"])
    ways = {
        **{f"ours, {each}": ["fashion_ours.py", str(ROOT), "{seed}", each] for each in ours},
        "stock Lightning": ["fashion_lightning.py", raw, "{seed}", str(least)],
        "plain PyTorch": ["fashion_torch.py", raw, "{seed}", str(least)],
    }
    rows: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for seed in range(1, seeds + 1):
        for way, command in ways.items():
            rows[way].append(timed([word.format(seed=seed) for word in command]))
            print(f"seed {seed}, {way}: {rows[way][-1][0]:.0f} s, training {rows[way][-1][1]:.0f} s", flush=True)
        if seed == 1:  # one has no spread
            continue
        yield {"n": seed, "accuracy": round(least, 4)} | {way: summary(found, rows) for way, found in rows.items()}


def timed(command: list[str]) -> tuple[float, float]:
    """Run a script that trains to the target; return the seconds of its process and of its training."""
    begun = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-W", "ignore", str(APPS / command[0]), *command[1:]]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=ROOT)
    said = re.search(r"seconds ([\d.]+) reached True", done.stdout)
    if said is None:
        raise SystemExit(f"{command}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return time.monotonic() - begun, float(said[1])


def summary(found: list[tuple[float, float]], rows: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return mean and spread of a way's seconds, and how many times those of the first way they are."""
    ours = next(iter(rows.values()))
    result = {}
    for place, name in enumerate(("with_start_up", "training")):
        seconds = [each[place] for each in found]
        ratios = [each[place] / own[place] for each, own in zip(found, ours, strict=True)]
        result[name] = {"mean_s": round(mean(seconds), 1), "deviation_s": round(stdev(seconds), 1)}
        result[name] |= {"times_ours": round(median(ratios), 2), "least": round(min(ratios), 2)}
    return result


def against_bare(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield, round by round, Lightning's seconds an epoch over a bare loop's on the same batches, in turns."""
    prepare = ROOT / "data/prepare/fashion"
    ratios = []
    for turn in range(rounds + 1):
        bare, lightning = epoch(prepare, bare=True), epoch(prepare, bare=False)
        if turn:  # the first is warm-up
            ratios.append(lightning / bare)
            print(f"round {turn} of {rounds}: bare {bare:.1f} s, Lightning {lightning:.1f} s", flush=True)
            each = [round(ratio, 4) for ratio in ratios]
            yield {"n": turn, "lightning_over_bare": round(median(ratios), 4), "all": each}


def growth() -> Iterator[dict[str, Any]]:
    """Yield seconds and peak memory by size of the data, and the exponent of time, by processes; each size afresh."""
    found: dict[str, Any] = {}
    for processes in (1, 2):
        rows = [apart(times, processes, os.cpu_count() or 1) for times in TIMES]
        first, last = rows[0], rows[-1]
        exponent = math.log(last["seconds"] / first["seconds"]) / math.log(last["samples"] / first["samples"])
        found[f"{processes} process{'es' if processes > 1 else ''}"] = {"rows": rows, "exponent": round(exponent, 3)}
        yield found


def in_turns(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield, round by round, images a second of every way, and how many times those of the first two the last has."""
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(1, rounds + 1):
        for way, (processes, cores) in WAYS.items():
            row = apart(2, processes, cores)
            speeds[way].append(round(row["samples"] / row["seconds"]))
        *others, two = speeds.values()
        names = ("times_one_core", "times_two_cores_of_one_process")
        ratios = {
            name: [round(ours / theirs, 2) for ours, theirs in zip(two, each, strict=True)]
            for name, each in zip(names, others, strict=True)
        }
        medians = {name: median(each) for name, each in ratios.items()}
        yield {"n": turn, "images_per_s": speeds, "medians": medians, "all": ratios}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="?", type=int, default=5)
    parser.add_argument("--parts", nargs="+", default=["target", "loop", "growth", "processes"])
    main(**vars(parser.parse_args()))
