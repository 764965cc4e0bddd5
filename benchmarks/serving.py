"""What serving costs and holds, in one run: overhead, other servers, MLPerf LoadGen, deploys and kills under load.

    python benchmarks/serving.py [ROUNDS] [--parts overhead peers mlperf outages]

Needs a deployed pipeline (make run) whose servers are up (make up). Writes benchmarks/results/serving.json, part by
part; outages run in a miniature copy and write a file of their own.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import overhead, peers  # noqa: E402
from flows import addresses, door, receipt, repository, tokens  # noqa: E402
from flows.serving import MODELS  # noqa: E402
from tasks.measure import machine  # noqa: E402

PIPELINE, BOUND_MS = "fashion", 25.0
RESULTS = ROOT / "benchmarks/results/serving.json"


def main(rounds: int, parts: list[str]) -> None:
    """Measure the parts that are asked for."""
    os.chdir(ROOT)
    addresses.adopt()
    left = receipt.read(PIPELINE)
    if left is None:
        raise SystemExit(f"{PIPELINE} is not deployed; run: make run")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found |= {"engine": left["engine"], "bound_p99_ms": BOUND_MS}
    with unlimited():
        measure(rounds, parts, found)


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lift the door's limit of requests a second for the while: what the servers can do is asked."""
    known = door.knobs
    door.knobs = lambda: known().model_copy(update={"max_requests_per_s": 1_000_000})
    try:
        door.admit(tokens.FIRST, tokens.REALTIME)
        yield
    finally:
        door.knobs = known
        door.admit(tokens.FIRST, tokens.REALTIME)


def measure(rounds: int, parts: list[str], found: dict[str, Any]) -> None:
    """Measure the parts one after the other and keep what each gives."""
    for name in parts:
        print(name, flush=True)
        found[name] = {"machine": machine(1), "load_before": os.getloadavg()[0], "rows": PARTS[name](rounds)}
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def served_and_not(rounds: int) -> Any:
    """Compare engines in this process with the same behind Triton."""
    return overhead.resnet(rounds) + overhead.small(PIPELINE, rounds)


def beside_others(rounds: int) -> Any:
    """Compare with other servers of the live engine."""
    folder = MODELS / repository.names(PIPELINE, repository.live_version(PIPELINE))[1] / "1"
    return peers.compare(PIPELINE, folder, BOUND_MS, rounds)


def mlperf(rounds: int) -> Any:
    """Run LoadGen's scenarios in its own environment."""
    shard = sorted(Path("data/prepare", PIPELINE).glob("test*.tar"))[0]
    command = [peers.python("loadgen"), "benchmarks/mlperf.py", addresses.address("GRPC"), PIPELINE, str(shard)]
    command += [str(tokens.KEYS), str(BOUND_MS), ".state/bench/mlperf"]
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def outages(rounds: int) -> Any:
    """Deploy, roll back and kill under load, in a copy; its results lie in a file of their own."""
    subprocess.run([sys.executable, "benchmarks/outages.py"], check=True)
    return "outages.json"


PARTS: dict[str, Callable[[int], Any]] = {
    "overhead": served_and_not,
    "peers": beside_others,
    "mlperf": mlperf,
    "outages": outages,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    main(given.rounds, given.parts)
