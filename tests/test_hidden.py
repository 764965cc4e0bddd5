"""Programs started with arguments that nobody else may read."""

import os
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from flows import hidden

SAY = [sys.executable, "-c", "import sys, time; print(sys.argv[1:], flush=True); time.sleep(float(sys.argv[1]))"]


def test_the_program_gets_its_secrets_and_its_command_line_shows_none(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        child = hidden.start([*SAY, "20"], ["--key=abc", "--other=def"], os.environ, log)
    try:
        while not (tmp_path / "log").read_text().endswith("\n"):
            assert child.poll() is None
        assert (tmp_path / "log").read_text() == "['20', '--key=abc', '--other=def']\n"
        shown = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert b"abc" not in shown and b"def" not in shown and shown.startswith(sys.executable.encode())
        assert os.getsid(child.pid) == child.pid, "a session of its own"
    finally:
        child.kill()
        child.wait()


def test_what_can_not_be_started_is_said_with_its_name(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, pytest.raises(OSError, match=r"/no/such/program: can't be started"):
        hidden.start(["/no/such/program"], ["--key=abc"], os.environ, log)
    assert "No such file" in (tmp_path / "log").read_text() and "abc" not in (tmp_path / "log").read_text()


@pytest.fixture
def busy() -> Iterator[None]:
    """Have threads in and out of gRPC meanwhile."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    port, ended = server.add_insecure_port("127.0.0.1:0"), threading.Event()
    server.start()

    def call() -> None:
        while not ended.is_set():
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                try:
                    channel.unary_unary("/no/method")(b"", timeout=1)
                except grpc.RpcError:
                    continue

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    ended.set()
    for thread in threads:
        thread.join()
    server.stop(None)


@pytest.mark.usefixtures("busy")
def test_threads_of_grpc_in_the_parent_crash_no_child() -> None:
    """Code that ran between fork and exec crashed there, once in 20 starts."""
    with Path(os.devnull).open("wb") as nowhere:
        for _ in range(100):
            child = hidden.start(["/bin/sleep"], ["20"], os.environ, nowhere)
            child.kill()
            child.wait()
