"""The same engine behind other servers: how many requests a second does each answer within one bound of p99?

Ours is asked through its door (key, limits, two replicas) and at one replica directly; the others as their
documentation shows, one worker, batching at the better of two settings. Each takes a prepared tensor a request, in the
leanest form that it knows over HTTP, from the same client; the live system stays up meanwhile, with its own work.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import clients
from flows import addresses, tokens
from tasks import settings

HERE = Path(__file__).parent
PORT = 8391
START_S = 120.0
TRIAL_S = 2.0
QUIET = {"OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "BENTOML_DO_NOT_TRACK": "True"}


@dataclass(frozen=True, eq=False)
class Peer:
    """A server in one of its settings: what starts it (nothing: it is up), its port, and what it is asked."""

    name: str
    setting: str
    command: list[str]
    port: int
    request: bytes
    environment: dict[str, str]


def compare(pipeline: str, folder: Path, bound_ms: float, rounds: int) -> list[dict[str, Any]]:
    """Return a row per server: requests a second within the bound, median of the rounds; servers take turns.

    `folder` is the live engine's: engine, backend and spec.json. Of two settings the better in the first round stays.
    """
    found = peers(pipeline, folder, bound_ms)
    rates: dict[Peer, list[dict[str, Any]]] = {peer: [] for peer in found}
    for turn in range(rounds):
        for peer in found:
            with running(peer):
                rates[peer].append(clients.highest(peer.port, peer.request, bound_ms, TRIAL_S))
            print(f"  {turn + 1}/{rounds} {peer.name}: {rates[peer][-1].get('requests_per_s', 0):g}/s", flush=True)
        best = {peer.name: max(found, key=lambda each: score(each, peer.name, rates)) for peer in found}
        found = list(best.values())
    return [row(peer, rates[peer]) for peer in found]


def score(peer: Peer, name: str, rates: dict[Peer, list[dict[str, Any]]]) -> float:
    """Return how well a setting of the server `name` did last, -1 for another server."""
    return rates[peer][-1].get("requests_per_s", 0.0) if peer.name == name else -1.0


def row(peer: Peer, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a server's line: median and spread of the highest rates, and the p50 and p99 it had there."""
    rates = [each.get("requests_per_s", 0.0) for each in rows]
    times = {name: median(each.get(name, float("inf")) for each in rows) for name in ("p50_ms", "p99_ms")}
    return {
        "server": peer.name,
        "setting": peer.setting,
        "requests_per_s": median(rates),
        "low": min(rates),
        "high": max(rates),
        "n": len(rates),
        **times,
    }


def peers(pipeline: str, folder: Path, bound_ms: float) -> list[Peer]:
    """Return every server in every setting, ours first."""
    shape = json.loads((folder / "spec.json").read_text())["shape"]
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    key, path = tokens.key(tokens.own()), f"/v2/models/{pipeline}_tensor/infer"
    own = clients.post(path, *binary(x, key))
    found = [
        Peer("Engineworks, through its door", "two replicas", [], addresses.port("HTTP"), own, {}),
        Peer("Engineworks, one replica alone", "", [], addresses.port("TRITON"), own, {}),
        mlflow(pipeline, x),
    ]
    found += [litserve(folder, x, wait_s) for wait_s in ("0.0", "0.002")]
    return found + [bentoml(folder, x, latency) for latency in (str(int(bound_ms)), "1000")]


def binary(x: Any, key: str) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a tensor in Triton's binary form, the answer asked for as JSON."""
    size = {"parameters": {"binary_data_size": x.nbytes}}
    asked = {"inputs": [{"name": "input", "shape": list(x.shape), "datatype": "FP32", **size}]}
    head = json.dumps(asked).encode()
    return head + x.tobytes(), {"Inference-Header-Content-Length": str(len(head)), "Authorization": f"Bearer {key}"}


def mlflow(pipeline: str, x: Any) -> Peer:
    """MLflow's own server of the registered champion."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{pipeline}@champion"]
    command += ["--env-manager", "local", "--host", addresses.HOST, "--port", str(PORT)]
    request = as_json("/invocations", {"inputs": {"input": x.tolist()}})
    return Peer("mlflow models serve", "", command, PORT, request, {"MLFLOW_TRACKING_URI": settings.tracking_uri()})


def litserve(folder: Path, x: Any, wait_s: str) -> Peer:
    """LitServe with batches of up to 64, and a time to wait for one to fill."""
    command = [python("litserve"), str(HERE / "apps/litserve_app.py"), str(folder), str(PORT), wait_s]
    request = as_json("/predict", {"input": base64.b64encode(x.tobytes()).decode()})
    return Peer("LitServe", f"batch_timeout={wait_s}", command, PORT, request, {})


def bentoml(folder: Path, x: Any, latency_ms: str) -> Peer:
    """BentoML with adaptive batches of up to 64."""
    command = [python("bentoml"), "-m", "bentoml", "serve", "bentoml_app:Classifier", "--host", addresses.HOST]
    command += ["--port", str(PORT), "--working-dir", str(HERE / "apps")]
    named = {"ENGINE_FOLDER": str(folder.resolve()), "MAX_LATENCY_MS": latency_ms}
    return Peer(
        "BentoML", f"max_latency_ms={latency_ms}", command, PORT, as_json("/predict", {"input": x.tolist()}), named
    )


def as_json(path: str, body: dict[str, Any]) -> bytes:
    """Return a request with a JSON body."""
    return clients.post(path, json.dumps(body).encode(), {"Content-Type": "application/json"})


def python(name: str) -> str:
    """Return the Python of a peer's own environment, made from its lock where it is not there."""
    folder = Path(".state/bench", name).absolute()
    lock = HERE / "apps" / f"{name}.lock"
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != lock.read_text():
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), "-r", str(lock)]
        subprocess.run(install, check=True)
        stamp.write_text(lock.read_text())
    return str(folder / "bin/python")


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[None]:
    """Have a server up, warm and answering right, and end it and its children."""
    if not peer.command:
        yield
        return
    log = Path(".state/logs/peer.log")
    with log.open("wb") as words:
        environment = os.environ | QUIET | peer.environment
        child = subprocess.Popen(
            peer.command, env=environment, stdout=words, stderr=words, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        await_answer(peer, child, log)
        clients.closed_loop(peer.port, peer.request, 4, 2.0)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
            time.sleep(1)
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def await_answer(peer: Peer, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server classifies; `RuntimeError` with its last words where it does not."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and child.poll() is None:
        with contextlib.suppress(OSError):
            if clients.closed_loop(peer.port, peer.request, 1, 0.1).seconds:
                return
        time.sleep(0.5)
    raise RuntimeError(f"{peer.name} gives no answer: {log.read_text(errors='replace')[-2000:]}")
