"""The load generator against small real gRPC servers: its schedule, its honesty about stalls, what it counts."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flows import load

Answer = Callable[[int, Any], None]  # the number of a request, and its context


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers one request at a time, as a single instance does."""

    def __init__(self, work: Answer) -> None:
        self.work, self.turn, self.seen = work, threading.Lock(), list[Any]()

    def ModelInfer(self, request: Any, context: Any) -> Any:
        with self.turn:
            self.seen.append(request)
            self.work(len(self.seen), context)
        return service_pb2.ModelInferResponse(model_name=request.model_name)


@contextmanager
def serving(work: Answer) -> Iterator[tuple[Server, load.Target]]:
    """Serve on a free port of loopback."""
    with ThreadPoolExecutor(64) as pool:
        servicer, server = Server(work), grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield servicer, load.Target(f"127.0.0.1:{port}", load.messages("m", "image", [b"one", b"another"]))
        server.stop(None).wait()


def at_once(number: int, context: Any) -> None:
    """Do nothing."""


def test_the_schedule_is_poisson_and_that_of_its_seed() -> None:
    first, again, other = (list(load.arrivals(200, 20, seed)) for seed in (1, 1, 2))
    assert first == again != other
    gaps = [b - a for a, b in pairwise(first)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 200, rel=0.05) and spread == pytest.approx(mean, rel=0.1)
    assert len(list(load.arrivals(0.001, 1, 1))) == 1


def test_an_open_loop_keeps_its_schedule() -> None:
    with serving(at_once) as (server, target):
        found = load.open_loop(target, 100, 2, seed=3)
    assert found.sent == found.answered == len(server.seen) == len(list(load.arrivals(100, 2, 3)))
    assert found.achieved_per_s == pytest.approx(found.sent / 2, rel=0.1) and found.errors == {}
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= found.max_ms < 1000 and not found.stopped


def test_a_stall_is_felt_by_all_who_came_meanwhile() -> None:
    def stall_once(number: int, context: Any) -> None:
        if number == 50:
            time.sleep(0.2)

    with serving(stall_once) as (_, target):
        open_loop, closed = load.open_loop(target, 200, 2, seed=4), load.closed_loop(target, 1, 0.5)
    assert open_loop.errors == {} == closed.errors
    # 40 of 400 come while it stalls, and wait 100 ms on average; a client that waits for answers would count one
    assert open_loop.p99_ms > 120 and open_loop.max_ms > 180


def test_errors_are_counted_by_status_and_no_times_of_theirs_count() -> None:
    def refuse_every_fourth(number: int, context: Any) -> None:
        if number % 4 == 0:
            time.sleep(0.02)
            context.abort(grpc.StatusCode.UNAVAILABLE, "queue is full")

    with serving(refuse_every_fourth) as (_, target):
        found = load.closed_loop(target, 1, 0.5)
    assert found.errors == {"UNAVAILABLE": found.sent // 4} and found.answered == found.sent - found.sent // 4
    assert found.p50_ms < 20


def test_a_backlog_that_grows_shows_and_ends_the_sending() -> None:
    with serving(lambda number, context: time.sleep(0.01)) as (_, target):
        found = load.open_loop(target, 200, 1, most_unanswered=1000)
        short = load.open_loop(target, 200, 5, most_unanswered=30)
    assert found.growth_ms > 200 and not found.stopped  # a second's worth of requests, half of which it can do
    assert short.stopped and short.sent < 200 and short.answered == short.sent


def test_a_client_that_is_the_limit_says_so() -> None:
    with serving(at_once) as (_, target):
        found = load.open_loop(target, 100_000, 1, most_unanswered=100_000)
    assert found.client_is_the_limit and found.late > 0.1 and found.stopped and found.sent < 50_000
    assert not replace(found, late=0.005).client_is_the_limit


def test_a_closed_loop_has_so_many_under_way_and_no_more() -> None:
    most, now, lock = [0], [0], threading.Lock()

    class Counting(Server):
        def ModelInfer(self, request: Any, context: Any) -> Any:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.005)
            with lock:
                now[0] -= 1
            return service_pb2.ModelInferResponse()

    with ThreadPoolExecutor(16) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Counting(at_once), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        found = load.closed_loop(load.Target(f"127.0.0.1:{port}", [b""]), 4, 0.5)
        server.stop(None).wait()
    assert most[0] == 4 and found.answered == found.sent > 20 and found.asked_per_s is None


def test_messages_are_what_the_server_reads() -> None:
    with serving(at_once) as (server, target):
        load.closed_loop(replace(target, messages=load.messages("m", "image", [b"a", b"bcd", b"e"], batch=2)), 1, 0.05)
    (sent,) = {request.SerializeToString() for request in server.seen}
    request = service_pb2.ModelInferRequest.FromString(sent)
    assert (request.model_name, request.inputs[0].name, list(request.inputs[0].shape)) == ("m", "image", [2, 1])
    assert request.raw_input_contents[0] == b"\1\0\0\0a\3\0\0\0bcd"
    with pytest.raises(ValueError, match="3 samples make no request of 4"):
        load.messages("m", "image", [b"a"] * 3, batch=4)


def test_what_has_no_end_or_no_server_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = load.Target(f"127.0.0.1:{taken.getsockname()[1]}", [b""])
        for rate, seconds in ((0, 1), (10, 0), (1e6, 10), (float("nan"), 1)):
            with pytest.raises(ValueError, match="requests/s for"):
                load.open_loop(target, rate, seconds)
        with pytest.raises(ValueError, match="0 requests in flight"):
            load.closed_loop(target, 0, 1)
        with pytest.raises(ValueError, match="nobody answers gRPC"):
            load.closed_loop(target, 1, 1)
