"""Two networks on one server: what each does alone, both at once, and which placement keeps each one's bound.

    python benchmarks/together.py PIPELINE=BOUND_MS PIPELINE=BOUND_MS [ROUNDS]

Both are deployed and the servers up. A request is one prepared tensor over HTTP. Alone: the highest rate whose p99 is
within its bound. Together: both at the same share of those rates, raised until one breaks, with both networks on both
replicas (`shared`, through the door) and with a replica for each (`apart`, asked directly). Writes
benchmarks/results/together.json.
"""

import itertools
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import clients, peers  # noqa: E402
from flows import addresses, receipt, replicas, sentinel, tokens  # noqa: E402
from tasks.measure import machine  # noqa: E402

SECONDS, SHARES = 4.0, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
RESULTS = ROOT / "benchmarks/results/together.json"


def main(bounds: dict[str, float], rounds: int) -> None:
    """Measure alone, then together in both placements, in turns; write and print the table."""
    addresses.adopt()
    for name in bounds:
        if receipt.read(name) is None:
            raise SystemExit(f"{name} is not deployed; run: make run PIPELINE={name}")
    requests = {name: request(name) for name in bounds}
    door, first = addresses.port("HTTP"), addresses.port("TRITON")
    every = replicas.replicas()
    if len(every) < 2:
        raise SystemExit("one replica; set serving.replicas: 2")
    places = {
        "shared": dict.fromkeys(bounds, door),
        "apart": {name: port(each) for name, each in zip(bounds, every, strict=False)},
    }
    alone = {name: best(name, requests[name], bound, door, rounds) for name, bound in bounds.items()}
    rates = {name: found["requests_per_s"] for name, found in alone.items()}
    together: dict[str, list[dict[str, Any]]] = {placement: [] for placement in places}
    for share in SHARES:
        for placement, ports in places.items():
            turns = [both(ports, requests, rates, share, seed) for seed in range(rounds)]
            row = {name: joined([turn[name] for turn in turns], bounds[name]) for name in bounds}
            together[placement].append({"share": share, **row})
            print(placement, share, {name: (each["p99_ms"], each["failed"]) for name, each in row.items()}, flush=True)
    kept = {placement: highest(rows, bounds) for placement, rows in together.items()}
    found = {"machine": machine(1), "n": rounds, "bounds_ms": bounds, "alone": alone, "together": together}
    found |= {"highest_share_that_keeps_both": kept, "memory_mb": memory(), "first_port": first}
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({"alone": rates, "kept": kept, "memory_mb": found["memory_mb"]}, indent=2))


def highest(rows: list[dict[str, Any]], bounds: dict[str, float]) -> float:
    """Return the highest share that keeps every bound, as each lower one does; 0 where none does."""
    kept = itertools.takewhile(lambda row: all(row[name]["kept"] for name in bounds), rows)
    return max((float(row["share"]) for row in kept), default=0.0)


def port(replica: Any) -> int:
    """Return a replica's HTTP port."""
    return int(str(replica.http).rpartition(":")[2])


def request(pipeline: str) -> bytes:
    """Return a request of one prepared tensor."""
    spec = json.loads(Path("data/prepare", pipeline, "spec.json").read_text())
    x = np.random.default_rng(0).standard_normal((1, *spec["shape"])).astype(np.float32)
    key = tokens.key(tokens.own())
    return clients.post(f"/v2/models/{pipeline}_tensor/infer", *peers.binary(x, key))


def best(name: str, asked: bytes, bound_ms: float, at: int, rounds: int) -> dict[str, Any]:
    """Return the highest rate that keeps the bound, median of the rounds."""
    found = [clients.highest(at, asked, bound_ms, SECONDS / 2) for _ in range(rounds)]
    rates = [each.get("requests_per_s", 0.0) for each in found]
    print(f"{name} alone: {median(rates):g}/s of {rates}", flush=True)
    return {"requests_per_s": median(rates), "all": rates, "p99_ms": median(e.get("p99_ms", np.inf) for e in found)}


def both(
    ports: dict[str, int], requests: dict[str, bytes], rates: dict[str, float], share: float, seed: int
) -> dict[str, Any]:
    """Send to both at once, each at a share of its rate, from a process each; return what each saw."""
    with ProcessPoolExecutor(len(ports)) as pool:
        runs = {
            name: pool.submit(clients.open_loop, ports[name], requests[name], share * rates[name], SECONDS, seed)
            for name in ports
        }
        return {name: run.result() for name, run in runs.items()}


def joined(tallies: list[Any], bound_ms: float) -> dict[str, Any]:
    """Return the p99 of all rounds together, and whether it keeps the bound with no failure."""
    seconds = [each for tally in tallies for each in tally.seconds]
    failed = sum(len(tally.failures) for tally in tallies)
    p99 = round(float(np.percentile(seconds or [np.inf], 99)) * 1e3, 2)
    return {"p99_ms": p99, "n": len(seconds), "failed": failed, "kept": p99 <= bound_ms and not failed}


def memory() -> dict[str, float]:
    """Return the memory of each model's processes, all replicas together, in MB (unique set size)."""
    found: dict[str, float] = {}
    for model, process, _ in sentinel.models(replicas.replicas()):
        found[model] = round(found.get(model, 0.0) + process.memory_full_info().uss / 1e6, 1)
    return found


if __name__ == "__main__":
    os.chdir(ROOT)
    words = [word for word in sys.argv[1:] if "=" in word]
    others = [word for word in sys.argv[1:] if "=" not in word]
    main({name: float(bound) for name, _, bound in (word.partition("=") for word in words)}, int((others or ["3"])[0]))
