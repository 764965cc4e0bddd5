"""The sandbox: a server of its own in which a package proves itself before the live server hears of it."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

from flows import hidden, live, remains, serving
from flows.addresses import HOST
from flows.replicas import Replica
from flows.services import LOGS, end

START_TIMEOUT_S = 60.0
BROKEN = ("failed to load '", "terminate called")  # a model that fails, and one whose Python dies without a word
CALLS = 100  # at batch 1, for the latency


@contextlib.contextmanager
def sandbox(
    repository: Path, pipeline: str, port: int = 0, name: str = "sandbox", nice: int = 0
) -> Iterator[live.Served]:
    """Serve a packaged repository alone, on this port or else a free one, and end that server whatever happens.

    The higher `nice`, the more it lets the live servers go first.

    `ValueError` with the server's last words where it does not come up, or not within its time.
    """
    import psutil

    port = port or free_port()
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{name}.log"
    remains.clear(name)  # of one whose deploy was killed
    with log.open("wb") as words:
        child = hidden.start(
            serving.alone(repository, port, name), serving.restrictions(), serving.environment(), words
        )
    remains.note(name, child.pid)
    try:
        # now, before it has threads and children: they inherit it
        os.setpriority(os.PRIO_PROCESS, child.pid, os.getpriority(os.PRIO_PROCESS, 0) + nice)
        client = Replica(name, "", f"{HOST}:{port}", "").client()
        await_ready(client, child, log, pipeline)
        yield live.Served(client, pipeline)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            end([psutil.Process(child.pid)])
        child.wait()
        remains.clear(name)


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def await_ready(client: Any, child: subprocess.Popen[bytes], log: Path, pipeline: str) -> None:
    """Wait until the sandbox answers for a pipeline; `ValueError` says what keeps it."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(InferenceServerException):
            if client.is_model_ready(pipeline, client_timeout=2):
                return
        broken = any(words in log.read_text(errors="replace") for words in BROKEN)
        if broken or child.poll() is not None or time.monotonic() > deadline:
            late = f"did not answer within {START_TIMEOUT_S:.0f} s"
            why = "can't load it" if broken else late if child.poll() is None else "ended"
            raise ValueError(f"the sandbox {why}: {complaint(log)} (all of it: {log})")
        time.sleep(0.1)


def complaint(log: Path) -> str:
    """Return the server's own words on what went wrong: its first failure, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    failures = [line.partition("] ")[2].strip() or line for line in lines if "ailed to " in line]
    return (failures or lines[-1:] or ["it said nothing"])[0][:400]


def latency(served: live.Served, sample: bytes) -> dict[str, float]:
    """Return p50 and p99 (ms) of single samples, one after the other, through the whole chain."""
    name = served.client.get_model_config(served.pipeline).config.input[0].name
    taken = []
    for _ in range(CALLS):
        begun = time.perf_counter()
        served.classify([sample], name)
        taken.append(time.perf_counter() - begun)
    p50, p99 = (round(float(value) * 1e3, 3) for value in np.percentile(taken, [50, 99]))
    return {"p50_ms": p50, "p99_ms": p99, "calls": CALLS}
