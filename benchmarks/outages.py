"""Deploys, rollbacks and kills under 100 requests a second: what fails, what is late, how soon all is well again.

    python benchmarks/outages.py [DEPLOYS] [KILLS]

In a miniature copy of the checkout: each deploy brings another package, a rollback follows; each kill is a SIGKILL of a
server or of a process that runs a model, drawn at random. Writes benchmarks/results/outages.json.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, os.environ.get("ENGINEWORKS_COPY", str(ROOT)))

RATE, PIPELINE, HEAL_S = 100.0, "fashion", 60.0
PACKAGES = 3  # the live one and two that take turns: a package that was rolled back is not deployed again at once
RESULTS = ROOT / "benchmarks/results/outages.json"


def main(deploys: int, kills: int) -> None:
    """Make the copy, run this file inside it, and keep what it prints last."""
    from tests import miniature

    with tempfile.TemporaryDirectory() as name:
        copy = Path(name, "copy")
        copy.mkdir()
        miniature.copy(copy)
        environment = miniature.environment(copy) | {"ENGINEWORKS_COPY": str(copy)}
        try:
            subprocess.run(["make", "run"], cwd=copy, env=environment, check=True, stdin=subprocess.DEVNULL)
            packages(copy, environment)
            command = [str(copy / ".venv/bin/python"), "-W", "ignore", str(ROOT / "benchmarks/outages.py"), "inside"]
            done = subprocess.run([*command, str(deploys), str(kills)], cwd=copy, env=environment)
            if done.returncode == 0:
                shutil.copyfile(copy / "outages.json", RESULTS)
        finally:
            subprocess.run(["make", "down"], cwd=copy, env=environment)
    print(RESULTS.read_text())


def packages(copy: Path, environment: dict[str, str]) -> None:
    """Leave packages that differ in a knob, beside the live one."""
    import yaml

    content = yaml.safe_load((copy / "params.yaml").read_text())
    for number in range(PACKAGES):
        content["pipelines"][PIPELINE]["package"]["max_queue_delay_us"] = number
        (copy / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        line = f"source .venv/bin/activate; dvc repro --quiet record@{PIPELINE}"
        subprocess.run(["bash", "-c", line], cwd=copy, env=environment, check=True)
        shutil.copytree(copy / "models/package" / PIPELINE, copy / f"package-{number}")


def inside(deploys: int, kills: int) -> None:
    """Measure quiet, then deploys and rollbacks, then kills; write what came of it."""
    from flows import addresses

    addresses.adopt()
    from tasks.measure import machine

    found: dict[str, Any] = {"machine": machine(1), "requests_per_s": RATE, "quiet": watched(quiet)}
    found["deploys"] = watched(lambda: replaced(deploys))
    found["deploys"]["worst_added_ms"] = round(found["deploys"]["max_ms"] - found["quiet"]["p50_ms"], 1)
    found["kills"] = watched(lambda: healed(kills))
    Path("outages.json").write_text(json.dumps(found, indent=2) + "\n")


def quiet() -> dict[str, Any]:
    """Let the load run alone."""
    time.sleep(30)
    return {}


def watched(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do something under load; return what it returns with what the clients saw."""
    client = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(ROOT / "benchmarks/outages.py"), "load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    time.sleep(3)
    facts = work()
    seen, _ = client.communicate("\n")
    return facts | json.loads(seen)


def load() -> None:
    """Ask through the door until standard input ends, half over HTTP, half over gRPC; print what came back."""
    import asyncio

    from benchmarks import clients, peers
    from flows import addresses, tokens

    key, ending = tokens.key(tokens.own()), threading.Event()
    x = np.zeros((1, 1, 28, 28), np.float32)
    rpc = clients.Tally()
    threads = [
        threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True),
        threading.Thread(target=over_grpc, args=(addresses.address("GRPC"), key, x, ending, rpc)),
    ]
    for thread in threads:
        thread.start()
    request = clients.post(f"/v2/models/{PIPELINE}_tensor/infer", *peers.binary(x, key))
    http = asyncio.run(clients.arrive(addresses.port("HTTP"), request, RATE / 2, lambda _: ending.is_set(), 1))
    threads[1].join()
    both = clients.Tally(http.seconds + rpc.seconds, http.failures + rpc.failures, http.late + rpc.late, http.took_s)
    print(json.dumps(both.row() | {"failures": Counter(both.failures)}))


