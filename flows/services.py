"""The servers a run needs, started detached and stopped by id: Prefect, MLflow's UI, Triton and what is around it."""

import contextlib
import fcntl
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows import addresses, consoles, door, hidden, remains, serving
from flows.remains import PIDS
from flows.replicas import Replica, replicas
from tasks import settings

LOGS = settings.STATE / "logs"
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 20.0
SUPERVISOR = "supervisor"
FIRST = ("worker", SUPERVISOR)  # to be stopped
REVIVED = ("prefect", "mlflow", "worker")  # that the supervisor starts anew where their process is gone


@dataclass(frozen=True)
class Service:
    """How to start a server and how to see that it is up."""

    name: str
    command: Callable[[], list[str]]
    health: str  # address that answers 200 once it is up; empty for a process without one
    ports: tuple[str, ...] = ()
    environment: Callable[[], dict[str, str]] = field(default=lambda: dict(os.environ))
    secrets: Callable[[], list[str]] = list  # more arguments, which no list of processes may show


def known() -> list[Service]:
    """Return the services in the order of their start; those that the caller already has are left out."""
    inherited = addresses.inherited()
    names = ("PREFECT", "MLFLOW", "HTTP", "METRICS")
    prefect, mlflow, public, metrics = (f"http://{addresses.address(name)}" for name in names)
    every = [
        Service("prefect", consoles.prefect, f"{prefect}/api/health", ("PREFECT",)),
        Service("mlflow", consoles.mlflow, f"{mlflow}/health", ("MLFLOW",), consoles.mlflow_environment),
        *(server(replica) for replica in replicas()),
        Service("door", door.command, f"{public}/v2/health/live", ("HTTP", "GRPC")),
        Service(SUPERVISOR, lambda: [sys.executable, "-m", "flows.supervisor"], f"{metrics}/metrics", ("METRICS",)),
        Service("worker", lambda: [sys.executable, "-m", "flows.worker"], ""),
    ]
    theirs = {"PREFECT_API_URL": "prefect", "MLFLOW_TRACKING_URI": "mlflow"}
    return [service for service in every if service.name not in {theirs[name] for name in inherited}]


def server(replica: Replica) -> Service:
    """Return how to start one of the servers behind the door."""
    return Service(
        replica.name,
        lambda: serving.command(replica),
        f"http://{replica.http}/v2/health/live",
        (replica.http, replica.grpc, replica.metrics),
        serving.observing,
        serving.restrictions,
    )


def start(services: Iterable[Service]) -> list[str]:
    """Start what is not running, without waiting; return the names started. A taken port is a `ValueError`."""
    with one_starter():
        due = [service for service in services if process(service.name) is None]
        for service in due:
            end_remains(service)
            for name in service.ports:
                refuse_taken(name)
        for service in due:
            spawn(service)
    return [service.name for service in due]


def revive() -> list[str]:
    """Start the supervisor anew where it was killed: it looks after the others, and nobody after it; say so."""
    dead = remains.is_noted(SUPERVISOR) and process(SUPERVISOR) is None
    started = start(each for each in known() if each.name == SUPERVISOR) if dead else []
    return [f"{name}: started anew" for name in started]


@contextlib.contextmanager
def one_starter() -> Iterator[None]:
    """Keep a run and the supervisor from starting the same server while the body runs: one would be nobody's."""
    PIDS.mkdir(parents=True, exist_ok=True)
    with (PIDS / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def refuse_taken(name: str) -> None:
    """Raise `ValueError` where somebody else listens on a port, given by its name or, of a replica, its address."""
    known = name in addresses.PORTS
    host, _, port = (addresses.address(name) if known else name).rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            variable = addresses.variable(name if known else "TRITON")
            raise ValueError(f"port {port} is taken by another program; set {variable} to a free one") from None


def spawn(service: Service) -> None:
    """Start a process of its own session, its streams in a file, so that it outlives us and any pipe."""
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"{service.name}.log").open("ab") as log:
        child = hidden.start(service.command(), service.secrets(), service.environment(), log)
    remains.note(service.name, child.pid)


def process(name: str) -> psutil.Process | None:
    """Return a service's living process."""
    return remains.living(**remains.mark(name)) if remains.is_noted(name) else None


def end_remains(service: Service) -> None:
    """End what is alive of a server, which would hold its ports; runs that a killed worker started go on."""
    if service.ports:
        remains.end_left(service.name)


def install() -> None:
    """Leave the servers that pip does not bring in .state/serving."""
    serving.install()
    door.install()


def wait(services: Iterable[Service]) -> None:
    """Wait until each service answers; `ValueError` with its last words where one does not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    for service in services:
        while service.health and not answers(service.health):
            if process(service.name) is None or time.monotonic() > deadline:
                log = LOGS / f"{service.name}.log"
                last = log.read_text(errors="replace").strip().splitlines()[-3:]
                raise ValueError(f"{service.name} does not come up; {log} ends with:\n" + "\n".join(last))
            time.sleep(0.2)


def answers(url: str, timeout_s: float = 2) -> bool:
    """Tell whether an address answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def stop() -> list[str]:
    """Stop every service we started and wait for its end; return the names.

    The worker goes first, with the runs it started, and the supervisor, which would restart Triton.
    """
    names = [path.stem for path in sorted(PIDS.glob("*.json"))]
    stopped: list[str] = []
    for group in ([name for name in names if name in FIRST], [name for name in names if name not in FIRST]):
        alive = {name: each for name in group if (each := process(name)) is not None}
        spared = [each for name in names if name not in group and (each := process(name)) is not None]
        end(list(alive.values()), spared)
        stopped += alive
    for name in names:
        remains.clear(name)  # also of one that was killed
    return sorted(stopped)


def end(processes: list[psutil.Process], spared: Iterable[psutil.Process] = ()) -> None:
    """Ask processes and their children to end, then end them; a server that the supervisor started has its own turn."""
    others = {each for parent in spared for each in (parent, *parent.children(recursive=True))}
    families = [each for one in processes for each in (one, *one.children(recursive=True)) if each not in others]
    for parent in processes:
        parent.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(families, timeout=STOP_TIMEOUT_S)
    for each in left:
        each.kill()
    psutil.wait_procs(left, timeout=5)


def log_file(name: str) -> Path:
    """Return where a stage's or a service's noise goes."""
    LOGS.mkdir(parents=True, exist_ok=True)
    return LOGS / f"{name}.log"
