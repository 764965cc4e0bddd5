"""A killed server leaves children behind: they hold its ports, and must not keep it from coming up."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from flows import remains, services
from flows.services import Service
from tests.miniature import free_ports

SERVER = """
import os, socket, sys, time
heir = socket.create_server(("127.0.0.1", int(sys.argv[1])))
if os.fork():
    time.sleep(60)
time.sleep(61)
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A server of two processes, started, that share a port; its first process was killed."""
    monkeypatch.chdir(tmp_path)
    port = free_ports(1)[0]
    command = [sys.executable, "-c", SERVER, str(port)]
    found = Service("toy", lambda: command, "", (f"127.0.0.1:{port}",))
    services.start([found])
    until_taken(port)
    yield found
    services.stop()


def until_taken(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_first() -> psutil.Process:
    """Kill the server's first process; return the other one."""
    first = services.process("toy")
    assert first is not None
    deadline = time.monotonic() + 10
    while not (children := first.children()):
        assert time.monotonic() < deadline
    first.kill()
    first.wait()
    assert children[0].is_running()
    return children[0]


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_killed_server_starts_anew_though_its_child_holds_the_port(server: Service) -> None:
    heir = kill_first()
    assert services.start([server]) == ["toy"]
    assert ended(heir) and services.process("toy") is not None


def test_nothing_of_a_killed_server_outlives_a_stop(server: Service) -> None:
    heir = kill_first()
    assert services.stop() == []
    assert ended(heir) and not remains.is_noted("toy")


def test_a_number_that_another_process_has_by_now_is_nobody_of_ours(server: Service) -> None:
    mark = remains.mark("toy")
    assert len(remains.session(**mark)) == 2
    other = mark | {"created": mark["created"] - 100}
    assert remains.session(**other) == [] and remains.living(**other) is None


def test_two_who_start_a_server_at_once_leave_one(server: Service) -> None:
    services.stop()
    slow = Service(server.name, lambda: time.sleep(0.3) or server.command(), "", server.ports)
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(services.start, [[slow], [slow]]))
    assert sorted(found) == [[], ["toy"]]
