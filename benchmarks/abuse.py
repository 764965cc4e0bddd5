"""What do others notice while somebody abuses the door? A steady client's p99 alone and during each abuse, in turns.

    make run && python benchmarks/abuse.py [ROUNDS] [--out FILE]

The steady client asks 50 times a second over HTTP and as often over gRPC, each on time whatever the answers do (open
loop: latency counts from the moment a request was due), with a key of its own. The abuser has another key and does as
much as it can. Both would have machines of their own: the steady client runs at a high priority, so that what it waits
for are the servers, the abuser at the lowest. Writes benchmarks/results/abuse.json; the bound is twice the p99 alone.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path.cwd()))

from benchmarks import abuses  # noqa: E402
from flows import addresses, door, tokens  # noqa: E402
from tasks import target  # noqa: E402

RATE, PHASE_S, PAUSE_S, BOUND = 50, 5.0, 0.5, 2.0
STEADY, ABUSER = "steady", "abuser"


def main(rounds: int, out: str) -> None:
    """Run every abuse in turn, after a stretch without one, and write what the steady client saw."""
    for name in (STEADY, ABUSER):
        door.admit(name, tokens.REALTIME)
    time.sleep(1)
    seen: dict[str, dict[str, list[list[float]]]] = {}
    counts: dict[str, list[dict[str, int]]] = {}
    for _ in range(rounds):
        for name in abuses.ABUSES:
            turns = {"alone": phase(None), "during": phase(name)}
            for turn, (latencies, _) in turns.items():
                for protocol, found in latencies.items():
                    seen.setdefault(f"{name}/{protocol}", {}).setdefault(turn, []).append(found)
            counts.setdefault(name, []).append(turns["during"][1])
            print(name, {turn: {p: p99(each[p]) for p in each} for turn, (each, _) in turns.items()}, flush=True)
    write(out, seen, counts, rounds)


def phase(abuse: str | None) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the steady client's latencies in ms, and the abuser's answers by status, of one stretch."""
    command = [sys.executable, __file__]
    busy = [subprocess.Popen([*command, "abuse", abuse], stdout=subprocess.PIPE, text=True)] if abuse else []
    time.sleep(PAUSE_S)
    seen = json.loads(subprocess.run([*command, "steady"], stdout=subprocess.PIPE, check=True).stdout)
    counts = json.loads(busy[0].communicate()[0]) if busy else {}
    time.sleep(PAUSE_S)
    return seen, counts


def p99(latencies: list[float]) -> float:
    """Return the 99th percentile."""
    return round(float(np.percentile(latencies, 99)), 2)


def write(out: str, seen: dict[str, Any], counts: dict[str, Any], rounds: int) -> None:
    """Write a row per abuse and protocol: all stretches together, and how the ratio varies from round to round."""
    reference = {
        protocol: [
            each for key, row in seen.items() if key.endswith(protocol) for part in row["alone"] for each in part
        ]
        for protocol in ("http", "grpc")
    }
    rows = []
    for key, row in seen.items():
        abuse, _, protocol = key.rpartition("/")
        during = [each for part in row["during"] for each in part]
        alone = p99(reference[protocol])
        ratio = p99(during) / alone
        rows.append(
            {
                "abuse": abuse,
                "protocol": protocol,
                "n": len(during),
                "failed": sum(np.isinf(during).tolist()),
                "p50_ms": round(statistics.median(during), 2),
                "p99_ms": p99(during),
                "p99_alone_ms": alone,
                "ratio": round(ratio, 2),
                "within_bound": ratio <= BOUND,
                "abuser": counts[abuse],
            }
        )
    alone_rows = {
        name: {"n": len(all_), "p50_ms": round(statistics.median(all_), 2), "p99_ms": p99(all_)}
        for name, all_ in reference.items()
    }
    content = {
        "machine": target.cpu(),
        "rate": RATE,
        "phase_s": PHASE_S,
        "rounds": rounds,
        "bound": BOUND,
        "alone": alone_rows,
        "rows": rows,
    }
    (ROOT / "benchmarks/results" / out).write_text(json.dumps(content, indent=1) + "\n")
    print(f"{sum(row['within_bound'] for row in rows)} of {len(rows)} within {BOUND}x")


async def steady() -> dict[str, list[float]]:
    """Ask on time over both protocols; a request that fails counts as endless."""
    import tritonclient.grpc.aio as triton

    x, key = np.zeros((1, 1, 28, 28), np.float32), abuses.key(STEADY)
    given = triton.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)
    request = abuses.tensor_request(STEADY)
    idle: list[abuses.Line] = []

    async def http() -> None:
        line = idle.pop() if idle else await abuses.Line.open()
        assert await line.ask(request) == 200
        idle.append(line)

    async with triton.InferenceServerClient(addresses.address("GRPC")) as client:

        async def grpc() -> None:
            await client.infer("fashion_tensor", [given], headers={"authorization": key.partition(": ")[2]})

        await asyncio.gather(*(ask() for ask in (http, grpc) for _ in range(4)))
        http_ms, grpc_ms = await asyncio.gather(on_time(http), on_time(grpc))
    return {"http": http_ms, "grpc": grpc_ms}


async def on_time(ask: Any) -> list[float]:
    """Start a request whenever one is due; return each one's ms from then on."""
    begun = time.perf_counter() + 0.05

    async def one(due: float) -> float:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        try:
            await asyncio.wait_for(ask(), 20)
        except Exception as error:
            print(f"failed: {error!r}", file=sys.stderr)
            return float("inf")
        return 1000 * (time.perf_counter() - due)

    return list(await asyncio.gather(*(one(begun + i / RATE) for i in range(int(RATE * PHASE_S)))))


if __name__ == "__main__":
    if sys.argv[1:2] == ["steady"]:
        with contextlib.suppress(PermissionError):
            os.nice(-10)
        print(json.dumps(asyncio.run(steady())))
    elif sys.argv[1:2] == ["abuse"]:
        os.nice(19)
        print(json.dumps(asyncio.run(abuses.run(sys.argv[2], ABUSER, PHASE_S + 2 * PAUSE_S + 2))))
    else:
        parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("rounds", nargs="?", type=int, default=2)
        parser.add_argument("--out", default="abuse.json", help="a file in benchmarks/results")
        main(**vars(parser.parse_args()))
