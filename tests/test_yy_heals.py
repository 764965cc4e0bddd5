"""The supervisor and the door: whatever dies or hangs, clients are answered, and all replicas are soon back."""

import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.conftest import Miniature
from tests.traffic import Traffic


def servers(system: Miniature) -> list[psutil.Process]:
    """Return the living processes of the copy's Tritons, by their ports."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(system.folder) and "/tritonserver " in words and "explicit" in words:
            found[words.partition("--http-port=")[2].split()[0]] = process
    return [found[port] for port in sorted(found)]


def answers(system: Miniature, replica: int) -> bool:
    """Ask a replica for a real inference."""
    x = np.zeros((1, 1, 28, 28), np.float32)
    asked = triton.InferInput("input", x.shape, "FP32").set_data_from_numpy(x)
    port = int(system.environment["ENGINEWORKS_TRITON_PORT"]) + 10 * replica + 1
    try:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            client.infer("fashion_tensor", [asked], client_timeout=2)
    except InferenceServerException:
        return False
    return True


def kill_stub(server: psutil.Process) -> None:
    """Kill the process that runs the live engine."""
    stub = next(each for each in server.children(recursive=True) if "fashion_engine" in " ".join(each.cmdline()))
    stub.send_signal(signal.SIGKILL)


def kill_server(server: psutil.Process) -> None:
    server.send_signal(signal.SIGKILL)


def stop_server(server: psutil.Process) -> None:
    """It hangs: alive, and silent."""
    server.send_signal(signal.SIGSTOP)


@pytest.fixture
def traffic(ran: Miniature) -> Iterator[list[Traffic]]:
    """Ask through the door over HTTP and over gRPC for as long as a test lasts."""
    clients = [Traffic(ran, kind) for kind in ("http", "grpc")]
    for client in clients:
        client.start()
    yield clients
    for client in clients:
        client.end()


@pytest.mark.parametrize(
    ("harm", "within_s"),
    [
        (kill_stub, 10),
        (kill_server, 30),
        pytest.param(stop_server, 60, marks=pytest.mark.slow),
    ],
    ids=["stub killed", "server killed", "server hangs"],
)
def test_a_replica_heals_by_itself_and_clients_are_answered_meanwhile(
    ran: Miniature, traffic: list[Traffic], harm: Callable[[psutil.Process], Any], within_s: float
) -> None:
    assert answers(ran, 0) and answers(ran, 1)
    time.sleep(3)  # the supervisor has seen it well, too
    harm(servers(ran)[0])
    begun = time.monotonic()
    assert not answers(ran, 0), "it did harm"
    while not answers(ran, 0):
        assert time.monotonic() - begun < within_s, (ran.folder / ".state/logs/supervisor.log").read_text()[-2000:]
        time.sleep(0.1)
    for client in traffic:
        client.end()
        assert client.answered > 100 and client.errors == [], client.errors[:3]


def test_a_killed_door_opens_again(ran: Miniature) -> None:
    client = Traffic(ran, "http")
    client.ask()
    master = int((ran.folder / ".state/door/nginx.pid").read_text())
    psutil.Process(master).kill()  # its workers live on and hold the ports
    begun = time.monotonic()
    while (now := int((ran.folder / ".state/door/nginx.pid").read_text())) == master or not psutil.pid_exists(now):
        assert time.monotonic() - begun < 20, (ran.folder / ".state/logs/supervisor.log").read_text()[-2000:]
        time.sleep(0.1)
    client.patient_ask(10)


def test_requests_are_shared_evenly_also_by_clients_that_keep_their_connection(
    ran: Miniature, traffic: list[Traffic]
) -> None:
    """Counted by the servers themselves."""
    before = [executed(ran, replica) for replica in (0, 1)]
    while min(client.answered for client in traffic) < 1000:
        assert not any(client.errors for client in traffic)
        time.sleep(0.1)
    first, second = (executed(ran, replica) - count for replica, count in enumerate(before))
    assert first + second >= 2000 and 0.9 < first / second < 1.1, (first, second)


def executed(system: Miniature, replica: int) -> int:
    """Return how many requests a replica has answered."""
    import urllib.request

    port = int(system.environment["ENGINEWORKS_TRITON_PORT"]) + 10 * replica + 2
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    name = 'nv_inference_request_success{model="fashion_tensor"'
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(name)))
