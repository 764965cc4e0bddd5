"""What the doctor sees of ports and servers: who listens, and who answers."""

import http.client
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping

from flows import addresses, receipt, services
from flows.finding import Finding
from flows.replicas import replicas

ANSWER_S = 1.0
OWNERS = {"HTTP": "door", "GRPC": "door", "METRICS": "supervisor", "TRITON": "triton-0"}  # else of the port's own name
THEIRS = {"PREFECT": "PREFECT_API_URL", "MLFLOW": "MLFLOW_TRACKING_URI"}  # with these set, ours is not started


def ports() -> list[Finding]:
    """Return each port: free, ours, not needed, wrong, or taken by another program."""
    numbers = {name: number(name) for name in addresses.PORTS}
    theirs = addresses.inherited() if numbers["PREFECT"] else {}
    return [port(name, numbers, theirs) for name in numbers]


def number(name: str) -> int | None:
    """Return a port, or None where its variable holds none."""
    try:
        return addresses.port(name)
    except ValueError:
        return None


def port(name: str, numbers: Mapping[str, int | None], theirs: Mapping[str, str]) -> Finding:
    """Return the state of one port; its remedy names the variable that moves it."""
    label, variable, own = name.lower(), addresses.variable(name), numbers[name]
    remedy = f"set {variable} to a free port"
    if own is None:
        value = f"{variable} is '{os.environ[variable]}', not a port"
        return Finding("ports", label, "problem", value, f"{remedy}, or unset it")
    twins = [other.lower() for other, its in numbers.items() if its == own and other != name]
    if twins:
        return Finding("ports", label, "problem", f"{own}, the port of {' and '.join(twins)}, too", remedy)
    if THEIRS.get(name) in theirs:
        return Finding("ports", label, "ok", f"{own}, not needed: {THEIRS[name]} is set")
    if free(name):
        return Finding("ports", label, "ok", f"{own}, free")
    if services.process(OWNERS.get(name, label)):
        return Finding("ports", label, "ok", f"{own}, ours")
    return Finding("ports", label, "problem", f"{own}, taken by another program", remedy)


def free(name: str) -> bool:
    """Tell whether nobody listens on a port."""
    try:
        services.refuse_taken(name)
    except ValueError:
        return False
    return True


def servers() -> list[Finding]:
    """Return each server, up or down, and each deployed pipeline while Triton is up: whether it answers."""
    every = services.known()
    pids = {each.name: process.pid for each in every if (process := services.process(each.name))}
    first = replicas()[0]
    receipts = {path.stem: json.loads(path.read_text()) for path in receipt.FOLDER.glob("*.json") if first.name in pids}
    models = f"http://{first.http}/v2/models"
    ready = {name: f"{models}/{name}/ready" for name in sorted(receipts)}
    heard = answering([*(each.health for each in every if each.name in pids and each.health), *ready.values()])
    theirs = [name for name, variable in THEIRS.items() if variable in addresses.inherited()]
    return [
        *(Finding("servers", name.lower(), "ok", f"yours ({THEIRS[name]}), not asked") for name in theirs),
        *(server(each, pids.get(each.name), each.health in heard) for each in every),
        *(live(name, receipts[name], url in heard) for name, url in ready.items()),
    ]


def server(service: services.Service, pid: int | None, heard: bool) -> Finding:
    """Return the state of a server; one without an address has nothing to answer."""
    if pid is None:
        return Finding("servers", service.name, "note", "down", "make up")
    if heard or not service.health:
        return Finding("servers", service.name, "ok", f"{'answers' if heard else 'up'} (process {pid})")
    remedy = f"if it has not just started: make down; make up ({services.LOGS / service.name}.log says more)"
    return Finding("servers", service.name, "problem", f"up (process {pid}), no answer within {ANSWER_S:.0f} s", remedy)


def live(pipeline: str, receipt: Mapping[str, object], heard: bool) -> Finding:
    """Return whether a deployed pipeline answers."""
    what = f"{receipt['engine']}, version {receipt['version']}"
    if heard:
        return Finding("servers", f"live {pipeline}", "ok", f"{what}, ready")
    return Finding("servers", f"live {pipeline}", "problem", f"{what}, not ready", f"make run PIPELINE={pipeline}")


def answering(urls: Iterable[str]) -> set[str]:
    """Return the addresses that answer 200 within a second, asked all at once; one that hangs is left behind."""
    heard: set[str] = set()

    def ask(url: str) -> None:
        try:
            if services.answers(url):
                heard.add(url)
        except http.client.HTTPException:
            return  # what speaks, but not HTTP, does not answer

    threads = [threading.Thread(target=ask, args=(url,), daemon=True) for url in urls]
    deadline = time.monotonic() + ANSWER_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(heard)