def over_grpc(address: str, key: str, x: Any, ending: threading.Event, tally: Any) -> None:
    """Send at even times whatever comes back; latency counts from the time a request was due."""
    import tritonclient.grpc as triton

    asked = triton.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)
    with triton.InferenceServerClient(address) as client:
        due = time.perf_counter()
        while not ending.is_set():
            due += 2 / RATE
            time.sleep(max(0.0, due - time.perf_counter()))

            def done(result: Any, error: Any, due: float = due) -> None:
                if error:
                    tally.failures.append(str(error)[:100])
                else:
                    tally.seconds.append(time.perf_counter() - due)

            header = {"authorization": f"Bearer {key}"}
            client.async_infer(f"{PIPELINE}_tensor", [asked], done, headers=header, client_timeout=30)
        time.sleep(2)


def replaced(count: int) -> dict[str, Any]:
    """Deploy another package and roll back to the one before, again and again; return how long each took."""
    from flows import deploy, receipt, rollback

    live = Path("models/package", PIPELINE)
    first = receipt.read(PIPELINE)
    assert first is not None
    times: dict[str, list[float]] = {"deploy": [], "rollback": []}
    for number in range(count):
        other = 1 + number % (PACKAGES - 1)
        shutil.rmtree(live)
        shutil.copytree(f"package-{other}", live)
        for name, work in (("deploy", deploy.go_live), ("rollback", rollback.go_back)):
            begun = time.perf_counter()
            work(PIPELINE)
            times[name].append(time.perf_counter() - begun)
            print(f"{name} {number + 1} of {count}: {times[name][-1]:.1f} s", flush=True)
        now = receipt.read(PIPELINE)
        assert now is not None and now["sha256"] == first["sha256"], "the version before is live"
    return {f"{name}_s": spread(taken) for name, taken in times.items()}


def healed(count: int) -> dict[str, Any]:
    """Kill a process that serves, and wait until every replica answers; return how long each kind took."""
    draw, times = random.Random(0), dict[str, list[float]]()
    for number in range(count):
        kind, process = draw.choice(victims())
        process.send_signal(signal.SIGKILL)
        begun = time.perf_counter()
        process.wait(5)
        while not all_well():
            if time.perf_counter() - begun > HEAL_S:
                raise RuntimeError(f"not healed within {HEAL_S:.0f} s after the kill of: {kind}")
            time.sleep(0.05)
        times.setdefault(kind, []).append(time.perf_counter() - begun)
        print(f"kill {number + 1} of {count}: {kind}: {times[kind][-1]:.1f} s", flush=True)
        time.sleep(1)
    return {"healed_s": {kind: spread(taken) for kind, taken in times.items()}, "healed": count}


def victims() -> list[tuple[str, Any]]:
    """Return the processes that may be killed with what each is."""
    from flows import services
    from flows.replicas import replicas

    found = []
    for replica in replicas():
        server = services.process(replica.name)
        if server is None:
            continue
        found.append(("server", server))
        for child in server.children(recursive=True):
            words = " ".join(child.cmdline())
            found += [(name, child) for name in ("preprocess", "engine") if f"{PIPELINE}_{name}" in words]
    return found


def all_well() -> bool:
    """Tell whether every replica gives the canary's right answer."""
    from flows import metrics, supervisor
    from flows.replicas import replicas

    return not any(supervisor.complaints(replica, metrics.Seen()) for replica in replicas())


def spread(taken: list[float]) -> dict[str, float]:
    """Return median, p95, longest (s) and n."""
    p95 = float(np.percentile(taken, 95))
    return {"median": round(median(taken), 2), "p95": round(p95, 2), "max": round(max(taken), 2), "n": len(taken)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load()
    elif sys.argv[1:2] == ["inside"]:
        inside(*map(int, sys.argv[2:]))
    else:
        main(*map(int, sys.argv[1:] or (50, 100)))
